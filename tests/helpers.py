"""A tiny JUMP-style TIFF plate, written with numpy alone, and a store made from it."""

from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

from data.plates import read_plates
from data.prepare import PrepareSettings, prepare
from data.store import Manifest

CHANNEL_FILES = {"ch1": "Mito", "ch2": "AGP", "ch3": "RNA", "ch4": "ER", "ch5": "DNA"}

COMPOUNDS = {
    "A01": "",  # JUMP leaves broad_sample of DMSO wells empty
    "A02": "BRD-1",
    "A03": "",
    "B01": "BRD-2",
    "B02": "BRD-1",
    "B03": "",
    "C01": "BRD-3",
    "C02": "",
}
GUIDES = {"A01": "NT-1", "A02": "G-1", "A03": "NT-2", "B01": "G-2", "B02": "", "B03": "NT-1"}


def draw_site(rng: np.random.Generator, size: int = 96, cells: int = 9) -> NDArray[np.uint16]:
    """Draw five planes (Mito, AGP, RNA, ER, DNA): nuclei with wider, dimmer cytoplasm."""
    rows, columns = np.mgrid[:size, :size]
    planes = np.zeros((5, size, size))
    for _ in range(cells):
        y, x = rng.uniform(-15, size + 15, 2)  # some are cut by the border, as in any field
        distance = np.hypot(rows - y, columns - x) / rng.uniform(0.9, 1.1)
        brightness = rng.uniform(0.8, 1.2, 5)[:, None, None]
        cytoplasm = np.exp(-((distance / 12) ** 2))
        nucleus = 1 / (1 + np.exp(distance - 7))
        planes += brightness * np.stack([*[cytoplasm] * 4, nucleus]) * 4000
    noise = rng.normal(0, 30, planes.shape)
    return np.clip(planes + 300 + noise, 0, 65535).astype(np.uint16)


def write_tiff_plate(
    folder: Path,
    barcode: str = "P1",
    modality: str = "compound",
    wells: dict[str, str] | None = None,
    sites: int = 2,
    size: int = 96,
    seed: int = 0,
) -> Path:
    """Add one plate to a raw folder (JUMP layout); return the folder."""
    wells = wells or (COMPOUNDS if modality == "compound" else GUIDES)
    platemap = f"{modality}_map"
    for name in ("platemaps", "metadata", f"images/{barcode}"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _write_tables(folder, modality)
    pd.DataFrame({"well_position": wells.keys(), "broad_sample": wells.values()}).to_csv(
        folder / "platemaps" / f"{platemap}.tsv", sep="\t", index=False
    )
    line = {
        "Batch": "B", "Plate_Map_Name": platemap, "Assay_Plate_Barcode": barcode,
        "Perturbation": modality, "Cell_type": "U2OS", "Time": 48, "Simulated": "simulated",
    }  # fmt: skip
    path = folder / "experiment-metadata.tsv"
    table = pd.read_csv(path, sep="\t") if path.exists() else pd.DataFrame()
    pd.concat([table, pd.DataFrame([line])]).to_csv(path, sep="\t", index=False)
    rng = np.random.default_rng(seed)
    for well in wells:
        row, column = ord(well[0]) - ord("A") + 1, int(well[1:])
        for site in range(1, sites + 1):
            for channel, plane in zip(CHANNEL_FILES, draw_site(rng, size), strict=True):
                name = f"r{row:02d}c{column:02d}f{site:02d}p01-{channel}sk1fk1fl1.tiff"
                tifffile.imwrite(folder / "images" / barcode / name, plane)
    return folder


def write_tiny_store(raw: Path, out: Path, **settings: object) -> Manifest:
    """Prepare a raw folder in this process; 48 pixels and measured unless told otherwise."""
    chosen = {"size": 48, "processes": 1, **settings}
    return prepare(read_plates(raw), out, PrepareSettings(**chosen), source="plates")  # type: ignore[arg-type]


def _write_tables(folder: Path, modality: str) -> None:
    channels = pd.DataFrame({"channel": CHANNEL_FILES.keys(), "stain": CHANNEL_FILES.values()})
    channels.to_csv(folder / "channels.tsv", sep="\t", index=False)
    if modality == "compound":
        columns = [
            "broad_sample",
            "pert_iname",
            "target_list",
            "pert_type",
            "control_type",
            "smiles",
        ]
        rows = [
            ("BRD-1", "nocodazole", "TUBB|TUBB4B", "trt", "NA", "CCO"),
            ("BRD-2", "barasertib", "AURKB", "control", "poscon_cp", "CCN"),
            ("BRD-3", "nothing", "", "trt", "NA", "C"),
            ("NA", "DMSO", "NA", "control", "negcon", "CS(C)=O"),
        ]
    else:
        columns = ["broad_sample", "gene", "pert_type", "control_type"]
        rows = [
            ("G-1", "TUBB", "trt", ""),
            ("G-2", "AURKB", "control", "poscon_diverse"),
            ("NT-1", "", "control", "negcon"),
            ("NT-2", "", "control", "negcon"),
        ]
    reagents = pd.DataFrame(rows, columns=columns)
    reagents.to_csv(folder / "metadata" / f"{modality}_metadata.tsv", sep="\t", index=False)
