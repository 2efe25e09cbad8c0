"""Describe wells in words, or ask questions about them.

python scripts/describe_well.py --model RUN --data PREPARED --plate P --well W --verify true
python scripts/describe_well.py ... --well W --ask "Are the nuclei larger?" --json true
python scripts/describe_well.py ... --well C05,D07,E09 --ask "Which is not like the others?"
python scripts/describe_well.py ... --well C05,D07 --chat true
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
from _answers import answer_wells, see_wells
from _cli import output_paths, parse_config, run_main

from captions.answers import Reply, Seen
from captions.asking import MAX_QUESTION
from captions.cells import slot_deltas
from captions.descriptions import STYLES
from captions.effects import compare_with_controls, measure_effects, share_scale
from captions.facts import measure_facts
from captions.follow_ups import Resolved, Talk, follow, resolve, take_turn
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
MAX_CHAT = 96
"""Wells of a chat, at most."""


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
        metadata={
            "help": "answer questions, a line each, until an empty line; each may go on from the "
            "one before"
        },
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
    if config.chat and len(bank) > MAX_CHAT:
        raise InputError(
            f"--chat is about {MAX_CHAT} wells at most: give --plate and --well; {len(bank)} fit"
        )
    question, bank = _resolve(config, bank)
    shown = {image: _tokens(image, model, whole, bank) for image in config.images}
    imaged = _imaged(config.data, bank)
    measured = _measurements(config.data)
    if config.cells:
        measured |= _with_cells(config.data, whole.wells, bank.wells, measured)
    guesses = _hypotheses(config, model, whole, bank) if config.hypotheses else None

    names = _names(bank)
    asked = [question.asked[name] for name in names]

    def answer(image: str, rows: slice) -> list[Reply]:
        tokens = shown[image][rows]
        return answer_wells(model, processor, tokens, imaged[rows], asked[rows], config.style)

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
    known = {name: measured.get(key) for name, key in zip(names, _keys(bank), strict=True)}
    if config.chat:
        seen = see_wells(model, processor, shown[first], imaged)
        chat(dict(zip(names, seen, strict=True)), known, config)
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
    elif question.compared:
        of_well = dict(zip(names, answer(first, everything), strict=True))
        turn = take_turn(question, {name: of_well[name] for name in question.asked})
        as_json = json.dumps({"question": config.ask} | turn.record(known, config.verify), indent=2)
        print(as_json if config.json else turn.comparison)
    elif config.json:
        found = list(records(first, 0, len(bank)))
        print(json.dumps(found if len(found) > 1 else found[0], indent=2))
    else:
        replies = answer(first, everything)
        for row, (key, reply) in enumerate(zip(_keys(bank), replies, strict=True)):
            _print_reply(f"{key[0]} {key[1]}: ", reply, measured.get(key), config.verify)
            if guesses is not None:
                print(f"  hypothesis, not observed: {guesses[row]['text']}")
        if config.compare:
            described = Resolved(question.asked, compared=True)
            print(take_turn(described, dict(zip(names, replies, strict=True))).comparison)


def chat(
    wells: Mapping[str, Seen],
    measured: Mapping[str, Measurement | None],
    config: DescribeConfig,
) -> None:
    """Answer questions from stdin until an empty line; with `config.json` a line of JSON each."""
    asking = sys.stdin.isatty()
    if asking:
        print("A question a line, which may go on from the one before; an empty line ends.")
    talk = Talk()
    while True:
        if asking:
            print("? ", end="", flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        try:
            turn, talk = follow(talk, line, wells, config.style)
        except InputError as error:  # the next question may be a better one
            print(json.dumps({"question": line, "error": str(error)}) if config.json else error)
            continue
        if config.json:
            print(json.dumps({"question": line} | turn.record(measured, config.verify)))
        elif turn.comparison is not None:
            print(turn.comparison)
        else:
            for well, reply in turn.replies.items():
                name = f"{well}: " if len(wells) > 1 else ""
                _print_reply(name, reply, measured[well], config.verify)


def _print_reply(name: str, reply: Reply, measured: Measurement | None, verified: bool) -> None:
    print(f"{name.rstrip()}\n{reply.text}" if name and "\n" in reply.text else name + reply.text)
    if verified and not reply.by_rule:
        verdicts = verify(reply.answer, measured, reply.confidences)
        print(report_verdicts(reply.answer, measured, verdicts))


def _resolve(config: DescribeConfig, bank: WellBank) -> tuple[Resolved, WellBank]:
    """The question as it is asked of each well, and the wells that it is about."""
    names = _names(bank)
    imaged = dict(zip(names, _imaged(config.data, bank), strict=True))
    question = resolve(Talk(), config.ask, imaged)
    if config.out and question.compared:
        raise InputError("--out writes what is said of each well: ask for a comparison without it")
    rows = [names.index(name) for name in question.asked]
    return question, bank.select(np.isin(np.arange(len(bank)), rows))


def _names(bank: WellBank) -> list[str]:
    """What wells are called: "C05", with their plate where there are several."""
    plates = bank.wells["Metadata_Plate"].nunique()
    return [well if plates == 1 else f"{plate} {well}" for plate, well in _keys(bank)]


def _keys(bank: WellBank) -> list[tuple[str, str]]:
    return list(bank.wells[KEY].itertuples(index=False, name=None))


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
        profiles = share_scale(*(load_profiles(data, normalized=n) for n in (False, True)))
        compared = compare_with_controls(profiles)
        facts, effects = measure_facts(profiles, compared), measure_effects(profiles, compared)
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
