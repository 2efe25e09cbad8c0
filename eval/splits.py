"""Which targets are held out: CPJUMP1's official splits, or the profiles' own."""

import pandas as pd

from data.errors import InputError
from data.splits import unseen_targets

# The 32 test genes of datasplits/gene_compound_split_example_1.csv in the CPJUMP1 repository (CC0),
# out of the 160 genes that have compounds, guides and an ORF.
# fmt: off
OFFICIAL_TEST_TARGETS = frozenset({
    "ADA", "ADH1C", "ADORA2A", "AKR1B1", "ALDH2", "BTK", "CA14", "CACNA2D3", "CASP3", "CDK7",
    "CYP3A4", "EDNRB", "GAA", "GPR119", "HCK", "HDAC3", "HPGDS", "HRH4", "IMPDH1", "KCNQ2",
    "KCTD16", "PAK1", "PDE3A", "PLK1", "PNLIP", "PRKCB", "PRKCE", "PTK2B", "S1PR1", "S1PR4",
    "SLC29A1", "TBXAS1",
})
# fmt: on


def held_out_targets(meta: pd.DataFrame, split: str) -> set[str]:
    """Name the targets that count as held out.

    Parameters
    ----------
    meta : DataFrame
        Wells with Metadata_target_list; for "column" also Metadata_split.
    split : str
        "official" (the test genes of CPJUMP1's gene-compound split) or "column" (targets of wells
        whose Metadata_split is "test" that no "train" well with a target has).

    Raises
    ------
    InputError
        When the split is unknown, the column is missing, or no target of the profiles is held out.
    """
    listed = set(meta["Metadata_target_list"].str.split("|").explode()) - {""}
    if split == "official":
        held_out = listed & OFFICIAL_TEST_TARGETS
    elif split == "column":
        if "Metadata_split" not in meta:
            raise InputError("split by column: the profiles have no column Metadata_split")
        held_out = unseen_targets(meta)
    else:
        raise InputError(f"unknown split {split}: choose official or column")
    if not held_out:
        raise InputError(f"split {split}: none of the {len(listed)} targets is held out")
    return held_out


def representation_split(modality: str, time: str) -> str:
    """CPJUMP1's official split for representation learning.

    Train on genetic reagents, validate on compounds at 24 h, test on compounds at 48 h; a
    gene-compound condition is of its compounds' half.

    Examples
    --------
    >>> [representation_split(*c) for c in (("compound", "48"), ("compound+orf", "24+48"))]
    ['test', 'validate']
    """
    if not modality.startswith("compound"):
        return "train"
    return "validate" if time.split("+")[0] == "24" else "test"
