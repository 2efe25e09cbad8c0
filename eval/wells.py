"""What each well is (plate, reagent, targets) and whether its profile can be used."""

import numpy as np
import pandas as pd

from data.errors import InputError
from eval.notices import Notice, some

CPJUMP1_BATCH = "2020_11_04_CPJUMP1"
WELL = ["Metadata_Plate", "Metadata_Well"]
CONDITION = ["Metadata_modality", "Metadata_Cell_type", "Metadata_Time"]


def select_plates(
    meta: pd.DataFrame, experiment: pd.DataFrame
) -> tuple[pd.DataFrame, list[Notice]]:
    """Keep CPJUMP1's 40 benchmark plates and add their modality, cell and time.

    The rule of the paper: the main batch, seeding density 100, no antibiotics, and no compound
    plates on Cas9 cells.

    Raises
    ------
    InputError
        When the table lacks a column or no plate of the profiles is selected by it.
    """
    needed = ["Batch", "Assay_Plate_Barcode", "Perturbation", "Cell_type", "Time", "Density"]
    needed += ["Antibiotics", "Cell_line"]
    missing = [c for c in needed if c not in experiment]
    if missing:
        raise InputError(f"experiment metadata: column {missing[0]} is missing")
    plates = experiment[
        (experiment["Batch"] == CPJUMP1_BATCH)
        & (pd.to_numeric(experiment["Density"]) == 100)
        & (experiment["Antibiotics"] == "absent")
        & ~((experiment["Perturbation"] == "compound") & (experiment["Cell_line"] == "Cas9"))
    ].drop_duplicates("Assay_Plate_Barcode")
    plates = plates.set_index("Assay_Plate_Barcode")
    given = meta["Metadata_Plate"].unique()
    outside = [p for p in given if p not in plates.index]
    if len(outside) == len(given):
        raise InputError(
            f"none of the {len(given)} plates (first: {given[0]}) is selected by the experiment "
            "metadata: check the barcodes, or leave --experiment out"
        )
    meta = meta[meta["Metadata_Plate"].isin(plates.index)].copy()
    for column, source in zip(CONDITION, ["Perturbation", "Cell_type", "Time"], strict=True):
        meta[column] = meta["Metadata_Plate"].map(plates[source])
    if not outside:
        return meta, []
    return meta, [Notice("plate_not_selected", len(outside), f"plates {some(outside)} left out")]


def annotate(
    meta: pd.DataFrame, annotations: pd.DataFrame | None
) -> tuple[pd.DataFrame, list[Notice]]:
    """Give every well its reagent, control type and targets; leave out empty wells.

    Negative controls without a reagent become "DMSO". A genetic reagent without a target list has
    its gene as target; a compound's targets are those annotated.

    Raises
    ------
    InputError
        When a column is missing, a time is no number, there is no negative control, or annotations
        match no compound.
    """
    if annotations is not None and "Metadata_target_list" not in meta:
        meta = meta.assign(Metadata_target_list="")
    needed = ["Metadata_broad_sample", "Metadata_control_type", *CONDITION, "Metadata_target_list"]
    missing = [c for c in needed if c not in meta]
    if missing:
        hint = "--annotations" if missing[0] == "Metadata_target_list" else "--experiment"
        raise InputError(f"profiles: column {missing[0]} is missing (or give {hint})")
    time = pd.to_numeric(meta["Metadata_Time"], errors="coerce")
    if time.isna().any():
        raise InputError(
            f"profiles: Metadata_Time is {meta['Metadata_Time'][time.isna()].iloc[0]!r} in "
            f"{time.isna().sum()} wells; expected whole hours"
        )
    meta = meta.assign(Metadata_Time=time.astype(int), Metadata_modality=_plate_modality(meta))
    negcon = meta["Metadata_control_type"] == "negcon"
    if not negcon.any():
        raise InputError("no well has Metadata_control_type negcon: there are no controls")
    nameless = meta["Metadata_broad_sample"] == ""
    meta.loc[nameless & negcon, "Metadata_broad_sample"] = "DMSO"
    empty = nameless & ~negcon
    notices = []
    simulated = meta.get("Metadata_simulated", pd.Series("", meta.index)) == "True"
    if simulated.any():
        notices.append(Notice("simulated", int(simulated.sum()), "these wells are simulated"))
    if empty.any():
        notices.append(Notice("empty_well", int(empty.sum()), "wells without a reagent left out"))
    meta = meta[~empty].copy()
    without = sorted(set(meta["Metadata_Plate"]) - set(meta["Metadata_Plate"][negcon]))
    if without:
        where = f"plates {some(without)}: their wells are no queries for activity"
        notices.append(Notice("plate_without_controls", len(without), where))
    genetic = meta["Metadata_modality"].isin(["crispr", "orf"])
    if "Metadata_gene" in meta:
        gene = genetic & (meta["Metadata_target_list"] == "")
        meta.loc[gene, "Metadata_target_list"] = meta.loc[gene, "Metadata_gene"]
    compound = (meta["Metadata_modality"] == "compound") & (
        meta["Metadata_control_type"] != "negcon"
    )
    if annotations is not None and compound.any():
        if not {"broad_sample", "target_list"} <= set(annotations):
            raise InputError("annotations: columns broad_sample and target_list are needed")
        listed = annotations.drop_duplicates("broad_sample").set_index("broad_sample")
        found = meta.loc[compound, "Metadata_broad_sample"].map(listed["target_list"].fillna(""))
        if found.isna().all():
            raise InputError(
                "the annotations match none of the compounds (first: "
                f"{meta.loc[compound, 'Metadata_broad_sample'].iloc[0]}): check broad_sample"
            )
        meta.loc[compound, "Metadata_target_list"] = found.fillna("")
    lacking = meta[compound & (meta["Metadata_target_list"] == "")]["Metadata_broad_sample"]
    if len(lacking):
        where = f"{some(lacking.unique())}: in the pool as negatives, never as queries"
        notices.append(Notice("compound_without_target", lacking.nunique(), where))
    return meta, notices


def _plate_modality(meta: pd.DataFrame) -> pd.Series:
    """Give control wells, where they are marked "control", the modality of their plate."""
    treated = meta[meta["Metadata_modality"] != "control"]
    of_plate = treated.groupby("Metadata_Plate")["Metadata_modality"].first()
    modality = meta["Metadata_modality"].replace("control", None)
    return modality.fillna(meta["Metadata_Plate"].map(of_plate)).fillna("control")


def check_features(
    table: pd.DataFrame, meta: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, list[Notice]]:
    """Repair what can be repaired about the features and count it.

    Returns
    -------
    features : ndarray, float64, shape (wells, kept features)
    keep : ndarray, bool, shape (wells,)
        False for zero vectors, which have no direction.
    notices : list of Notice

    Raises
    ------
    InputError
        When a whole profile is NaN, more than a tenth of the features are, all profiles are the
        same, or none is left.
    """
    features = table.to_numpy(dtype=np.float64)
    bad = ~np.isfinite(features)
    wells = meta["Metadata_Plate"].to_numpy() + " " + meta["Metadata_Well"].to_numpy()
    if bad.all(axis=1).any():
        rows = np.flatnonzero(bad.all(axis=1))
        raise InputError(f"{len(rows)} profiles are all NaN (first: {wells[rows[0]]})")
    notices = []
    columns = bad.any(axis=0)
    if columns.mean() > 0.1:
        raise InputError(
            f"{columns.sum()} of {len(columns)} features hold NaN or infinity (first: "
            f"{table.columns[columns.argmax()]}, {bad[:, columns.argmax()].sum()} wells)"
        )
    if columns.any():
        where = f"{some(table.columns[columns])} left out ({bad.any(axis=1).sum()} wells)"
        notices.append(Notice("nan_feature", int(columns.sum()), where))
    constant = ~columns & (features == features[0]).all(axis=0)
    if constant.any():
        where = f"{some(table.columns[constant])} left out"
        notices.append(Notice("constant_feature", int(constant.sum()), where))
    features = features[:, ~columns & ~constant]
    if not features.shape[1]:
        raise InputError("all profiles are the same: every feature is constant")
    zero = ~np.any(features, axis=1)
    if zero.any():
        where = f"wells {some(wells[zero])} left out: no direction to compare"
        notices.append(Notice("zero_vector", int(zero.sum()), where))
    same = pd.DataFrame(features[~zero]).duplicated(keep=False).to_numpy()
    if same.any():
        where = f"wells {some(wells[~zero][same])}: ties, which copairs' rule counts as hits"
        notices.append(Notice("identical_profile", int(same.sum()), where))
    return features, np.asarray(~zero), notices
