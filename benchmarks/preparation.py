"""How fast plates are prepared and read again, against bare loops, and with how much memory.

python benchmarks/preparation.py --wells 384 --sites 9 --repeats 3

The plate is made of links to the five fluorescence files of one real JUMP field (5 x 1080 x 1080,
LZW), so that every file is in the page cache and processors are what is measured. All arms of a
comparison take turns, `--repeats` times; medians are printed.

- Preparing (without measuring cells) against a loop that only decodes and shrinks the same files
  with the same functions, both in two processes. Preparing has the estimates of illumination and
  intensities, correction, quality, the Arrow shard and its checksum on top. Starting the worker
  processes counts in both.
- Reading prepared wells in random order, against reading the same wells' files (and shrinking
  them), and against copying the same bytes out of a memory-mapped NumPy file.
- Peak memory of all processes (proportional set size) preparing 1 and 20 plates.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from data.parallel import ordered_map
from data.plates import read_plates
from data.prepare import PrepareSettings, prepare
from data.raw import Plate, Site
from data.resize import resize_area
from data.store import load_sites, read_pixels, site_table

ROOT = Path(__file__).resolve().parent.parent

SIZE = 256


def link_plates(field: Path, folder: Path, plates: int, wells: int, sites: int) -> None:
    """Write plates in JUMP's layout whose images are links to one field's ch1 to ch5."""
    for name in ("platemaps", "metadata"):
        (folder / name).mkdir(parents=True)
    stains = ["Mito", "AGP", "RNA", "ER", "DNA"]
    channels = pd.DataFrame({"channel": [f"ch{n}" for n in range(1, 6)], "stain": stains})
    channels.to_csv(folder / "channels.tsv", sep="\t", index=False)
    names = [f"{chr(65 + n // 24)}{n % 24 + 1:02d}" for n in range(wells)]
    reagents = ["" if n % 6 == 0 else f"R{n}" for n in range(wells)]  # as many DMSO as in JUMP
    platemap = pd.DataFrame({"well_position": names, "broad_sample": reagents})
    platemap.to_csv(folder / "platemaps/map.tsv", sep="\t", index=False)
    known = sorted({name for name in reagents if name})
    table = pd.DataFrame({"broad_sample": [*known, ""], "pert_iname": [*known, "DMSO"]})
    table["pert_type"] = "trt"
    table["control_type"] = ["negcon" if name == "DMSO" else "" for name in table["pert_iname"]]
    table.to_csv(folder / "metadata/compound_metadata.tsv", sep="\t", index=False)
    experiment = pd.DataFrame({"Assay_Plate_Barcode": [f"P{n:02d}" for n in range(plates)]})
    experiment = experiment.assign(
        Plate_Map_Name="map", Perturbation="compound", Cell_type="U2OS", Time=48
    )
    experiment.to_csv(folder / "experiment-metadata.tsv", sep="\t", index=False)
    for barcode in experiment["Assay_Plate_Barcode"]:
        images = folder / "images" / barcode
        images.mkdir(parents=True)
        for well in names:
            for site in range(1, sites + 1):
                for channel in range(1, 6):
                    end = f"p01-ch{channel}sk1fk1fl1.tiff"
                    name = f"r{ord(well[0]) - 64:02d}c{int(well[1:]):02d}f{site:02d}{end}"
                    (images / name).symlink_to(field / f"r01c01f01{end}")


def bare_loop(share: tuple[Plate, Sequence[Site]]) -> int:
    """Decode and shrink; nothing is kept."""
    plate, sites = share
    return sum(resize_area(plate.read(site), SIZE).shape[0] for site in sites)


def run_bare(plates: list[Plate], processes: int) -> None:
    """Divide the sites evenly among processes that do nothing but the bare loop."""
    with ordered_map(processes) as mapped:
        shares = [(p, p.sites[part::processes]) for p in plates for part in range(processes)]
        list(mapped(bare_loop, shares))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall seconds, and processor seconds of this process and all below it."""
    seen: dict[int, float] = {}
    done = threading.Event()

    def watch() -> None:  # worker processes are a fork server's: their times are not added to ours
        while not done.wait(0.2):
            _note_processor_seconds(seen)

    _note_processor_seconds(seen)
    before, start = dict(seen), time.perf_counter()
    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    wall = time.perf_counter() - start
    done.set()
    watcher.join()
    _note_processor_seconds(seen)
    return wall, sum(seconds - before.get(pid, 0.0) for pid, seconds in seen.items())


def _note_processor_seconds(seen: dict[int, float]) -> None:
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seen[process.pid] = times.user + times.system


def measure_preparing(
    plates: list[Plate], folder: Path, processes: int, repeats: int
) -> dict[str, float]:
    """Prepare and run the bare loop in turns."""
    sites = sum(len(plate.sites) for plate in plates)
    settings = PrepareSettings(size=SIZE, measure=False, processes=processes)
    bare, full, busy = [], [], []
    for number in range(repeats):
        bare.append(timed(lambda: run_bare(plates, processes))[0])
        out = folder / f"store{number}"
        wall, processor = timed(lambda out=out: prepare(plates, out, settings, source="plates"))
        full.append(wall)
        busy.append(processor / wall / processes)
    return {
        "bare_sites_a_second": sites / statistics.median(bare),
        "prepare_sites_a_second": sites / statistics.median(full),
        "prepare_to_bare": statistics.median(b / f for b, f in zip(bare, full, strict=True)),
        "share_of_processors_busy": statistics.median(busy),
    }


def drain(wells: Iterable[np.ndarray]) -> None:
    """Read wells one after the other and keep none, as training does."""
    deque(wells, maxlen=0)


def measure_reading(plates: list[Plate], store: Path, repeats: int) -> dict[str, float]:
    """Read random wells: prepared, as files, and as bytes of a memory-mapped array."""
    dataset = load_sites(store)
    table = site_table(dataset)
    wells = list(table.groupby(["Metadata_Plate", "Metadata_Well"]).indices.values())
    shape = (len(dataset), len(plates[0].channels), SIZE, SIZE)
    copy = store.parent / "pixels.npy"
    mapped = np.lib.format.open_memmap(copy, "w+", np.uint16, shape)
    for row in range(len(dataset)):
        mapped[row] = dataset[row]["pixels"]
    mapped.flush()
    mapped = np.lib.format.open_memmap(copy, "r")
    rng = np.random.default_rng(0)
    by_key = {(p.barcode, s.well, s.number): (p, s) for p in plates for s in p.sites}
    keys = list(
        table[["Metadata_Plate", "Metadata_Well", "Metadata_Site"]].itertuples(
            index=False, name=None
        )
    )
    prepared, files, arrays = [], [], []
    for _ in range(repeats):
        order = [wells[n] for n in rng.permutation(len(wells))]
        few = order[: max(2, 40 // len(order[0]))]
        prepared.append(
            timed(lambda o=order: drain(read_pixels(dataset, rows) for rows in o))[0] / len(order)
        )
        arrays.append(timed(lambda o=order: drain(mapped[rows] for rows in o))[0] / len(order))
        files.append(
            timed(
                lambda o=few: drain(
                    np.stack(
                        [
                            resize_area(by_key[keys[r]][0].read(by_key[keys[r]][1]), SIZE)
                            for r in rows
                        ]
                    )
                    for rows in o
                )
            )[0]
            / len(few)
        )
    copy.unlink()
    return {
        "prepared_wells_a_second": 1 / statistics.median(prepared),
        "times_faster_than_files": statistics.median(
            f / p for f, p in zip(files, prepared, strict=True)
        ),
        "time_to_copying_memory_map": statistics.median(
            p / a for p, a in zip(prepared, arrays, strict=True)
        ),
    }


def measure_memory(field: Path, plates: int, folder: Path) -> float:
    """Prepare plates in a process of its own; return the peak of its tree in GB."""
    link_plates(field, folder / "raw", plates, 24, 2)
    command = [sys.executable, __file__, "--prepare", str(folder / "raw"), str(folder / "store")]
    run = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    peak = 0.0
    while run.poll() is None:
        total = 0
        try:
            tree = psutil.Process(run.pid)
            for process in (tree, *tree.children(recursive=True)):
                total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
        peak = max(peak, total / 1e9)
        time.sleep(0.2)
    assert run.returncode == 0
    return peak


def main() -> None:
    """Measure and print; `--out` keeps the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wells", type=int, default=96)
    parser.add_argument("--sites", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--memory", type=int, default=20, help="plates; 0 leaves this part out")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--prepare", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.prepare:
        raw, store = flags.prepare
        prepare(read_plates(raw), store, PrepareSettings(size=SIZE, measure=False), source="plates")
        return
    shared = Path(os.environ.get("MORPHOCLIP_SHARED", ROOT.parent / "shared"))
    field = shared / "data/jump_fields/BR00117035_A01/images"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        link_plates(field, folder / "raw", 1, flags.wells, flags.sites)
        plates = read_plates(folder / "raw")
        numbers = measure_preparing(plates, folder, flags.processes, flags.repeats)
        numbers |= measure_reading(plates, folder / "store0", flags.repeats)
        for plate_count in {1, flags.memory} - {0} if flags.memory else ():
            (folder / f"memory{plate_count}").mkdir()
            numbers[f"peak_gb_{plate_count}_plates"] = measure_memory(
                field, plate_count, folder / f"memory{plate_count}"
            )
    print(json.dumps(numbers, indent=1))
    if flags.out:
        flags.out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
