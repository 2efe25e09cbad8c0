"""Write the texts of a prepared store: facts, prompts and dialogues.

python scripts/build_captions.py --data PREPARED
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from _cli import parse_config, run_main

from captions.dialogues import QUESTIONS_PER_WELL, build_dialogues
from captions.facts import measure_effects, measure_facts
from captions.knowledge import load_knowledge
from captions.prompts import MAX_TOKENS, PROMPT_FIELDS, build_prompts
from data.files import atomic_path
from data.store import load_manifest, load_profiles, load_wells


@dataclass
class CaptionsConfig:
    """Which store to write texts for, and what goes into them."""

    data: str = field(metadata={"help": "prepared store"})
    annotation: str | None = field(
        default=None,
        metadata={
            "help": "folder with refseq_gene_summaries.tsv, ReactomePathways.gmt, "
            "repurposing_drugs_*.txt (each optional); without it the packaged sentences on the "
            "simulated targets are used"
        },
    )
    mask: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"prompt fields to leave empty, of: {', '.join(PROMPT_FIELDS)} "
            "(the plain preset: mechanism function pathway)"
        },
    )
    max_tokens: int = field(
        default=MAX_TOKENS,
        metadata={"help": "longest prompt; fields that do not fit are left out as a whole"},
    )
    questions: float = field(
        default=QUESTIONS_PER_WELL, metadata={"help": "questions a well, on average"}
    )
    seed: int = field(default=0, metadata={"help": "decides which wells are asked what"})


def main() -> None:
    """Parse, build the tables, save them and print what they cover."""
    (options,) = parse_config(CaptionsConfig)
    manifest = load_manifest(options.data)
    wells = load_wells(options.data)
    profiles = load_profiles(options.data, normalized=True)
    facts, effects = measure_facts(profiles), measure_effects(profiles)
    knowledge = load_knowledge(Path(options.annotation) if options.annotation else None)
    prompts = build_prompts(wells, knowledge, options.mask, options.max_tokens)
    channels_present = {
        barcode: [
            stain
            for stain, present in zip(manifest.channels, plate["channels_present"], strict=True)
            if present
        ]
        for barcode, plate in manifest.plates.items()
    }
    dialogues = build_dialogues(wells, facts, channels_present, options.seed, options.questions)

    folder = Path(options.data) / "captions"
    tables = {"facts": facts, "effects": effects, "prompts": prompts, "dialogues": dialogues}
    for name, table in tables.items():
        with atomic_path(folder / f"{name}.parquet") as path:
            table.to_parquet(path, index=False)
    print(coverage(wells, facts, prompts, dialogues).to_string(header=False))
    print(f"wrote {', '.join(f'{name}.parquet' for name in tables)} to {folder}")


def coverage(
    wells: pd.DataFrame, facts: pd.DataFrame, prompts: pd.DataFrame, dialogues: pd.DataFrame
) -> "pd.Series[str]":
    """Return a small table of counts: wells with facts, prompts with each field, dialogues."""
    key = ["Metadata_Plate", "Metadata_Well"]
    changed = pd.MultiIndex.from_frame(facts[key].drop_duplicates())
    has_fact = pd.MultiIndex.from_frame(wells[key]).isin(changed)
    is_control = (wells["Metadata_control_type"] == "negcon").to_numpy()
    treated, controls = has_fact[~is_control], has_fact[is_control]
    table = {
        "facts": str(len(facts)),
        "treated wells with a fact": f"{treated.sum()} of {len(treated)}",
        "control wells with a fact": f"{controls.sum()} of {len(controls)}",
        "prompts": str(len(prompts)),
    }
    for name in PROMPT_FIELDS:
        texts = [text for text in zip(prompts[name], prompts["prompt"], strict=True) if text[0]]
        said = sum(text in prompt for text, prompt in texts)
        table[f"prompts with {name}"] = f"{said} of {len(texts)} known"
    for kind, count in dialogues["kind"].value_counts().items():
        table[f"dialogues: {kind}s"] = str(count)
    return pd.Series(table)


if __name__ == "__main__":
    run_main(main)
