"""Hypotheses: by rule from retrieved neighbours, with their grounds, apart from observations."""

import numpy as np
import pandas as pd
from tiny import tiny_wells

from captions.descriptions import parse_description
from eval.hypotheses import hypothesise

NOTHING_KNOWN = pd.Series(dtype=str)


def screen() -> tuple[pd.DataFrame, np.ndarray]:
    """Wells whose embeddings are those of their target, nearly; controls lie in the middle."""
    wells = tiny_wells(4)
    rng = np.random.default_rng(0)
    targets = sorted(set(wells["Metadata_target_list"]))
    centre = dict(zip(targets, np.eye(8)[: len(targets)], strict=True))
    rows = np.stack([centre[t] for t in wells["Metadata_target_list"]])
    rows = rows + 0.05 * rng.normal(size=rows.shape)
    return wells, rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_target_that_the_nearest_reagents_share_is_named_with_its_grounds():
    wells, embeddings = screen()
    # Three more reagents of T1, so that two are left when the well's own does not count.
    asked = wells[wells["Metadata_broad_sample"] == "compound-1"].head(1)
    more = wells[wells["Metadata_broad_sample"] == "crispr-1"].assign(
        Metadata_broad_sample="orf-1",
        Metadata_pert_iname="orf-1",
        Metadata_modality="orf",
        Metadata_Well="H12",
    )
    near = embeddings[wells["Metadata_broad_sample"] == "crispr-1"]
    wells, embeddings = pd.concat([wells, more]), np.concatenate([embeddings, near])
    known = pd.Series({"crispr-1": "a mechanism"})
    (found,) = hypothesise(wells, embeddings, asked, known)
    assert found.targets[0] == "T1"
    assert found.text.startswith("acts on T1, as 2 of the 5 nearest reagents: ")
    nearest = {ground["reagent"]: ground for ground in found.grounds}
    assert "compound-1" not in nearest  # its own
    assert nearest["crispr-1"]["mechanism"] == "a mechanism"
    assert nearest["orf-1"]["modality"] == "orf"
    assert found.to_json()["kind"] == "hypothesis, not an observation"
    assert parse_description(found.text) == set()  # nothing in it can pass for an observation


def test_neighbours_that_share_no_target_give_none():
    wells, embeddings = screen()
    alone = wells["Metadata_modality"].isin(["compound", "control"])
    asked = wells[wells["Metadata_broad_sample"] == "compound-2"].head(1)
    (found,) = hypothesise(wells[alone], embeddings[alone], asked, NOTHING_KNOWN)
    assert found.targets == []
    assert found.text.startswith("None: the nearest reagents share no target: compound-")


def test_held_out_reagents_are_no_grounds():
    wells, embeddings = screen()
    held_out = wells["Metadata_target_list"] == "T1"
    wells["Metadata_split"] = np.where(held_out, "test", "train")
    asked = wells[held_out].head(1)
    (found,) = hypothesise(wells, embeddings, asked, NOTHING_KNOWN)
    assert all("T1" not in ground["targets"] for ground in found.grounds)
    wells["Metadata_split"] = "test"
    assert hypothesise(wells, embeddings, asked, NOTHING_KNOWN)[0].grounds == []
