"""The numbers of a run: matching and claims on held-out targets, each beside its controls.

Works on the files of a run and of its prepared store: profiles, embeddings and descriptions.
"""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import evaluate
import numpy as np
import pandas as pd

from captions.descriptions import describe_facts, parse_description, read_claims
from captions.effects import EFFECT_COLUMNS
from captions.facts import FACT_SLOTS, MAX_FACTS, Claim, Fact, Slot, facts_by_well
from data.errors import InputError
from data.normalize import feature_columns, select_features
from data.splits import check_no_overlap
from data.store import load_profiles
from eval.claims import (
    majority_claims,
    score_abstention,
    score_by,
    score_calibration,
    score_claims,
    score_false_claims,
    score_intervals,
    score_silence,
    score_strength,
)
from eval.matching import (
    MatchingScore,
    gene_compound_matching,
    replicate_matching,
)
from eval.profiles import read_profiles

KEY = ["Metadata_Plate", "Metadata_Well"]
Representation = tuple[pd.DataFrame, np.ndarray]

SOURCES = {
    "model": "descriptions",
    "blank_image": "descriptions_blank",
    "wrong_controls": "descriptions_wrong_controls",
    "text_only": "descriptions_none",
}
"""Sources of descriptions and their files; the first two are needed."""


T = TypeVar("T")


@dataclass
class WellClaims:
    """Test wells with what was measured and what was said, row by row.

    Attributes
    ----------
    wells : DataFrame
    measured, to_say : list of set of Claim
        All facts of each well, and the first six.
    said : dict of list of set of Claim
        By source: those of `SOURCES` that there are, "shuffled_image" and "majority".
    facts : list of list of Fact
        All facts of each well with their evidence, first to be said first.
    effects : list of dict
        The measured effect of every slot of each well, fact or not.
    answers : list of str
        The model's descriptions.
    confidences : list of dict
        How sure the model was of each of its claims; empty where that was not written down.
    """

    wells: pd.DataFrame
    measured: list[set[Claim]]
    to_say: list[set[Claim]]
    said: dict[str, list[set[Claim]]]
    facts: list[list[Fact]]
    effects: list[dict[Slot, float]]
    answers: list[str]
    confidences: list[dict[Claim, float]]

    def select(self, rows: np.ndarray) -> "WellClaims":
        """Keep some wells (boolean mask)."""
        keep = np.flatnonzero(rows)

        def take(values: list[T]) -> list[T]:
            return [values[row] for row in keep]

        return WellClaims(
            self.wells.iloc[keep].reset_index(drop=True),
            take(self.measured),
            take(self.to_say),
            {source: take(claims) for source, claims in self.said.items()},
            take(self.facts),
            take(self.effects),
            take(self.answers),
            take(self.confidences),
        )


def classical_profiles(data: Path) -> Representation:
    """CellProfiler features, robust z against the plate's controls, selected by pycytominer."""
    profiles = select_features(load_profiles(data, normalized=True))
    features = feature_columns(profiles)
    return profiles.filter(regex="^Metadata_"), profiles[features].to_numpy(np.float64)


def run_representations(run: Path, data: Path) -> dict[str, Representation]:
    """Every representation of a run's wells, the baseline and the control among them."""
    return {
        "embedding": read_profiles(run / "embeddings.parquet"),
        "classical": classical_profiles(data),
        "untrained": read_profiles(run / "embeddings_untrained.parquet"),
    }


def score_matching(
    representations: dict[str, Representation], seed: int
) -> dict[str, dict[str, MatchingScore]]:
    """Gene-compound and replicate matching of the held-out targets' wells.

    Returns
    -------
    dict
        Task ("gene_compound", "replicate") to representation to score.
    """
    scores: dict[str, dict[str, MatchingScore]] = {"gene_compound": {}, "replicate": {}}
    for name, (meta, features) in representations.items():
        check_no_overlap(meta)
        test = (
            (meta["Metadata_split"] == "test") & (meta["Metadata_target_list"] != "")
        ).to_numpy()
        scores["gene_compound"][name] = gene_compound_matching(meta, features, seed=seed)
        scores["replicate"][name] = replicate_matching(meta[test], features[test], seed=seed)
    return scores


def collect_claims(
    run: Path, data: Path, seed: int, label_column: str, training_query: str
) -> WellClaims:
    """Read a run's descriptions of its test wells and set them beside what was measured.

    Parameters
    ----------
    run, data : Path
        Run folder with descriptions, and prepared store with captions.
    seed : int
        Of the shuffled images.
    label_column : str
        The shuffled image is a test well's of another label: its description is that other
        well's, scored against this well's facts.
    training_query : str
        Wells whose facts the majority sentence is made of.

    Raises
    ------
    InputError
        When a description file is missing, or is about other wells than the model's.
    """
    facts = facts_by_well(pd.read_parquet(data / "captions" / "facts.parquet"))
    effects = pd.read_parquet(data / "captions" / "effects.parquet").set_index(KEY)
    profiles = load_profiles(data, normalized=False)
    said: dict[str, list[set[Claim]]] = {}
    for source, name in SOURCES.items():
        path = run / f"{name}.parquet"
        if not path.is_file():
            if source in ("model", "blank_image"):
                raise InputError(f"{path} is missing: run scripts/describe_well.py --out {path}")
            continue
        table = pd.read_parquet(path)
        keys = table[["plate", "well"]].set_axis(KEY, axis=1)
        said[source] = [parse_description(answer) for answer in table["answer"]]
        if source == "model":
            wells = keys.merge(profiles.filter(regex="^Metadata_"), on=KEY, how="left")
            answers = table["answer"].tolist()
            confidences = [_read_confidences(claims) for claims in table["claims"]]
        elif not keys.equals(wells[KEY]):
            raise InputError(f"{path} has other wells than {SOURCES['model']}.parquet: make both")
    measured = [facts.get(key, []) for key in wells[KEY].itertuples(index=False, name=None)]
    said["shuffled_image"] = [
        said["model"][row] for row in shuffled_rows(wells[label_column], seed)
    ]
    training = profiles.query(training_query)
    common = majority_claims(
        [
            {fact.claim for fact in facts.get(key, [])[:MAX_FACTS]}
            for key in training[KEY].itertuples(index=False, name=None)
        ]
    )
    said["majority"] = [common] * len(wells)
    return WellClaims(
        wells,
        [{fact.claim for fact in own} for own in measured],
        [{fact.claim for fact in own[:MAX_FACTS]} for own in measured],
        said,
        measured,
        [
            dict(zip(FACT_SLOTS, own, strict=True))
            for own in effects.loc[
                pd.MultiIndex.from_frame(wells[KEY]), list(EFFECT_COLUMNS)
            ].to_numpy()
        ],
        answers,
        confidences,
    )


def _read_confidences(claims: str) -> dict[Claim, float]:
    """How sure the model was of each claim, from the JSON of describe_well.py."""
    return {
        Claim(*(claim[name] for name in Claim._fields)): claim["confidence"]
        for claim in json.loads(claims)
        if claim.get("confidence") is not None
    }


def shuffled_rows(labels: pd.Series, seed: int) -> list[int]:
    """For each well, draw the row of a well with another label."""
    rng = np.random.default_rng(seed)
    group = labels.to_numpy()
    return [int(rng.choice(np.flatnonzero(group != own))) for own in group]


def score_run_claims(claims: WellClaims, label_column: str) -> tuple[dict, dict]:
    """Claim scores of the wells that have a label, and abstention on active and inactive ones.

    Returns
    -------
    claims : dict
        Source to scores, with 95 % intervals over reagents for the model.
    abstention : dict
        Empty when the data do not say which wells are active.
    """
    aimed = _with_label(claims, label_column)
    scores: dict[str, dict] = {
        source: score_claims(said, aimed.measured, to_say=aimed.to_say)
        for source, said in aimed.said.items()
    }
    scores["model"]["intervals"] = score_intervals(
        aimed.said["model"],
        aimed.measured,
        aimed.wells["Metadata_broad_sample"].tolist(),
        to_say=aimed.to_say,
    )
    abstention = {}
    if "Metadata_simulated_active" in claims.wells:
        active = claims.wells["Metadata_simulated_active"].astype(bool).tolist()
        abstention = score_abstention(claims.said["model"], active)
    return scores, abstention


def _with_label(claims: WellClaims, label_column: str) -> WellClaims:
    has_label = claims.wells[label_column] != ""
    if "Metadata_simulated_active" in claims.wells:  # inactive genes are scored by abstention
        has_label &= claims.wells["Metadata_simulated_active"].astype(bool)
    return claims.select(has_label.to_numpy())


def score_details(claims: WellClaims, label_column: str) -> dict[str, Any]:
    """Look closer at the model's descriptions of labelled wells.

    Returns
    -------
    dict
        strength: agreement of strength words, with its interval over reagents. silence: abstention
        against what was measured, in all wells. false_claims: how wrong they are. calibration: of
        the claims' confidence. by_channel and by_property: claim scores (geometry has the channel
        ""). wording: chrF and ROUGE for the record, where the extra `wording` is installed.
    """
    aimed = _with_label(claims, label_column)
    said = aimed.said["model"]
    strengths = [
        {one.claim: one.strength for one in read_claims(answer)} for answer in aimed.answers
    ]
    measured = [{fact.claim: fact.strength for fact in own} for own in aimed.facts]
    reagents = aimed.wells["Metadata_broad_sample"].tolist()
    sure = [
        (confidence, claim in true)
        for own, true in zip(aimed.confidences, aimed.measured, strict=True)
        for claim, confidence in own.items()
    ]
    details: dict[str, Any] = {
        "strength": score_strength(strengths, measured, reagents),
        "silence": score_silence(claims.said["model"], claims.measured),
        "false_claims": score_false_claims(said, aimed.measured, aimed.effects),
        "calibration": score_calibration([s for s, _ in sure], [right for _, right in sure]),
    }
    for field in ("channel", "property"):
        table = score_by(field, said, aimed.measured, to_say=aimed.to_say)
        details[f"by_{field}"] = table.to_dict("index")
    if find_spec("sacrebleu") and find_spec("rouge_score"):
        metric = evaluate.load(str(Path(__file__).parent / "metrics" / "wording"))
        references = [describe_facts(own[:MAX_FACTS]) for own in aimed.facts]
        details["wording"] = metric.compute(predictions=aimed.answers, references=references)
    return details


def to_json(scores: dict[str, dict[str, MatchingScore]]) -> dict:
    """Turn the numbers of matching scores into metrics.json's `matching`."""
    out: dict = {
        task: {name: score.numbers() for name, score in by_name.items()}
        for task, by_name in scores.items()
    }
    out["chance"] = {task: next(iter(by_name.values())).chance for task, by_name in scores.items()}
    return out
