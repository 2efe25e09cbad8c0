"""Claims held against the measurement: supported, contradicted or unmeasured, and how sure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from captions.descriptions import NO_CHANGE, Said, read_claims, statement
from captions.effects import EFFECT_COLUMNS
from captions.facts import FACT_SLOTS, MAX_FACTS, Fact, facts_by_well
from captions.slots import Claim, Slot
from data.channels import STAINS

SUPPORTED, CONTRADICTED, UNMEASURED = "supported", "contradicted", "unmeasured"

_UNCHANGED = re.compile(
    rf"[Nn]o significant change (?:from controls|in (?P<stain>{'|'.join(STAINS)}))\b"
)


@dataclass(frozen=True)
class Measurement:
    """What was measured in one well: the effect of every slot (no NaN), and which are facts.

    `deltas` are `captions.cells.slot_deltas` of its single cells, where those were measured.
    """

    effects: Mapping[Slot, float]
    facts: Sequence[Fact]
    deltas: Mapping[Slot, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """A claim (or "no change") beside its measurement.

    `effect` is None where the slot was not measured, `q_value` and `feature` where it is no fact,
    `confidence` where the text came without probabilities, `cliffs_delta` where no single cells
    were measured.
    """

    claim: str
    verdict: str
    effect: float | None = None
    q_value: float | None = None
    feature: str | None = None
    measured: str = ""
    confidence: float | None = None
    cliffs_delta: float | None = None


def measurements(facts: pd.DataFrame, effects: pd.DataFrame) -> dict[tuple[str, str], Measurement]:
    """Collect what was measured by (plate, well), from the tables of `captions.facts`."""
    of_well = facts_by_well(facts)
    found = {}
    for row in effects.itertuples(index=False, name=None):
        key, values = (row[0], row[1]), row[2:]
        known = {
            slot: float(e) for slot, e in zip(FACT_SLOTS, values, strict=True) if np.isfinite(e)
        }
        found[key] = Measurement(known, of_well.get(key, []))
    assert list(effects.columns[2:]) == list(EFFECT_COLUMNS)
    return found


def verify(
    text: str,
    measured: Measurement | None,
    confidences: Mapping[Claim | str, float] | None = None,
) -> list[Verdict]:
    """Mark each claim of a text.

    Supported: the well has a fact of this slot and direction. Contradicted: the slot was measured
    and has no such fact. Unmeasured: nothing is known of the slot, or of the well. The statement
    that nothing changed is a claim too: a well without facts supports it.

    Parameters
    ----------
    text : str
        A description or an answer.
    measured : Measurement or None
        None where nothing was measured in the well.
    confidences : mapping of Claim to float, optional
        From `claim_confidences`.
    """
    sure = confidences or {}
    verdicts = [_verdict(said, measured, sure) for said in read_claims(text)]
    unchanged = None if verdicts else _UNCHANGED.search(text)
    return [_verdict_unchanged(unchanged, measured, sure)] if unchanged else verdicts


def _verdict_unchanged(
    said: re.Match[str], measured: Measurement | None, sure: Mapping[Claim | str, float]
) -> Verdict:
    stain, confidence = said["stain"], sure.get(NO_CHANGE)
    name = f"no change in {stain}" if stain else "no change"
    known = [] if measured is None else list(measured.effects)
    if measured is None or not any(stain in (None, slot.channel) for slot in known):
        return Verdict(name, UNMEASURED, confidence=confidence)
    against = next((fact for fact in measured.facts if stain in (None, fact.channel)), None)
    if against is None:
        return Verdict(name, SUPPORTED, measured="no significant change", confidence=confidence)
    evidence = (against.effect, against.q_value, against.feature, statement(against))
    return Verdict(name, CONTRADICTED, *evidence, confidence)


def _verdict(
    said: Said, measured: Measurement | None, sure: Mapping[Claim | str, float]
) -> Verdict:
    slot, name, confidence = said.claim.slot, statement(said), sure.get(said.claim)
    effect = None if measured is None else measured.effects.get(slot)
    delta = None if measured is None else measured.deltas.get(slot)
    if measured is None or effect is None:
        return Verdict(name, UNMEASURED, confidence=confidence, cliffs_delta=delta)
    fact = next((fact for fact in measured.facts if fact.claim.slot == slot), None)
    if fact is None:
        shown = "no significant change"
        return Verdict(name, CONTRADICTED, effect, None, None, shown, confidence, delta)
    verdict = SUPPORTED if fact.direction == said.claim.direction else CONTRADICTED
    evidence = (effect, fact.q_value, fact.feature, statement(fact))
    return Verdict(name, verdict, *evidence, confidence, delta)


def not_said(text: str, measured: Measurement) -> list[Fact]:
    """Return the facts that a full description would have stated, and this text does not."""
    said = {one.claim.slot for one in read_claims(text)}
    return [fact for fact in measured.facts[:MAX_FACTS] if fact.claim.slot not in said]


def claim_confidences(
    text: str, ends: Sequence[int], probabilities: Sequence[float]
) -> dict[Claim | str, float]:
    """How sure a model was of each claim: the mean probability of the tokens that state it.

    Those are the tokens of its subject and of its change; of the statement that nothing changed,
    all of its tokens. Confidence is not accuracy: `eval.claims.score_calibration` compares them.

    Parameters
    ----------
    text : str
    ends : sequence of int
        Where in the text each token ends.
    probabilities : sequence of float
        That the model gave each token.

    Returns
    -------
    dict
        Claim to confidence; `NO_CHANGE` to confidence where that is stated.
    """
    starts = np.array([0, *ends[:-1]][: len(ends)])
    stops, given = np.array(ends), np.array(probabilities)

    def mean(spans: Sequence[tuple[int, int]]) -> float:
        of_claim = np.zeros(len(given), bool)
        for start, end in spans:
            of_claim |= (starts < end) & (stops > start)
        return float(given[of_claim].mean()) if of_claim.any() else float("nan")

    found: dict[Claim | str, float] = {said.claim: mean(said.spans) for said in read_claims(text)}
    unchanged = None if found else _UNCHANGED.search(text)
    return {NO_CHANGE: mean([unchanged.span()])} if unchanged else found


def state_confidences(text: str, confidences: Mapping[Claim | str, float]) -> str:
    """Say how sure a model was of each claim of a text: "Mito dimmer: 0.93; ..."."""
    sure = {statement(said): confidences[said.claim] for said in read_claims(text)}
    if not sure and NO_CHANGE in confidences:
        sure = {"No significant change": confidences[NO_CHANGE]}
    return "; ".join(f"{name}: {value:.2f}" for name, value in sure.items()) or "Nothing is claimed"


def report_verdicts(text: str, measured: Measurement | None, verdicts: Sequence[Verdict]) -> str:
    """Write verdicts and what was not said as lines below a description."""
    if measured is None:
        lines = ["  nothing was measured in this well: its claims cannot be checked"]
    else:
        lines = []
    for one in verdicts:
        sure = "" if one.confidence is None else f", {one.confidence:.2f} sure"
        effect = "" if one.effect is None else f" ({one.effect:+.1f})"
        grounds = f"measured: {one.measured}{effect}" if one.measured else "not measured"
        grounds += "" if one.cliffs_delta is None else f", cells {one.cliffs_delta:+.2f}"
        lines.append(f"  {one.verdict:<13}{one.claim}{sure}; {grounds}")
    if measured is not None:
        lines += [
            f"  {'not said':<13}{statement(fact)}; measured ({fact.effect:+.1f})"
            for fact in not_said(text, measured)
        ]
    return "\n".join(lines)
