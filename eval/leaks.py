"""The leak audit: no training text may name a target that is evaluated as unseen."""

import re

import pandas as pd

from data.errors import InputError


def leaked_targets(prompts: pd.DataFrame, held_out: set[str]) -> dict[str, int]:
    """Count, for each held-out target, the training texts in which its gene symbol occurs.

    Parameters
    ----------
    prompts : DataFrame
        One row a reagent or dialogue: Metadata_split ("train" rows were trained on); every other
        column of text not named Metadata_... is searched. Gene symbols count as whole words,
        in any case.
    held_out : set of str

    Returns
    -------
    dict
        Target to number of texts; targets that never occur are left out.

    Raises
    ------
    InputError
        When Metadata_split is missing, no row is training text, or there is no text column.
    """
    if "Metadata_split" not in prompts:
        raise InputError("training captions: column Metadata_split is missing")
    trained = prompts[prompts["Metadata_split"] == "train"]
    if trained.empty:
        raise InputError('training captions: no row has Metadata_split "train"')
    texts = trained.loc[:, ~trained.columns.str.startswith("Metadata_")].select_dtypes("object")
    if not texts.shape[1]:
        raise InputError("training captions: no column of text")
    symbols = {target.upper(): target for target in held_out}
    word = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]*")
    counts: dict[str, int] = {}
    for text in texts.fillna("").astype(str).agg(" ".join, axis=1):
        words = {w.upper() for w in word.findall(text)}
        words |= {part for w in words for part in w.split("-")}
        for symbol in words & symbols.keys():
            counts[symbols[symbol]] = counts.get(symbols[symbol], 0) + 1
    return dict(sorted(counts.items()))
