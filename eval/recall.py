"""Gene-gene recall: known relationships among the most alike and most opposite pairs.

The measure of the EFAAR benchmarks and RxRx3-core (StringDB, Reactome, CORUM, HuMAP, SIGNOR).
The sets of known pairs come from files that the user gives; none is shipped.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data.errors import InputError
from eval.average_precision import unit_rows


@dataclass(frozen=True)
class RecallScore:
    """Recall of known pairs in the tails of all pairs.

    Attributes
    ----------
    recall : float
        Share of known pairs at or beyond either tail.
    chance : float
        Twice the tail: what random pairs get.
    n_pairs : int
        Known pairs whose genes are both in the profiles.
    n_missing : int
        Known pairs that are not.
    """

    recall: float
    chance: float
    n_pairs: int
    n_missing: int


def read_pairs(path: str | Path) -> pd.DataFrame:
    """Read known pairs: a table (.csv, .tsv) with entity1 and entity2, or a .gmt of gene sets.

    Of a .gmt every pair of genes in one set is known, as EFAAR does for Reactome and CORUM.

    Raises
    ------
    InputError
        When the file is missing or lacks the two columns.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"file of gene pairs not found: {path}")
    if path.suffix == ".gmt":
        pairs: set[tuple[str, str]] = set()
        for line in path.read_text().splitlines():
            genes = np.unique(line.rstrip().split("\t")[2:])
            first, second = np.triu_indices(len(genes), k=1)
            pairs.update(zip(genes[first], genes[second], strict=True))
        return pd.DataFrame(sorted(pairs), columns=["entity1", "entity2"])
    table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str)
    if not {"entity1", "entity2"} <= set(table):
        raise InputError(f"{path}: columns entity1 and entity2 are needed, found {list(table)[:5]}")
    return table[["entity1", "entity2"]].dropna()


def gene_recall(
    genes: pd.Series, features: np.ndarray, pairs: pd.DataFrame, tail: float = 0.05
) -> RecallScore:
    """Score how many known pairs lie in the tails of the cosines of all pairs of genes.

    A pair counts when its cosine is within the lowest or highest `tail` of all different pairs
    (percentile rank <= tail or >= 1 - tail, as in EFAAR's compute_recall).

    Parameters
    ----------
    genes : Series of str
        One gene a row of `features`; rows of one gene (guides, wells) are averaged.
    features : ndarray, float, shape (n, d)
    pairs : DataFrame
        entity1, entity2; order, repeats and pairs of a gene with itself do not count.
    tail : float

    Raises
    ------
    InputError
        When fewer than ten known pairs have both genes in the profiles.
    """
    unit = pd.DataFrame(unit_rows(features)).groupby(genes.to_numpy(), sort=True).mean()
    row = {gene: i for i, gene in enumerate(unit.index)}
    known = pairs[(pairs["entity1"] != pairs["entity2"])]
    ordered = pd.DataFrame(np.sort(known.to_numpy(dtype=str), axis=1)).drop_duplicates()
    first, second = ordered[0].map(row), ordered[1].map(row)
    present = (first.notna() & second.notna()).to_numpy()
    if present.sum() < 10:
        raise InputError(
            f"only {present.sum()} of {len(ordered)} known pairs have both genes in the profiles; "
            "at least 10 are needed"
        )
    unit_vectors = unit_rows(unit.to_numpy())
    cosine = unit_vectors @ unit_vectors.T
    everyone = np.sort(cosine[np.triu_indices(len(cosine), k=1)])
    of_known = cosine[first[present].astype(int), second[present].astype(int)]
    low = np.searchsorted(everyone, of_known, side="right") / len(everyone)
    high = np.searchsorted(everyone, of_known, side="left") / len(everyone)
    hit = (low <= tail) | (high >= 1 - tail)
    return RecallScore(float(hit.mean()), 2 * tail, int(present.sum()), int((~present).sum()))
