"""Write the texts of a prepared store: facts, prompts and dialogues.

python scripts/build_captions.py --data PREPARED --annotation FOLDER

What it could not find or fit is counted on the screen and in PREPARED/captions/report.json.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from _cli import parse_config, run_main

from captions.dialogues import QUESTIONS_PER_WELL, build_dialogues, guess_without_looking
from captions.effects import compare_with_controls, measure_effects, measure_shifts, share_scale
from captions.facts import measure_facts
from captions.knowledge import Knowledge, describe_reagents, load_knowledge
from captions.knowledge.drugbank import find_drugbank, read_full
from captions.knowledge.tables import split_list
from captions.knowledge.uniprot import ask_uniprot
from captions.mentions import TermIndex, held_out_terms
from captions.prompts import MAX_TOKENS, PRESETS, PROMPT_FIELDS, build_prompts
from data.errors import InputError
from data.files import atomic_path
from data.splits import unseen_targets
from data.store import load_manifest, load_profiles, load_wells


@dataclass
class CaptionsConfig:
    """Which store to write texts for, and what goes into them."""

    data: str = field(metadata={"help": "prepared store"})
    annotation: str | None = field(
        default=None,
        metadata={
            "help": "folder with annotation tables, each optional (docs/prompts.md lists them); "
            "without it the packaged sentences on the simulated targets are used"
        },
    )
    drugbank: str | None = field(
        default=None,
        metadata={
            "help": "DrugBank's full XML or its zip; or a release (5.1.13), downloaded with your "
            "DRUGBANK_USERNAME and DRUGBANK_PASSWORD"
        },
    )
    uniprot_cache: str | None = field(
        default=None,
        metadata={
            "help": "ask UniProt about the store's genes and keep its answers in this folder"
        },
    )
    preset: str = field(
        default="enriched",
        metadata={"help": f"how prompts are written: {' or '.join(PRESETS)} (as CellCLIP's)"},
    )
    mask: list[str] = field(
        default_factory=list,
        metadata={"help": f"prompt fields to leave empty, of: {', '.join(PROMPT_FIELDS)}"},
    )
    max_tokens: int = field(
        default=MAX_TOKENS,
        metadata={"help": "longest prompt; fields that do not fit are left out as a whole"},
    )
    mask_held_out: bool = field(
        default=True,
        metadata={"help": "empty the fields of training prompts that mention a held-out target"},
    )
    clean_smiles: bool = field(
        default=True, metadata={"help": "strip salts, write canonical SMILES (needs RDKit)"}
    )
    strict: bool = field(
        default=False, metadata={"help": "stop when anything is unknown, refused or left out"}
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
    profiles = share_scale(*(load_profiles(options.data, normalized=n) for n in (False, True)))
    compared = compare_with_controls(profiles)
    facts, effects = measure_facts(profiles, compared), measure_effects(profiles, compared)
    shifts = measure_shifts(profiles, compared)
    knowledge = gather_knowledge(options, wells)
    reagents, unknown = describe_reagents(wells, knowledge, options.clean_smiles)
    genes = knowledge.look_up_genes(listed_targets(wells))
    held_out = None
    if options.mask_held_out and "Metadata_split" in wells:
        held_out = TermIndex(held_out_terms(unseen_targets(wells), reagents, genes))
    prompts, unfit = build_prompts(
        wells,
        reagents,
        genes,
        preset=options.preset,
        mask=options.mask,
        max_tokens=options.max_tokens,
        held_out=held_out,
    )
    problems = knowledge.problems | unknown | unfit
    if options.strict and problems:
        shown = [f"{name}: {len(found)} ({found[0]})" for name, found in problems.items()]
        raise InputError(f"strict: {'; '.join(shown)}; mend the tables, or leave out --strict")
    imaged = {barcode: manifest.imaged_stains(barcode) for barcode in manifest.plates}
    dialogues = build_dialogues(wells, facts, imaged, options.seed, options.questions)

    folder = Path(options.data) / "captions"
    tables = {
        "facts": facts,
        "effects": effects,
        "shifts": shifts,
        "prompts": prompts,
        "dialogues": dialogues,
        "reagents": reagents,
        "genes": genes,
    }
    for name, table in tables.items():
        with atomic_path(folder / f"{name}.parquet") as path:
            table.to_parquet(path, index=name == "genes")
    counts = coverage(wells, facts, prompts, dialogues)
    report = {
        "coverage": counts.to_dict(),
        "problems": {n: {"count": len(found), "which": found} for n, found in problems.items()},
        "sources": knowledge.sources.to_dict("index"),
    }
    with atomic_path(folder / "report.json") as path:
        path.write_text(json.dumps(report, indent=2))
    print(counts.to_string(header=False))
    print_problems(problems)
    print(f"wrote {', '.join(f'{name}.parquet' for name in tables)} and report.json to {folder}")


def gather_knowledge(options: CaptionsConfig, wells: pd.DataFrame) -> Knowledge:
    """Load the annotation folder and what else the options name."""
    more = [read_full(find_drugbank(options.drugbank))] if options.drugbank else []
    if options.uniprot_cache:
        more.append(ask_uniprot(listed_targets(wells), Path(options.uniprot_cache)))
    return load_knowledge(Path(options.annotation) if options.annotation else None, more)


def listed_targets(wells: pd.DataFrame) -> set[str]:
    """Name all targets of a store's reagents."""
    return set(wells["Metadata_target_list"].map(split_list).explode().dropna())


def print_problems(problems: Mapping[str, list[str]]) -> None:
    """Print a line a problem: its name, how many, and the first three."""
    for name, found in problems.items():
        more = ", ..." if len(found) > 3 else ""
        print(f"notice: {name} ({len(found)}): {', '.join(found[:3])}{more}")


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
        said = sum(name in fields.split("|") for fields in prompts["Metadata_prompt_fields"])
        table[f"prompts with {name}"] = f"{said} of {(prompts[name] != '').sum()} known"
    for kind, count in dialogues["kind"].value_counts().items():
        table[f"dialogues: {kind}s"] = str(count)
    guessed = guess_without_looking(dialogues)["answerable"]
    table["questions that a guess answers"] = f"{guessed.sum()} of {len(guessed)}"
    return pd.Series(table)


if __name__ == "__main__":
    run_main(main)
