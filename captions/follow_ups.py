"""Talks about wells: a line is understood by what was asked and said before it.

    talk = Talk()
    turn, talk = follow(talk, "What changed in Mito?", {"C05": seen})
    turn, talk = follow(talk, "And in ER?", {"C05": seen})  # What changed in ER?

A talk is a value: the same talk and line give the same turn.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from captions.answers import Reply, Seen, reply_to
from captions.asking import (
    AGAIN,
    ANSWER,
    LAST,
    MORE,
    Asked,
    checked,
    understand,
    without_before,
)
from captions.comparison import compare
from captions.descriptions import parse_description
from captions.questions import DESCRIBE
from captions.slots import Claim
from captions.topics import FILLERS, WELL, read_topic, words_of
from captions.verification import Measurement
from data.errors import InputError

COMPARE = "What do these wells have in common, and do they act alike?"


@dataclass(frozen=True)
class Talk:
    """What was asked and said so far.

    Attributes
    ----------
    asked : Asked or None
        The last question; None where nothing was asked yet.
    wells : tuple of str
        The wells that it was about.
    compared : bool
        Whether it compared them.
    replies : mapping of well to Reply
        The last answers; of wells that were compared, their descriptions.
    told : frozenset of (well, Claim)
        Everything that was said.
    """

    asked: Asked | None = None
    wells: tuple[str, ...] = ()
    compared: bool = False
    replies: Mapping[str, Reply] = field(default_factory=dict)
    told: frozenset[tuple[str, Claim]] = frozenset()


@dataclass(frozen=True)
class Resolved:
    """A line as a whole question: what is asked about each well, and whether they are compared."""

    asked: Mapping[str, Asked]
    compared: bool = False


@dataclass(frozen=True)
class Turn:
    """A whole question, and what was answered about each well or, comparing them, about all."""

    question: str
    replies: Mapping[str, Reply]
    comparison: str | None = None

    def record(self, measured: Mapping[str, Measurement | None], verified: bool) -> dict[str, Any]:
        """Everything about the turn as JSON; `measured` by well."""
        wells = {
            well: reply.record(measured.get(well), verified) for well, reply in self.replies.items()
        }
        record = {"understood": self.question, "wells": wells}
        return record if self.comparison is None else record | {"comparison": self.comparison}


_LEADING = FILLERS | {"and", "what", "how", "about"}
_OTHERS = re.compile(r"\b(?:the )?(?:others?|other (?:one|wells?)|rest)\b", re.IGNORECASE)
_ALL = re.compile(
    r"\b(?:all|both|each|every)(?: of)?(?: the| these)?(?: wells?)?\b|\bwhich (?:of|wells?)\b",
    re.IGNORECASE,
)
_ODD = re.compile(
    r"\b(?:like|unlike|from|to) (?:all )?(?:the )?(?:others?|other wells|rest)\b"
    r"|\bodd (?:one|well)\b|\boutliers?\b|\bstands? out\b"
)
_COMPARED = re.compile(
    r"\bcompar(?:e|ison)\b|\bversus\b|\bvs\b|\balike\b|\bin common\b|\bshared?\b"
    r"|\beach other\b|\bone another\b|\bbetween\b|\bsimilar\b|\bthe same\b(?! (?:for|in))"
    r"|\b(?:they|these|both|two|wells)\b.*\bdiffer"
)
_LIKE = re.compile(r"\b(?:like|differ\w* (?:from|to))\W*$")
_CONTROLS = re.compile(r"\b(?:controls?|dmso|untreated|normal)\b")


def resolve(talk: Talk, line: str, imaged: Mapping[str, Sequence[str]]) -> Resolved:
    """Turn a line into a whole question about each well that it is about.

    Parameters
    ----------
    talk : Talk
    line : str
        A line that names no wells is about those of the line before; the first, about all.
    imaged : mapping of well to stains
        All wells that can be asked about, by name: "C05", or "SIMC01 C05" of several plates.

    Raises
    ------
    InputError
        When the line is not understood (`captions.asking.understand`), names a well that is not
        there, or compares fewer wells than that takes.
    """
    text = checked(line)
    named, rest = _take_wells(text, tuple(imaged))
    words = words_of(rest)
    bare = bool(named) and set(words) <= _LEADING
    if _is_comparison(rest.lower(), named, talk) or (bare and talk.compared):
        wells = _to_compare(rest.lower(), named, talk.wells, tuple(imaged))
        return Resolved({well: understand(DESCRIBE, imaged[well]) for well in wells}, True)
    if not named:
        named, rest = _others_or_all(rest, talk.wells, tuple(imaged))
        bare = bool(named) and set(words_of(rest)) <= _LEADING
    wells = named or talk.wells or tuple(imaged)
    if bare and words and talk.asked is None:  # "and D07?"
        raise without_before(text)
    if bare:
        return Resolved({well: _same_question(talk.asked, imaged[well]) for well in wells})
    before = None if talk.asked is None else talk.asked.topic
    asked = {well: understand(text, imaged[well], before) for well in wells}
    for well, one in asked.items():
        if one.question == LAST and one.wants != MORE and well not in talk.replies:
            same = _same_question(talk.asked, imaged[well])
            asked[well] = replace(same, wants=one.wants, style=one.style)
    return Resolved(asked)


def follow(
    talk: Talk, line: str, wells: Mapping[str, Seen], style: str | None = None
) -> tuple[Turn, Talk]:
    """Answer a line, and return the talk with it.

    Parameters
    ----------
    talk : Talk
        `Talk()` at the beginning.
    line : str
    wells : mapping of well to Seen
        All wells that can be asked about, by name.
    style : str, optional
        Of answers to questions that ask for none: one of `captions.descriptions.STYLES`.

    Raises
    ------
    InputError
        As `resolve`.
    """
    resolved = resolve(talk, line, {well: seen.imaged for well, seen in wells.items()})
    told: dict[str, set[Claim]] = {well: set() for well in wells}
    for well, claim in talk.told:
        told[well].add(claim)
    replies = {
        well: reply_to(one, wells[well], style, talk.replies.get(well), told[well])
        for well, one in resolved.asked.items()
    }
    turn = take_turn(resolved, replies)
    said = {
        (well, claim)
        for well, reply in replies.items()
        for claim in parse_description(_described(reply) if resolved.compared else reply.text)
    }
    asked = next((one.asked for one in replies.values() if not one.by_rule), None)
    return turn, Talk(
        asked or next(iter(replies.values())).asked,
        tuple(replies),
        resolved.compared,
        replies,
        talk.told | said,
    )


def take_turn(resolved: Resolved, replies: Mapping[str, Reply]) -> Turn:
    """Put the replies about each well together, and compare them where that was asked."""
    wells = ", ".join(replies)
    if resolved.compared:
        said = {well: _described(reply) for well, reply in replies.items()}
        return Turn(f"{COMPARE} ({wells})", replies, compare(said))
    full = dict.fromkeys(reply.asked.full for reply in replies.values())
    return Turn(f"{' / '.join(full)} ({wells})", replies)


def _described(reply: Reply) -> str:
    return reply.text if reply.description is None else reply.description


def _same_question(asked: Asked | None, imaged: Sequence[str]) -> Asked:
    """Ask about another well what was asked before; to describe it, where nothing was."""
    if asked is None:
        return understand(DESCRIBE, imaged)
    if asked.question == LAST:  # more is wanted
        return asked if imaged else understand(DESCRIBE, imaged)
    wants = ANSWER if asked.wants == AGAIN else asked.wants
    same = understand(asked.whole, imaged, asked.topic)
    return replace(same, style=asked.style, wants=wants, topic=asked.topic)


def _take_wells(text: str, wells: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Take the names of wells out of a line."""
    plates = {well.rpartition(" ")[0] for well in wells} - {""}
    said = {plate for plate in plates if re.search(rf"\b{re.escape(plate)}\b", text)}
    named: dict[str, None] = {}

    def take(match: re.Match[str]) -> str:
        name = f"{match[1].upper()}{int(match[2]):02d}"
        fitting = [
            well
            for well in wells
            if well.rpartition(" ")[2] == name and (not said or well.rpartition(" ")[0] in said)
        ]
        if not fitting:
            shown = ", ".join(wells[:8]) + (", ..." if len(wells) > 8 else "")
            raise InputError(f"{match[0]} is not one of the wells asked about: {shown}")
        named.update(dict.fromkeys(fitting))
        return " "

    for plate in said:  # a barcode may look like a well
        text = re.sub(rf"\b{re.escape(plate)}\b", " ", text)
    rest = " ".join(WELL.sub(take, text).split())
    return tuple(named), rest


def _others_or_all(
    text: str, before: tuple[str, ...], wells: tuple[str, ...]
) -> tuple[tuple[str, ...], str]:
    """Find out whether a line is about the other wells, or all of them."""
    others = tuple(well for well in wells if well not in before)
    if before and others and _OTHERS.search(text):
        return others, _OTHERS.sub(" ", text)
    if len(wells) > 1 and _ALL.search(text):
        return wells, _ALL.sub(" ", text)
    return (), text


def _is_comparison(text: str, named: Sequence[str], talk: Talk) -> bool:
    """Whether wells are compared; what is asked of one part of them is answered well by well."""
    topic = read_topic(text)
    if topic is None or topic.stains or topic.properties or topic.place == "nuclei":
        return False
    if _CONTROLS.search(text):
        return False
    if _ODD.search(text) or _COMPARED.search(text):
        return True
    likened = len(named) > 1 or bool(named and set(talk.wells) - set(named))
    return likened and bool(_LIKE.search(text) or (len(named) > 1 and "differ" in text))


def _to_compare(
    text: str, named: tuple[str, ...], before: tuple[str, ...], wells: tuple[str, ...]
) -> tuple[str, ...]:
    """The wells that are compared."""
    least = 2
    if _ODD.search(text):
        least, chosen = 3, named if len(named) > 2 else wells
    elif len(named) > 1:
        chosen = named
    elif named:
        chosen = tuple(dict.fromkeys((*before, *named)))
    else:
        chosen = before if len(before) > 1 else wells
    if len(chosen) < least:
        raise InputError(
            f"a comparison takes {least} wells or more, here {len(chosen)}: give them, such as "
            "--well C05,D07,E09, and name those that are meant"
        )
    return chosen
