"""Describe wells in words, or ask a question about them.

python scripts/describe_well.py --model RUN --data PREPARED --plate P --well W
python scripts/describe_well.py ... --well W --ask "What changed in Mito?" --json
python scripts/describe_well.py ... --plate P --out descriptions.parquet
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from _cli import parse_config, run_main

from captions.descriptions import parse_description
from captions.facts import facts_by_well
from captions.questions import DESCRIBE
from data.errors import InputError
from data.files import atomic_path
from data.store import load_manifest
from vlm.adapters import bare, load_model
from vlm.describe import describe
from vlm.instruct import well_tokens
from vlm.wells import WellBank, blank_wells, open_wells


@dataclass
class DescribeConfig:
    """Which wells to describe, with what."""

    model: str = field(metadata={"help": "run or model folder"})
    data: str = field(metadata={"help": "prepared store"})
    plate: str | None = field(default=None, metadata={"help": "barcode; all plates by default"})
    well: str | None = field(default=None, metadata={"help": "like B07; all wells by default"})
    query: str | None = field(default=None, metadata={"help": "pandas query on wells"})
    ask: str = field(default=DESCRIBE, metadata={"help": "the question"})
    blank: bool = field(
        default=False, metadata={"help": "show a black image instead: what is said without looking"}
    )
    json: bool = field(default=False, metadata={"help": "print JSON, with claims and evidence"})
    out: str | None = field(default=None, metadata={"help": "Parquet file for many wells"})


def main() -> None:
    """Parse, describe, print or write."""
    (config,) = parse_config(DescribeConfig)
    if not config.ask.strip():
        raise InputError("--ask is empty: write a question")
    model, processor = load_model(config.model)
    bank = open_wells(config.data, bare(model), processor)
    bank = bank.select(_chosen(config, bank))
    if config.query:
        bank = bank.query(config.query)
    if config.blank:
        bank = blank_wells(bank)
    answers = describe(model, processor, well_tokens(model, bank), config.ask)
    records = _records(config, bank, answers)
    if config.out:
        table = pd.DataFrame(records)
        for column in ("claims", "measured"):
            table[column] = table[column].map(json.dumps)
        with atomic_path(config.out) as path:
            table.to_parquet(path, index=False)
        print(f"{len(table)} wells described: {Path(config.out)}")
    elif config.json:
        print(json.dumps(records if len(records) > 1 else records[0], indent=2))
    else:
        for record in records:
            print(f"{record['plate']} {record['well']}: {record['answer']}")


def _chosen(config: DescribeConfig, bank: WellBank) -> np.ndarray:
    keep = np.ones(len(bank), bool)
    for option, column in (("plate", "Plate"), ("well", "Well")):
        wanted = getattr(config, option)
        if wanted is not None:
            keep &= (bank.wells[f"Metadata_{column}"] == wanted).to_numpy()
            if not keep.any():
                raise InputError(f"{config.data}: no well has {option} {wanted!r}")
    return keep


def _records(config: DescribeConfig, bank: WellBank, answers: list[str]) -> list[dict]:
    """One JSON-able record a well: the answer, its claims, and what was measured."""
    facts_file = Path(config.data) / "captions" / "facts.parquet"
    facts = facts_by_well(pd.read_parquet(facts_file)) if facts_file.is_file() else None
    reference = load_manifest(config.data).reference
    records = []
    for row, answer in zip(bank.wells.to_dict("records"), answers, strict=True):
        plate, well = row["Metadata_Plate"], row["Metadata_Well"]
        measured = None if facts is None else [vars(fact) for fact in facts.get((plate, well), [])]
        records.append(
            {
                "plate": plate,
                "well": well,
                "question": config.ask,
                "answer": answer,
                "claims": [claim._asdict() for claim in sorted(parse_description(answer))],
                "measured": measured,
                "reference": reference,
            }
        )
    return records


if __name__ == "__main__":
    run_main(main)
