"""Answers read out of a description, by rule: what is said, how sure that is, what it is based on.

An answer cannot contradict the description, and claims nothing that the description does not.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from captions.asking import AGAIN, CONFIDENCE, GROUNDS, LAST, MORE, Asked
from captions.descriptions import describe_facts, parse_description, read_claims
from captions.questions import DESCRIBE, answer_from
from captions.slots import Claim
from captions.verification import Measurement, not_said, state_confidences, verify


@dataclass(frozen=True)
class Seen:
    """A well as a model described it.

    Attributes
    ----------
    imaged : sequence of str
        The stains with an image.
    description : str
        The answer to `captions.questions.DESCRIBE`.
    confidences : mapping
        From `captions.verification.claim_confidences`.
    """

    imaged: Sequence[str]
    description: str
    confidences: Mapping[Claim | str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An answer about one well, the description that it was read out of, and how sure that was.

    `description` is None, and `confidences` are empty, where the well was not looked at. `stated`
    is the answer that `text` speaks about, where that is one ("How sure are you?").
    """

    text: str
    asked: Asked
    description: str | None = None
    confidences: Mapping[Claim | str, float] = field(default_factory=dict)
    stated: str | None = None

    @property
    def by_rule(self) -> bool:
        """Whether the well was not looked at."""
        return self.description is None

    @property
    def answer(self) -> str:
        """The text whose claims are those of the answer."""
        return self.text if self.stated is None else self.stated

    def record(self, measured: Measurement | None, verified: bool) -> dict[str, Any]:
        """Everything about the answer as JSON: its claims, and with `verified` their verdicts."""
        claims = [
            said.claim._asdict()
            | {"strength": said.strength, "confidence": self.confidences.get(said.claim)}
            for said in sorted(read_claims(self.answer))
        ]
        record: dict[str, Any] = {
            "understood": self.asked.full,
            "answer": self.text,
            "answered_by": "rule" if self.by_rule else "model",
            "description": self.description,
            "claims": claims,
            "measured": None if measured is None else [vars(fact) for fact in measured.facts],
        }
        if verified:
            verdicts = verify(self.answer, measured, self.confidences)
            record["verified"] = [asdict(verdict) for verdict in verdicts]
            missed = [] if measured is None else not_said(self.answer, measured)
            record["not_said"] = [vars(fact) for fact in missed]
        return record


def reply_to(
    asked: Asked,
    seen: Seen | None,
    style: str | None = None,
    last: Reply | None = None,
    told: Collection[Claim] = (),
) -> Reply:
    """Answer a question about one well.

    Parameters
    ----------
    asked : Asked
        From `captions.asking.understand`.
    seen : Seen or None
        Needed unless `asked.answer` is given.
    style : str, optional
        One of `captions.descriptions.STYLES`, where the question asks for none; as the model said
        it by default.
    last : Reply, optional
        What a question about `captions.asking.LAST` is about; the description by default.
    told : collection of Claim
        What needs no saying where more is asked for.
    """
    style = asked.style or style
    if asked.question == LAST and last is not None and asked.wants != MORE:
        about = replace(last, text=last.answer, stated=None)
        asked = replace(last.asked, style=asked.style, wants=asked.wants)
    elif asked.answer is not None:
        about = Reply(asked.answer, asked)
    else:
        assert seen is not None, "a well that is asked about has a description"
        text = _read_out(asked, seen, style, told)
        about = Reply(asked.reply(text), asked, seen.description, seen.confidences)
    if asked.wants == AGAIN:
        return replace(about, text=asked.reply(_restyled(about.text, style)), asked=asked)
    if asked.wants in (CONFIDENCE, GROUNDS):
        say = _confidence if asked.wants == CONFIDENCE else _grounds
        return replace(about, text=say(about), asked=asked, stated=about.text)
    return about


def _read_out(asked: Asked, seen: Seen, style: str | None, told: Collection[Claim]) -> str:
    if asked.wants == MORE:
        rest = [said for said in read_claims(seen.description) if said.claim not in told]
        more = describe_facts(rest, style or "by_subject")
        return more if rest else "That is all that the description says."
    if asked.question in (DESCRIBE, LAST):
        return _restyled(seen.description, style)
    return _restyled(answer_from(seen.description, asked.question, seen.imaged), style)


def _restyled(text: str, style: str | None) -> str:
    said = read_claims(text)
    return describe_facts(said, style) if style and said else text


def _confidence(about: Reply) -> str:
    if about.by_rule:
        return f"{about.text} That is known from the store, not read from an image."
    if not about.confidences:
        return "How sure the model was is not known."
    stated = parse_description(about.text)
    if not stated and parse_description(about.description or ""):
        return "The description claims no such change, and gives that no probability."
    return state_confidences(about.text if stated else about.description or "", about.confidences)


def _grounds(about: Reply) -> str:
    if about.by_rule:
        return _confidence(about)
    whole = " ".join((about.description or "").split())
    return f"{_confidence(about).rstrip('.')}. The whole description: {whole}"
