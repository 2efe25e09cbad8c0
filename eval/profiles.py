"""Reading profiles from CSV, Parquet or AnnData, and saying what is wrong with them.

Nothing is dropped in silence: whatever leaves the pool does so under a name, with a count, in a
`Notice` that ends in the report; whatever cannot be repaired raises an `InputError`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data.errors import InputError
from eval.notices import Notice
from eval.wells import WELL, annotate, check_features, select_plates


@dataclass(frozen=True)
class Profiles:
    """One representation of a set of wells.

    Attributes
    ----------
    name : str
        What tables and figures call it.
    meta : DataFrame
        One row a well, Metadata_ columns (str; Metadata_Time int).
    features : ndarray, float64, shape (wells, d)
    notices : tuple of Notice
    """

    name: str
    meta: pd.DataFrame
    features: np.ndarray
    notices: tuple[Notice, ...] = ()

    def subset(self, rows: np.ndarray) -> "Profiles":
        """Keep the wells where the boolean array `rows` is True."""
        return Profiles(
            self.name, self.meta[rows].reset_index(drop=True), self.features[rows], self.notices
        )


def read_profiles(path: str | Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Read one file of well profiles.

    Parameters
    ----------
    path : path
        .csv, .csv.gz, .tsv, .parquet or .h5ad. Columns named Metadata_... describe the well, all
        others are features; an .h5ad keeps the former in `obs` (the prefix may be missing).

    Returns
    -------
    meta : DataFrame
        Metadata_ columns as str, missing as "".
    features : ndarray, float64, shape (wells, d)

    Raises
    ------
    InputError
        When the file is missing, of another kind, has no features, or a feature is not numeric.
    """
    meta, features = _read(Path(path))
    return meta, features.to_numpy(dtype=np.float64)


def _read(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    if not path.is_file():
        raise InputError(f"profile file not found: {path}")
    kind = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    if kind.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
        separator = "\t" if ".tsv" in kind else ","
        header = pd.read_csv(path, sep=separator, nrows=0).columns
        text = {c: str for c in header if c.startswith("Metadata_")}
        table = pd.read_csv(path, sep=separator, dtype=text)
    elif kind.endswith(".parquet"):
        table = pd.read_parquet(path)
    elif kind.endswith(".h5ad"):
        table = _read_h5ad(path)
    else:
        raise InputError(f"{path}: expected .csv, .csv.gz, .tsv, .parquet or .h5ad")
    return _divide(table, str(path))


def _divide(table: pd.DataFrame, source: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    is_meta = table.columns.str.startswith("Metadata_")
    features = table.loc[:, ~is_meta]
    if not features.shape[1]:
        raise InputError(f"{source}: every column is named Metadata_...: there are no features")
    wrong = [c for c in features if not pd.api.types.is_numeric_dtype(features[c])]
    if wrong:
        raise InputError(
            f"{source}: column {wrong[0]} is not numeric ({len(wrong)} such columns); "
            "rename descriptions to Metadata_..."
        )
    meta = table.loc[:, is_meta].astype("object")
    return meta.where(meta.notna(), "").astype(str), features


def _read_h5ad(path: Path) -> pd.DataFrame:
    try:
        import anndata
    except ImportError as error:
        raise InputError(f"{path}: reading .h5ad needs the package anndata") from error
    data = anndata.read_h5ad(path)
    dense = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
    obs = data.obs.rename(columns=lambda c: c if c.startswith("Metadata_") else f"Metadata_{c}")
    features = pd.DataFrame(dense, columns=data.var_names.astype(str))
    return pd.concat([obs.reset_index(drop=True), features], axis=1)


def load_profiles(
    paths: Sequence[str | Path],
    name: str,
    annotations: pd.DataFrame | None = None,
    experiment: pd.DataFrame | None = None,
) -> Profiles:
    """Read the files of one representation, describe their wells, and check them.

    Parameters
    ----------
    paths : sequence of path
        See `read_profiles`; joined on the features that all of them have.
    name : str
    annotations : DataFrame, optional
        broad_sample and target_list ("A|B") of the compounds; by default the profiles' own
        Metadata_target_list counts.
    experiment : DataFrame, optional
        CPJUMP1's experiment-metadata.tsv: picks the plates and says their modality, cell and
        time. By default all plates count and the profiles' own columns say so.

    Raises
    ------
    InputError
        See `read_profiles`, `join_files`, and `eval.wells`.
    """
    meta, table, notices = join_files([Path(p) for p in paths])
    return _describe(meta, table, name, notices, annotations, experiment)


def profiles_from_table(
    table: pd.DataFrame,
    name: str,
    annotations: pd.DataFrame | None = None,
    experiment: pd.DataFrame | None = None,
) -> Profiles:
    """Do what `load_profiles` does with a table in memory (Metadata_ columns and features)."""
    meta, features = _divide(table, name)
    _need_wells(meta, name)
    _check_wells(meta, np.full(len(meta), name))
    return _describe(meta, features, name, [], annotations, experiment)


def _describe(
    meta: pd.DataFrame,
    table: pd.DataFrame,
    name: str,
    notices: list[Notice],
    annotations: pd.DataFrame | None,
    experiment: pd.DataFrame | None,
) -> Profiles:
    if experiment is not None:
        meta, more = select_plates(meta, experiment)
        notices += more
    meta, more = annotate(meta, annotations)
    notices += more
    table = table.loc[meta.index]
    features, keep, more = check_features(table, meta)
    return Profiles(name, meta[keep].reset_index(drop=True), features[keep], tuple(notices + more))


def join_files(paths: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame, list[Notice]]:
    """Stack files on the features they share.

    Raises
    ------
    InputError
        When a file lacks Metadata_Plate or Metadata_Well, a well occurs twice (two plates with
        one barcode, or one file given twice), or the files hold different representations.
    """
    parts = [_read(path) for path in paths]
    for path, (meta, _) in zip(paths, parts, strict=True):
        _need_wells(meta, str(path))
    notices = []
    common = set.intersection(*(set(features.columns) for _, features in parts))
    shared = [c for c in parts[0][1].columns if c in common]
    sizes = [features.shape[1] for _, features in parts]
    embedding = all(
        str(c).startswith("embedding_") for _, features in parts for c in features.columns
    )
    if len(shared) < max(sizes) and (embedding or len(shared) < max(sizes) / 2):
        raise InputError(
            f"mixed dimensions: {paths[int(np.argmin(sizes))]} has {min(sizes)} features, "
            f"{paths[int(np.argmax(sizes))]} {max(sizes)}, {len(shared)} in common; "
            "give files of one representation"
        )
    if len(shared) < max(sizes):
        n = max(sizes) - len(shared)
        notices.append(Notice("features_not_in_all_files", n, f"{len(shared)} kept"))
    source = np.repeat([str(p) for p in paths], [len(meta) for meta, _ in parts])
    meta = pd.concat([meta for meta, _ in parts], ignore_index=True).fillna("")
    _check_wells(meta, source)
    table = pd.concat([features[shared] for _, features in parts], ignore_index=True)
    return meta, table, notices


def _need_wells(meta: pd.DataFrame, source: str) -> None:
    for column in WELL:
        if column not in meta:
            raise InputError(f"{source}: column {column} is missing")


def _check_wells(meta: pd.DataFrame, source: np.ndarray) -> None:
    twice = meta.duplicated(WELL, keep=False).to_numpy()
    if twice.any():
        plate, well = meta.loc[twice, WELL].iloc[0]
        same = twice & (meta["Metadata_Plate"] == plate) & (meta["Metadata_Well"] == well)
        files = " and ".join(dict.fromkeys(source[same.to_numpy()]))
        raise InputError(
            f"{twice.sum()} wells occur twice (first: plate {plate} well {well}, in {files}): "
            "one file given twice, or two plates with one barcode"
        )


def align(groups: Sequence[Profiles]) -> list[Profiles]:
    """Cut several representations to the wells that all of them have, in one order.

    Raises
    ------
    InputError
        When there is no such well.
    """
    wells = [pd.MultiIndex.from_frame(group.meta[WELL]) for group in groups]
    common = wells[0]
    for others in wells[1:]:
        common = common[common.isin(others)]
    if not len(common):
        raise InputError(f"no well is in all of {', '.join(group.name for group in groups)}")
    aligned = []
    for group, index in zip(groups, wells, strict=True):
        rows = index.get_indexer(common)
        lost = len(index) - len(common)
        notices = group.notices
        if lost:
            where = f"{lost} of {len(index)} wells left out: other groups lack them"
            notices = (*notices, Notice("well_not_in_all_groups", lost, where))
        meta = group.meta.iloc[rows].reset_index(drop=True)
        aligned.append(Profiles(group.name, meta, group.features[rows], notices))
    return aligned
