"""Describe wells in words, or ask questions about them.

python scripts/describe_well.py --model RUN --data PREPARED --plate P --well W --verify true
python scripts/describe_well.py ... --well W --ask "Are the nuclei larger?" --json true
python scripts/describe_well.py ... --well W --chat true
python scripts/describe_well.py ... --well C05,D07,E09 --compare true
python scripts/describe_well.py ... --plate P --out descriptions.parquet

Many wells are written part by part: the same command goes on where it was interrupted.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _answers import Reply, answer_wells
from _cli import output_paths, parse_config, run_main

from captions.asking import MAX_QUESTION
from captions.cells import slot_deltas
from captions.comparison import compare
from captions.descriptions import STYLES
from captions.facts import measure_effects, measure_facts
from captions.questions import DESCRIBE
from captions.verification import Measurement, measurements, report_verdicts, verify
from data.cells import measure_stored_cells
from data.errors import InputError
from data.normalize import MEDIAN_TILE, MEDIAN_WELL
from data.resume import write_in_parts
from data.store import load_manifest, load_profiles
from eval.hypotheses import hypothesise, load_annotation
from vlm.adapters import bare, find_model, load_model
from vlm.instruct import well_embeddings, well_tokens
from vlm.lora import Vlm
from vlm.wells import WellBank, blank_wells, open_wells, wrong_controls

IMAGES = ("own", "blank", "wrong_controls", "none")
KEY = ["Metadata_Plate", "Metadata_Well"]


@dataclass
class DescribeConfig:
    """Which wells to describe, with what."""

    model: str = field(metadata={"help": "run or model folder"})
    data: str = field(metadata={"help": "prepared store"})
    plate: str | None = field(default=None, metadata={"help": "barcode; all plates by default"})
    well: str | None = field(
        default=None, metadata={"help": "like B07, or B07,C05; all wells by default"}
    )
    query: str | None = field(default=None, metadata={"help": "pandas query on wells"})
    ask: str = field(
        default=DESCRIBE,
        metadata={"help": f"a question in English, {MAX_QUESTION} characters at most"},
    )
    style: str | None = field(
        default=None, metadata={"help": f"write claims anew as one of: {', '.join(STYLES)}"}
    )
    image: str = field(
        default="own",
        metadata={
            "help": "what is shown of each well: own; blank (nothing); wrong_controls (beside "
            "another plate's controls); none (the mean of the training wells, for all the same): "
            "what is said without looking. Several, like own,blank: the first goes to OUT, each "
            "other to OUT_blank"
        },
    )
    verify: bool = field(
        default=False,
        metadata={"help": "hold each claim against the store's measured effects, say how sure"},
    )
    cells: bool = field(
        default=False,
        metadata={
            "help": "with --verify: also measure the cells of the wells and of controls now "
            "(seconds a well), and say Cliff's delta of each claim"
        },
    )
    hypotheses: bool = field(
        default=False,
        metadata={"help": "say, apart, which targets the nearest training reagents suggest"},
    )
    compare: bool = field(
        default=False,
        metadata={"help": "also say what the wells have in common, and which is unlike the others"},
    )
    chat: bool = field(
        default=False,
        metadata={"help": "answer questions on one well, a line each, until an empty line"},
    )
    json: bool = field(default=False, metadata={"help": "print JSON, with claims and evidence"})
    out: str | None = field(default=None, metadata={"help": "Parquet file for many wells"})

    def __post_init__(self) -> None:
        for image in self.images:
            if image not in IMAGES:
                raise InputError(f"image is {image!r}; expected one of {', '.join(IMAGES)}")
        if len(self.images) > 1 and not self.out:
            raise InputError(f"--image {self.image}: several kinds of images need --out")
        if self.style is not None and self.style not in STYLES:
            raise InputError(f"style is {self.style!r}; expected one of {', '.join(STYLES)}")
        if not self.ask.strip():
            raise InputError("--ask is empty: write a question")
        if len(self.ask) > MAX_QUESTION:
            raise InputError(
                f"--ask has {len(self.ask)} characters, more than {MAX_QUESTION}: ask one thing at "
                "a time"
            )

    @property
    def images(self) -> list[str]:
        """What is shown of each well, one after another."""
        return self.image.split(",")


def main() -> None:
    """Parse, describe, print or write."""
    (config,) = parse_config(DescribeConfig)
    model, processor = load_model(config.model)
    whole = open_wells(config.data, bare(model), processor)
    bank = whole.select(_chosen(config, whole))
    if config.query:
        bank = bank.query(config.query)
    if config.compare and (len(bank) < 2 or config.json or config.out):
        raise InputError(
            f"--compare prints on two wells or more, without --json and --out; {len(bank)} fit"
        )
    if config.chat and len(bank) != 1:
        raise InputError(f"--chat is about one well: give --plate and --well; {len(bank)} fit")
    shown = {image: _tokens(image, model, whole, bank) for image in config.images}
    imaged = _imaged(config.data, bank)
    measured = _measurements(config.data)
    if config.cells:
        measured |= _with_cells(config.data, whole.wells, bank.wells, measured)
    guesses = _hypotheses(config, model, whole, bank) if config.hypotheses else None

    def answer(image: str, rows: slice, question: str = config.ask) -> list[Reply]:
        tokens = shown[image][rows]
        return answer_wells(model, processor, tokens, imaged[rows], question, config.style)

    def records(image: str, start: int, stop: int) -> Iterator[dict]:
        wells = bank.wells[KEY].iloc[start:stop].itertuples(index=False, name=None)
        reference = load_manifest(config.data).reference
        replies = answer(image, slice(start, stop))
        for row, key, reply in zip(range(start, stop), wells, replies, strict=True):
            record = {"plate": key[0], "well": key[1], "question": config.ask}
            record |= reply.record(measured.get(key), config.verify)
            if guesses is not None:
                record["hypothesis"] = guesses[row]
            yield record | {"reference": reference}

    first, everything = config.images[0], slice(0, len(bank))
    if config.chat:
        known = measured.get(_key(bank))
        chat(lambda question: answer(first, everything, question)[0], known, config.verify)
    elif config.out:
        made_from = vars(config) | {"wells": bank.wells[KEY].to_numpy().tolist()}
        made_from |= {"model": _stamps(find_model(config.model))}
        made_from |= {"captions": _stamps(Path(config.data) / "captions")}
        for image, path in output_paths(config.out, config.images).items():
            table = write_in_parts(
                path,
                made_from | {"image": image},
                len(bank),
                lambda *rows, image=image: _table(list(records(image, *rows))),
            )
            print(f"{len(table)} wells described: {path}")
    elif config.json:
        found = list(records(first, 0, len(bank)))
        print(json.dumps(found if len(found) > 1 else found[0], indent=2))
    else:
        wells = list(bank.wells[KEY].itertuples(index=False, name=None))
        replies = answer(first, everything)
        for row, (key, reply) in enumerate(zip(wells, replies, strict=True)):
            print(f"{key[0]} {key[1]}: {reply.text}")
            _print_more(reply, measured.get(key), config.verify)
            if guesses is not None:
                print(f"  hypothesis, not observed: {guesses[row]['text']}")
        if config.compare:
            said = {" ".join(key): reply.text for key, reply in zip(wells, replies, strict=True)}
            print(compare(said))


def chat(answer, measured: Measurement | None, verified: bool) -> None:
    """Answer questions from stdin until an empty line. Each is answered by itself."""
    asking = sys.stdin.isatty()
    if asking:
        print("Each question is answered by itself; an empty line ends.")
    while True:
        if asking:
            print("? ", end="", flush=True)
        question = sys.stdin.readline().strip()
        if not question:
            return
        try:
            reply = answer(question)
        except InputError as error:  # the next question may be a better one
            print(error)
            continue
        print(reply.text)
        _print_more(reply, measured, verified)


def _print_more(reply: Reply, measured: Measurement | None, verified: bool) -> None:
    if verified and not reply.by_rule:
        verdicts = verify(reply.text, measured, reply.confidences)
        print(report_verdicts(reply.text, measured, verdicts))


def _chosen(config: DescribeConfig, bank: WellBank) -> np.ndarray:
    keep = np.ones(len(bank), bool)
    for option, column in (("plate", "Plate"), ("well", "Well")):
        wanted = getattr(config, option)
        if wanted is not None:
            names = wanted.split(",")
            for name in names:
                if not (keep & (bank.wells[f"Metadata_{column}"] == name).to_numpy()).any():
                    raise InputError(f"{config.data}: no well has {option} {name!r}")
            keep &= bank.wells[f"Metadata_{column}"].isin(names).to_numpy()
    return keep


def _key(bank: WellBank) -> tuple[str, str]:
    plate, well = bank.wells[KEY].iloc[0]
    return plate, well


def _tokens(image: str, model: Vlm, whole: WellBank, bank: WellBank) -> torch.Tensor:
    """The tokens of what is shown of each well."""
    if image == "none":
        seen = whole
        if "Metadata_split" in whole.wells and (whole.wells["Metadata_split"] == "train").any():
            seen = whole.query("Metadata_split == 'train'")
        mean = well_tokens(model, seen).mean(dim=0, keepdim=True)
        return mean.expand(len(bank), -1, -1)
    change = {"own": lambda wells: wells, "blank": blank_wells, "wrong_controls": wrong_controls}
    return well_tokens(model, change[image](bank))


def _imaged(data: str, bank: WellBank) -> list[list[str]]:
    """The stains of each well, whatever is shown of it."""
    channels = load_manifest(data).channels
    return [
        [stain for stain, is_there in zip(channels, mask, strict=True) if is_there]
        for mask in bank.channel_mask
    ]


def _measurements(data: str) -> dict[tuple[str, str], Measurement]:
    """What was measured in each well of a store; empty where nothing was."""
    files = [Path(data) / "captions" / f"{name}.parquet" for name in ("facts", "effects")]
    if all(path.is_file() for path in files):
        facts, effects = map(pd.read_parquet, files)
    elif (Path(data) / "profiles_normalized.parquet").is_file():
        profiles = load_profiles(data, normalized=True)
        facts, effects = measure_facts(profiles), measure_effects(profiles)
    else:
        return {}
    return measurements(facts, effects)


def _with_cells(
    data: str,
    wells: pd.DataFrame,
    asked: pd.DataFrame,
    measured: Mapping[tuple[str, str], Measurement],
) -> dict[tuple[str, str], Measurement]:
    """Add Cliff's deltas of single cells, measured now, to the measurements of some wells.

    Against the cells of the plate's controls or, where it is the reference, of the whole data set.
    """
    measure = cache(partial(measure_stored_cells, data))
    of_data_set = load_manifest(data).reference in (MEDIAN_WELL, MEDIAN_TILE)
    reference = wells if of_data_set else wells[wells["Metadata_control_type"] == "negcon"]
    found = {}
    for plate, well in asked[KEY].itertuples(index=False, name=None):
        compared = reference if of_data_set else reference[reference["Metadata_Plate"] == plate]
        if compared.empty:
            raise InputError(f"--cells: plate {plate} has no controls to compare cells with")
        controls = measure(tuple(compared[KEY].itertuples(index=False, name=None)))
        cells = measure(((plate, well),))
        before = measured.get((plate, well), Measurement({}, []))
        found[plate, well] = replace(before, deltas=slot_deltas(cells, controls))
    return found


def _hypotheses(config: DescribeConfig, model: Vlm, whole: WellBank, bank: WellBank) -> list[dict]:
    """What the nearest training reagents suggest for each well."""
    found = hypothesise(
        whole.wells, well_embeddings(model, whole), bank.wells, load_annotation(Path(config.data))
    )
    return [hypothesis.to_json() for hypothesis in found]


def _stamps(folder: Path) -> list:
    """Name, size and time of each file: whether a folder is still what it was."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [[str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


def _table(records: list[dict]) -> pd.DataFrame:
    """Records as rows; what is nested as JSON."""
    table = pd.DataFrame(records)
    nested = {"claims", "measured", "verified", "not_said", "hypothesis"}
    for column in nested & set(table):
        table[column] = table[column].map(json.dumps)
    return table


if __name__ == "__main__":
    run_main(main)
