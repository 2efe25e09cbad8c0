"""Write the texts of a prepared store: facts, prompts and dialogues.

python scripts/build_captions.py --data PREPARED
"""

import argparse
from pathlib import Path

import pandas as pd
from _cli import run_main

from captions.dialogues import QUESTIONS_PER_WELL, build_dialogues
from captions.facts import measure_effects, measure_facts
from captions.knowledge import load_knowledge
from captions.prompts import MAX_TOKENS, PROMPT_FIELDS, build_prompts
from data.files import atomic_path
from data.store import load_manifest, load_profiles, load_wells


def main() -> None:
    """Parse, build the three tables, save them and print what they cover."""
    parser = argparse.ArgumentParser(
        description="Measured features into facts and dialogues, and knowledge into prompts:"
        " writes facts, effects, prompts and dialogues.parquet into captions/."
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder made by scripts/prepare_data.py"
    )
    parser.add_argument(
        "--annotation",
        type=Path,
        help="folder with refseq_gene_summaries.tsv, ReactomePathways.gmt, repurposing_drugs_*.txt"
        " (each optional); without it the packaged sentences on the simulated targets are used",
    )
    parser.add_argument(
        "--mask",
        nargs="+",
        default=[],
        metavar="FIELD",
        help=f"prompt fields to leave empty, of: {', '.join(PROMPT_FIELDS)}"
        " (the plain preset: mechanism function pathway)",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=MAX_TOKENS,
        help="longest prompt; fields that do not fit are left out as a whole (default %(default)s)",
    )
    parser.add_argument(
        "--questions",
        type=int,
        default=QUESTIONS_PER_WELL,
        help="questions a well, on average (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    options = parser.parse_args()

    manifest = load_manifest(options.data)
    wells = load_wells(options.data)
    profiles = load_profiles(options.data, normalized=True)
    facts, effects = measure_facts(profiles), measure_effects(profiles)
    knowledge = load_knowledge(options.annotation)
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

    folder = options.data / "captions"
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
    for field in PROMPT_FIELDS:
        texts = [text for text in zip(prompts[field], prompts["prompt"], strict=True) if text[0]]
        said = sum(text in prompt for text, prompt in texts)
        table[f"prompts with {field}"] = f"{said} of {len(texts)} known"
    for kind, count in dialogues["kind"].value_counts().items():
        table[f"dialogues: {kind}s"] = str(count)
    return pd.Series(table)


if __name__ == "__main__":
    run_main(main)
