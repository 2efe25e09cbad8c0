"""The leak audit: nothing that is evaluated as unseen may stand in what was trained on."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from captions.knowledge import Knowledge, describe_reagents
from captions.knowledge.reagents import BLOCK
from captions.knowledge.structures import rdkit_is_installed
from captions.mentions import TermIndex, held_out_terms
from data.errors import InputError

LEAK_KINDS = ("gene", "label", "reagent", "structure", "mechanism")
"""How a held-out target can leak.

gene : its symbol, an older one or a name of its protein stands in a training text
label : it is a label of a training well
reagent : one of its reagents was trained on (or the same compound under another number), or a
    name of it stands in a training text
structure : so does its SMILES
mechanism : so does a mechanism of one of its reagents
"""

LEAK_COLUMNS = ("target", "kind", "term", "count", "example")

TRAINING_TEXT = "training_text.parquet"
"""What a run was trained on, in the run folder; `collect_training_text` makes it."""


def collect_training_text(
    wells: pd.DataFrame,
    prompts: pd.DataFrame,
    dialogues: pd.DataFrame,
    reagents: pd.DataFrame,
    label_column: str = "Metadata_target_list",
) -> pd.DataFrame:
    """Collect all text and labels that training on some wells sees.

    Parameters
    ----------
    wells : DataFrame
        The training wells, with Metadata_Plate, Metadata_Well, Metadata_broad_sample and
        `label_column`.
    prompts, dialogues, reagents : DataFrame
        The tables of the prepared store's captions.
    label_column : str
        What phase align brings together.

    Returns
    -------
    DataFrame
        `text`, each once; for prompts also Metadata_broad_sample, Metadata_modality, Metadata_label
        ("A|B") and Metadata_InChIKey of the reagent. Metadata_split is "train" everywhere.
    """
    labels = wells.drop_duplicates("Metadata_broad_sample")
    labels = labels[["Metadata_broad_sample", label_column]].set_axis(
        ["Metadata_broad_sample", "Metadata_label"], axis=1
    )
    keys = reagents[["Metadata_broad_sample", "inchikey"]].rename(
        columns={"inchikey": "Metadata_InChIKey"}
    )
    columns = ["Metadata_broad_sample", "Metadata_modality", "prompt"]
    said = labels.merge(prompts[columns], how="left").merge(keys, how="left")
    asked = dialogues.merge(wells[["Metadata_Plate", "Metadata_Well"]])
    spoken = (asked["question"] + " " + asked["answer"]).drop_duplicates()
    parts = [said.rename(columns={"prompt": "text"}), pd.DataFrame({"text": spoken})]
    return pd.concat(parts, ignore_index=True).fillna("").assign(Metadata_split="train")


def load_training_text(run: Path) -> pd.DataFrame:
    """Read what a run was trained on.

    Raises
    ------
    InputError
        When the run has no such record.
    """
    path = run / TRAINING_TEXT
    if not path.is_file():
        raise InputError(
            f"{path} is missing: without a record of what was trained on, no target can be called"
            " held out; train again, scripts/train_lora.py writes it"
        )
    return pd.read_parquet(path)


def load_described(data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the reagents and genes that a prepared store's captions were written from.

    Raises
    ------
    InputError
        When one of the tables is missing.
    """
    tables = []
    for name in ("reagents", "genes"):
        path = data / "captions" / f"{name}.parquet"
        if not path.is_file():
            raise InputError(f"{path} is missing: run scripts/build_captions.py --data {data}")
        tables.append(pd.read_parquet(path))
    return tables[0], tables[1]


def describe_evaluated(wells: pd.DataFrame, knowledge: Knowledge) -> pd.DataFrame:
    """Describe the reagents of evaluated wells for the audit: names, structures, mechanisms."""
    return describe_reagents(wells, knowledge, clean_smiles=rdkit_is_installed()).table


def find_leaks(
    training: pd.DataFrame,
    targets: Collection[str],
    reagents: pd.DataFrame,
    genes: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Find what gives held-out targets away.

    Parameters
    ----------
    training : DataFrame
        One row a reagent or dialogue: Metadata_split ("train" rows were trained on); every other
        column of text not named Metadata_... is searched (see `captions.mentions` for how). Where
        there, Metadata_broad_sample, Metadata_InChIKey, Metadata_label and Metadata_target_list
        are compared as well, but for negative controls.
    targets : collection of str
        Those that are evaluated as held out.
    reagents : DataFrame
        Evaluated reagents, see `captions.mentions.held_out_terms`.
    genes : DataFrame, optional
        From `Knowledge.look_up_genes`: without it only symbols are known, no synonyms.

    Returns
    -------
    DataFrame
        `LEAK_COLUMNS`, one row a target, kind and term: in how many training rows, and one of
        them. Targets that do not leak are not in it.

    Raises
    ------
    InputError
        When Metadata_split is missing, no row is training text, or there is no text column.
    """
    if "Metadata_split" not in training:
        raise InputError("training captions: column Metadata_split is missing")
    trained = training[training["Metadata_split"] == "train"]
    if trained.empty:
        raise InputError('training captions: no row has Metadata_split "train"')
    texts = trained.loc[:, ~trained.columns.str.startswith("Metadata_")].select_dtypes("object")
    if not texts.shape[1]:
        raise InputError("training captions: no column of text")
    index = TermIndex(held_out_terms(targets, reagents, genes))
    found = [
        (term.label, term.kind, term.text, text)
        for text in texts.fillna("").astype(str).agg(" ".join, axis=1)
        for term in index.find(text)
    ]
    found += _trained_labels(trained, targets) + _trained_reagents(trained, targets, reagents)
    table = pd.DataFrame(found, columns=["target", "kind", "term", "example"])
    by = ["target", "kind", "term"]
    counted = table.groupby(by, sort=True)["example"].agg(["size", "first"]).reset_index()
    return counted.set_axis(list(LEAK_COLUMNS), axis=1)


def refuse_leaks(
    leaks: pd.DataFrame, targets: Collection[str], accepted: Collection[str] = (), advice: str = ""
) -> None:
    """Raise when held-out targets leak.

    Parameters
    ----------
    leaks : DataFrame
        From `find_leaks`.
    targets : collection of str
        All that are evaluated as held out.
    accepted : collection of str
        Kinds of leaks that do not count.
    advice : str
        What else the user can do.

    Raises
    ------
    InputError
        Naming the targets, each with its first leak.
    """
    counted = leaks[~leaks["kind"].isin(list(accepted))]
    if counted.empty:
        return
    first = counted.drop_duplicates("target")
    named = [f"{row.target} ({row.kind} {row.term})" for row in first.itertuples()]
    shown = ", ".join(named[:5]) + (", ..." if len(named) > 5 else "")
    raise InputError(
        f"{len(named)} of {len(targets)} held-out targets are known from training: {shown}. See"
        " scripts/audit_leakage.py; build captions with mask_held_out and train again" + advice
    )


def summarize_leaks(leaks: pd.DataFrame, targets: Collection[str]) -> pd.DataFrame:
    """One row a held-out target: how many terms of each kind leak, and whether it is clean."""
    counts = pd.crosstab(leaks["target"], leaks["kind"])
    table = counts.reindex(index=sorted(targets), columns=list(LEAK_KINDS), fill_value=0)
    table.insert(0, "clean", table.sum(axis=1) == 0)
    return table.rename_axis("target", axis=0).rename_axis(None, axis=1).reset_index()


def _trained_labels(
    trained: pd.DataFrame, targets: Collection[str]
) -> list[tuple[str, str, str, str]]:
    found = []
    for column in ("Metadata_label", "Metadata_target_list"):
        if column in trained:
            for row in _not_control(trained)[column].fillna("").unique():
                found += [(t, "label", t, row) for t in sorted(set(row.split("|")) & set(targets))]
    return found


def _trained_reagents(
    trained: pd.DataFrame, targets: Collection[str], reagents: pd.DataFrame
) -> list[tuple[str, str, str, str]]:
    """Evaluated reagents that were trained on, themselves or as the same compound."""
    trained = _not_control(trained)
    numbers = set(trained.get("Metadata_broad_sample", ())) - {""}
    blocks = _blocks(trained.get("Metadata_InChIKey", pd.Series(dtype=str)))
    found = []
    for reagent in reagents.to_dict("records"):
        if reagent["Metadata_modality"] == "control":
            continue
        number = reagent["Metadata_broad_sample"]
        same = "" if number in numbers else _same_block(reagent["inchikey"], blocks)
        if number in numbers or same:
            example = f"trained as the same compound, InChIKey {same}" if same else "trained on"
            for target in sorted(set(reagent["Metadata_target_list"].split("|")) & set(targets)):
                found.append((target, "reagent", number, example))
    return found


def _not_control(trained: pd.DataFrame) -> pd.DataFrame:
    if "Metadata_modality" not in trained:
        return trained
    return trained[trained["Metadata_modality"] != "control"]


def _blocks(inchikeys: pd.Series) -> set[str]:
    """First blocks of InChIKey lists: which atoms are bound, whatever the salt or stereoisomer."""
    return {key[:BLOCK] for keys in inchikeys.fillna("") for key in keys.split("|") if key}


def _same_block(inchikeys: str, blocks: set[str]) -> str:
    return next((key for key in inchikeys.split("|") if key and key[:BLOCK] in blocks), "")
