"""What a question means: rules that stand between a user and a model.

A question that means one of `captions.questions.answers` is taken as that; what needs no look at
the well (a stain without an image) is answered by rule. What is not understood with certainty is
taken as a question that includes it ("What changed in Mito?"), or refused in one line: a wrong
understanding is worse than a refusal. Questions that go on from another one, or are about several
wells, are resolved in `captions.follow_ups`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from captions.descriptions import parse_description, subject
from captions.questions import DESCRIBE, NOTHING_IMAGED, NUCLEI, answers, direction_question
from captions.slots import CORRELATION_PAIRS, Claim, needed_stains
from captions.topics import (
    FILLERS,
    NAMING,
    NO_TOPIC,
    STAIN_OF,
    WELL,
    Topic,
    continued,
    read_topic,
    slot_of,
    words_of,
)
from data.errors import InputError

MAX_QUESTION = 500
"""Characters of the longest question."""

LAST = "that"
"""In place of a question: the answer before. "How sure are you?" is about it."""

ANSWER, CONFIDENCE, GROUNDS, MORE, AGAIN = "answer", "confidence", "grounds", "more", "again"
"""What is wanted: an answer, how sure it is, what it is based on, what was not yet said, or the
same in another style."""

_ABOUT_LAST = {
    CONFIDENCE: "How sure are you?",
    GROUNDS: "What is that based on?",
    MORE: "What else changed?",
    AGAIN: "Say it again.",
}


@dataclass(frozen=True)
class Asked:
    """A question as it was understood.

    Attributes
    ----------
    question : str
        One of `captions.questions.answers`; `LAST`; or one that is answered by rule.
    answer : str or None
        Given by rule: then the well is not looked at.
    claim : Claim or None
        What a yes or no is wanted on ("is the nucleus larger?").
    style : str or None
        The style that it asks for (`captions.descriptions.STYLES`).
    wants : str
        `ANSWER`, `CONFIDENCE` or `GROUNDS` of the answer; of the last one also `AGAIN`; `MORE`.
    topic : Topic
        What the next question can go on from.
    """

    question: str
    answer: str | None = None
    claim: Claim | None = None
    style: str | None = None
    wants: str = ANSWER
    topic: Topic = NO_TOPIC

    def reply(self, answer: str) -> str:
        """Put a yes or a no before an answer, where one is asked for."""
        if self.claim is None:
            return answer
        claims = parse_description(answer)
        if not claims:
            slot = self.claim.slot
            what = "" if slot.property == "count" else f" in {slot.property}"
            return f"No. {subject(slot)}: no significant change{what}."
        verdict = "Yes." if self.claim in claims else "No."
        return f"{verdict}\n{answer}" if "\n" in answer else f"{verdict} {answer}"

    @property
    def whole(self) -> str:
        """The question in words that are understood by themselves."""
        if self.claim is None:
            return self.question
        return direction_question(self.claim.slot, self.claim.direction)

    @property
    def full(self) -> str:
        """The question with what is wanted of its answer."""
        question = self.whole
        if self.wants != ANSWER:
            about = "" if self.wants == MORE or question == LAST else f" ({question})"
            question = _ABOUT_LAST[self.wants] + about
        return f"{question} [{self.style}]" if self.style else question


_NAMED = re.compile(r"\b(?:in|[Ii]s)\s+(?:the\s+)?([A-Z][\w-]+)(?=\s+(?:stain|channel)|\?|$)")
_OTHER_STAINS = ("GFP", "YFP", "CFP", "RFP", "mCherry", "LysoTracker", "lysosomes", "BODIPY", "Cy5")

_LEAD = re.compile(
    r"^(?P<softly>(?:so|ok|okay|but|now|then)\b[\s,]*)?"
    r"(?P<elliptic>(?:and|or|also|(?:what|how) (?:about|of)|same (?:for|in))\b[\s,]*)*",
    re.IGNORECASE,
)
_STYLED = {
    "one_line": r"\b(?:one|single) (?:line|sentence)\b|\bshorter\b|\bbriefly\b|\bin short\b",
    "sentences": r"\bsentences\b|\bparagraph\b|\bprose\b",
    "by_channel": r"\b(?:by|per) (?:channel|stain)s?\b|\bchannel by channel\b",
    "by_compartment": r"\b(?:by|per) compartments?\b",
    "table": r"\btable\b|\btabulate\b",
    "list": r"\ba list\b|\bbullets?\b|^list\b",
}
"""How styles are asked for."""

_YES_OR_NO = {"is", "are", "was", "were", "do", "does", "did", "has", "have"}
_NEGATIONS = {
    "no", "not", "never", "without", "unchanged", "least", "second", "isn", "aren", "wasn", "weren",
    "doesn", "don", "didn", "hasn", "haven", "neither", "nor",
}  # fmt: skip
_UNCERTAIN = {"sure", "certain", "confident", "confidence", "certainty"}
_BASELINES = {"control", "controls", "dmso", "untreated", "normal", "usual", "before", "reference"}
_GROUNDS = re.compile(
    r"\bbased on\b|\bhow do you know\b|\bevidence\b|\bwhy do you (?:say|think)\b|^why(?: so)?\W*$"
)
_MORE = re.compile(
    r"\btell me more\b|\b(?:what|anything|something) else\b|\bmore details?\b|\bgo on\b|^more\W*$"
)
_CAUSE = re.compile(
    r"^why\b|\bmechanism|\bmoa\b|\bcauses?d?\b|"
    r"\b(?:what|which) (?:is the )?(?:compound|drug|gene|target|treatment|perturbation|reagent)"
)
_DESCRIBE = {
    "describe", "description", "happened", "happening", "change", "changed", "changes", "altered",
    "affected", "phenotype", "normal", "abnormal", "healthy", "wrong", "effect", "effects",
    "inactive", "summarise", "summarize", "summary", "see",
}  # fmt: skip
_CHANGED_IN = re.compile(r"\bchange[ds]? in (?:(?:the|this|these|that|any) )?([a-z]+)")
_WHOLE = {"well", "cells", "all", "general", "total", "it", "them", "morphology", "image", "images"}
_DOES = re.compile(r"^what (?:do|does|did)\b.*\bdo\b")
_STRONGEST = {"most", "strongest", "mainly", "biggest", "largest"}


def understand(question: str, imaged: Sequence[str], before: Topic | None = None) -> Asked:
    """Find out what a question about one well means.

    Parameters
    ----------
    question : str
        Names of wells in it are passed over.
    imaged : sequence of str
        The stains that the well was imaged in.
    before : Topic, optional
        Of the question before, which this one may go on from.

    Raises
    ------
    InputError
        When the question is empty, longer than `MAX_QUESTION`, not English or not understood; or
        goes on from a question before, and there is none.
    """
    text = checked(question)
    if not imaged:
        return Asked(text, NOTHING_IMAGED)
    learned = {_plain(known): known for known in answers(imaged)}
    if _plain(text) in learned:
        return Asked(learned[_plain(text)], topic=read_topic(text) or NO_TOPIC)
    said = " ".join(WELL.sub(" ", text).split())
    lead = _LEAD.match(said)
    rest = re.sub(r",? yes or no\b", "", said[lead.end() :] if lead else said)
    words = words_of(rest)
    stains = list(dict.fromkeys(STAIN_OF[word] for word in words if word in STAIN_OF))
    missing = [stain for stain in stains if stain not in imaged] or _unknown_stains(rest)
    topic = read_topic(rest)
    bare = set(words) <= NAMING | FILLERS
    if missing:
        named = topic or NO_TOPIC
        named = continued(before, named) if before is not None and bare else named
        about = f"What changed in {' and '.join(missing)}?"
        return Asked(about, _not_imaged(missing), topic=named)
    elliptic = bool(lead and lead["elliptic"]) and bare
    asked = None
    if topic is not None:
        asked = _about_last(rest.lower(), words, topic, before, imaged)
        if asked is None and not elliptic:
            asked = _whole(rest, words, topic, imaged, before)
        if asked is None and before is not None and set(words) & NAMING:
            asked = _continued(words, topic, before, imaged)
    if asked is None:
        one_part = topic is not None and not _is_pair(topic)
        if before is None and one_part and (elliptic or _goes_on(rest.lower(), words)):
            raise without_before(text)
        raise _not_understood(text, one_part)
    return asked


def checked(question: str) -> str:
    """Return a question in one line; refuse one that is empty or too long."""
    text = " ".join(question.split())
    if not text:
        raise InputError(f"the question is empty: write one, such as {DESCRIBE!r}")
    if len(text) > MAX_QUESTION:
        raise InputError(
            f"the question has {len(text)} characters, more than {MAX_QUESTION}: ask one thing at "
            "a time"
        )
    return text


def without_before(text: str) -> InputError:
    """Return the error that refuses a question which goes on from nothing."""
    return InputError(
        f"{_shown(text)} goes on from a question before, and there was none: ask in full, such as "
        f"{DESCRIBE!r} or 'Are the nuclei larger?'"
    )


def _not_understood(text: str, one_part: bool) -> InputError:
    words = set(words_of(text))
    if _CAUSE.search(text.lower()) and ("why" not in words or words & (NAMING | _DESCRIBE)):
        return InputError(
            f"{_shown(text)} cannot be answered from images: they show what changed, not why; "
            "--hypotheses true says which targets similar training wells suggest"
        )
    if not one_part:
        return InputError(
            f"{_shown(text)} is about several parts at once: ask about one at a time, or about the "
            f"overlap of one of {', '.join(CORRELATION_PAIRS)}"
        )
    return InputError(
        f"the question {_shown(text)} is not understood: ask in English what changed in the well "
        f"or in a stain, such as {DESCRIBE!r} or 'Are the nuclei larger?'"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _plain(text: str) -> str:
    return text.lower().rstrip("?.! ")


def _unknown_stains(text: str) -> list[str]:
    """Names, written as names are, that stand where a stain would and are none."""
    known = [name for name in _OTHER_STAINS if re.search(rf"\b{name}\b", text, re.IGNORECASE)]
    named = [match[1] for match in _NAMED.finditer(text)]
    return known or [name for name in named if not set(words_of(name)) <= NAMING | {"cytoplasm"}]


def _not_imaged(missing: Sequence[str]) -> str:
    return f"{' and '.join(missing)} {'was' if len(missing) == 1 else 'were'} not imaged."


def _is_pair(topic: Topic) -> bool:
    return len(topic.stains) > 1 or "correlation" in topic.properties


def style_of(text: str) -> str | None:
    """Return the style that a question asks for, if one."""
    return next((name for name, words in _STYLED.items() if re.search(words, text.lower())), None)


def _goes_on(text: str, words: Sequence[str]) -> bool:
    """Whether a question says nothing without one before it."""
    return bool(_MORE.search(text) or _GROUNDS.search(text) or style_of(text)) or (
        bool(words) and set(words) <= NAMING | FILLERS | _YES_OR_NO
    )


def _about_last(
    text: str, words: Sequence[str], topic: Topic, before: Topic | None, imaged: Sequence[str]
) -> Asked | None:
    """Understand what is about another answer: its confidence, its grounds, its style."""
    style, wants = style_of(text), ANSWER
    if _UNCERTAIN & set(words):
        wants = CONFIDENCE
    elif _GROUNDS.search(text):
        wants = GROUNDS
    if wants != ANSWER:
        about = _topical(topic, imaged)
        if about is None and before is None and wants == CONFIDENCE:
            about = Asked(DESCRIBE)
        if about is None and (before is None or topic.stains or topic.properties):
            return None
        about = about or Asked(LAST, topic=before or topic)
        return replace(about, style=style, wants=wants)
    if before is None or topic.stains or topic.properties or topic.place == "nuclei":
        return None
    if _MORE.search(text):
        return Asked(LAST, style=style, wants=MORE, topic=before)
    if style and not set(words) & (_DESCRIBE | {"which"}):
        return Asked(LAST, style=style, wants=AGAIN, topic=before)
    return None


def _topical(topic: Topic, imaged: Sequence[str], wants_yes: bool = False) -> Asked | None:
    """Ask about the slot that a topic names, or else about all that it names of a well."""
    slot = slot_of(topic)
    if slot is not None:
        lacking = [stain for stain in needed_stains(slot) if stain not in imaged]
        if lacking:
            return Asked(direction_question(slot), _not_imaged(lacking), topic=topic)
        if wants_yes and topic.direction:
            claim = Claim(*slot, topic.direction)
            return Asked(direction_question(slot), claim=claim, topic=topic)
        return Asked(direction_question(slot), topic=topic._replace(direction=""))
    if _is_pair(topic):
        return None
    if topic.stains:
        return Asked(f"What changed in {topic.stains[0]}?", topic=topic)
    if topic.place == "nuclei":
        answer = None if "DNA" in imaged else _not_imaged(["DNA"])
        return Asked(NUCLEI, answer, topic=topic)
    if topic.place and topic.properties:
        return Asked(DESCRIBE, topic=topic)
    return None


def _whole(
    text: str, words: Sequence[str], topic: Topic, imaged: Sequence[str], before: Topic | None
) -> Asked | None:
    """Understand a question that says all by itself; None where it does not."""
    said, lower = set(words), text.lower()
    is_riddle = {"than", "compared"} & said and not said & _BASELINES
    if is_riddle or _CAUSE.search(lower) or "how many" in lower:
        return None
    fragment = said <= NAMING | FILLERS
    if fragment and before is not None and topic.place + "".join(topic.stains):
        return None  # it goes on, if it can
    style, denied = style_of(lower), bool(said & _NEGATIONS)
    wants_yes = bool(words) and words[0] in _YES_OR_NO and not denied and not said & {"or", "how"}
    asked = _topical(topic, imaged, wants_yes)
    if asked is not None or topic.stains:
        return asked and replace(asked, style=style)
    if {"imaged", "stained"} & said:
        return Asked("Which stains were imaged?", f"Imaged: {', '.join(imaged)}.")
    asks_channel = {"which", "what"} & said and {"channel", "stain", "organelle", "marker"} & said
    if asks_channel and _STRONGEST & said and not denied:
        return Asked("Which channel changed most?", style=style)
    if denied and {"which", "what"} & said:
        return None
    in_channels = {"changed", "affected"} & said or topic.properties
    if {"channels", "stains", "organelles"} & said and in_channels:
        return Asked(DESCRIBE, style=style or "by_channel")
    if {"different", "differ", "active", "hit"} & said and not denied:
        return Asked("Is this well different from the controls?", style=style)
    if _STRONGEST & said and _DESCRIBE & said:
        return Asked(DESCRIBE, style=style or "one_line")
    part = _CHANGED_IN.search(lower)
    if part and part[1] not in _WHOLE | NAMING:
        return None  # of the cell, and none that is described
    resembles = {"like", "similar", "same", "compare"} & said and _BASELINES & said
    if _DESCRIBE & said or _DOES.search(lower) or resembles:
        return Asked(DESCRIBE, style=style)
    return None


def _continued(
    words: Sequence[str], topic: Topic, before: Topic, imaged: Sequence[str]
) -> Asked | None:
    """Understand a question together with the one before it."""
    together = continued(before, topic)
    bare = set(words) <= NAMING | FILLERS
    if not bare and (topic.stains or topic.place or words[0] not in _YES_OR_NO):
        return None
    wants_yes = not set(words) & ({"or"} | _NEGATIONS)
    asked = _topical(together, imaged, wants_yes)
    if asked is None and bare and together.place:
        return Asked(DESCRIBE, topic=together)
    return asked
