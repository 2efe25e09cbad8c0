"""Which texts mention a target that is held out: its gene, its reagents, what these do.

Matching is by whole words. A text is cut into words at everything that is no letter or digit (so
"PLK1-like" mentions PLK1, "HDAC30" does not mention HDAC3), and a term is a sequence of words.
Case does not count ("Plk1", "mTOR"), except for gene symbols that are English words too (MET, SET,
CAT: only in capitals) and symbols of two letters. What follows "SMILES" is compared as a structure.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import pandas as pd

from data.channels import STAINS

_WORDS = """
    ACE ACHE ARC BAD BAG BASE BID BRIGHT CAGE CAMP CAP CARD CARS CASK CAST CAT CHAT CHIC CHIP CIT
    CLIP CLOCK COIL COPE CREST CUT DISH END FAT FISH FLAIR FLIP FRITZ GAS GEM HIP HOOK HOT HUNK ICE
    IMPACT ITCH JAM KEY KILLER KIT LAG LAP LARGE LIME MAD MARK MARS MASK MASS MAST MAX MEN MET MICE
    MOD NET NODAL NOT OUT PALM PAM PAR PARK PASK PICK PIN PIP POLE PROM RAG RAMP RAN REG REST RHO
    RING SAG SEND SET SHE SHIP SKI SON SPAN SPIN STAR STEP STOP SUN TANK TEN TIP TRAP TRIO WARS
    WARTS WAS WEE ZIP
"""
WORDS = frozenset(_WORDS.split())
"""Symbols and older symbols of genes that are words as well."""

KINDS = ("gene", "reagent", "structure", "mechanism")

MIN_ALIAS = 3
"""Shorter older symbols ("ER", "T") say too little to be looked for; a target's own always is."""

MIN_SYNONYM = 4
"""The same for a compound's synonyms of letters alone: NVP is nevirapine, and begins many names."""

# "Ca2+" is an ion, not the gene CA2.
_WORD = re.compile(r"[^\W_]+(?![^\W_]|\+)")
_STRUCTURE = re.compile(r"SMILES:?\s+(\S+)")
_SYMBOL_WITH_NUMBER = re.compile(r"([A-Za-z]{3,})(\d[A-Za-z\d]*)")


class Term(NamedTuple):
    """Something that would give a held-out target away.

    `label` is the target; `kind` one of `KINDS`; `text` what to look for; `exact` whether case
    counts.
    """

    label: str
    kind: str
    text: str
    exact: bool = False


class TermIndex:
    """Terms, ready to be found in many texts."""

    def __init__(self, terms: Iterable[Term]):
        self._by_words: dict[tuple[str, ...], list[tuple[tuple[str, ...], Term]]] = defaultdict(
            list
        )
        self._by_structure: dict[str, list[Term]] = defaultdict(list)
        for term in dict.fromkeys(terms):
            if term.kind == "structure":
                self._by_structure[term.text].append(term)
                continue
            for words in _spellings(term):
                self._by_words[tuple(word.lower() for word in words)].append((words, term))
        self._longest = max(map(len, self._by_words), default=0)

    def find(self, text: str) -> list[Term]:
        """Return the terms that a text mentions, each once, in the order of the text."""
        found: dict[Term, None] = {}
        for smiles in _STRUCTURE.findall(text):
            # What closes the sentence may follow; a bracket can be either.
            while smiles:
                found.update(dict.fromkeys(self._by_structure.get(smiles, [])))
                smiles = smiles[:-1] if smiles[-1] in ".,;:)]\"'" else ""
        words = tuple(_WORD.findall(_STRUCTURE.sub(" ", text)))
        lower = tuple(word.lower() for word in words)
        for start in range(len(words)):
            for stop in range(start + 1, min(start + self._longest, len(words)) + 1):
                for wanted, term in self._by_words.get(lower[start:stop], []):
                    if not term.exact or wanted == words[start:stop]:
                        found[term] = None
        return list(found)


def held_out_terms(
    targets: Collection[str], reagents: pd.DataFrame, genes: pd.DataFrame | None = None
) -> Iterator[Term]:
    """Yield what must not stand in training text when these targets are held out.

    Parameters
    ----------
    targets : collection of str
        Gene symbols.
    reagents : DataFrame
        From `captions.knowledge.describe_reagents`, with `Metadata_target_list`: those that have a
        held-out target give their names, synonyms, structures and mechanisms.
    genes : DataFrame, optional
        From `Knowledge.look_up_genes`: older symbols and names of the proteins.
    """
    for target in sorted(targets):
        yield Term(target, "gene", target, _case_counts(target))
        if genes is None:
            continue
        for symbol in [target] if target in genes.index else []:
            known = genes.loc[symbol]
            for alias in (known["current_symbol"], *known["aliases"].split("|")):
                if _usable(alias):
                    yield Term(target, "gene", alias, _case_counts(alias))
            for name in filter(_usable, known["names"].split("|")):
                yield Term(target, "gene", name, _case_counts(name))
    for reagent in reagents.to_dict("records"):
        held_out = sorted(set(reagent["Metadata_target_list"].split("|")) & set(targets))
        genetic = reagent["Metadata_modality"] != "compound"  # named after its gene
        for target in held_out if reagent["Metadata_modality"] != "control" else []:
            yield Term(target, "reagent", reagent["Metadata_broad_sample"], True)
            for smiles in {reagent["smiles"], reagent.get("Metadata_smiles") or ""} - {""}:
                yield Term(target, "structure", smiles)
            names = [] if genetic else [reagent["name"]]
            names += [] if genetic else filter(_usable_synonym, reagent["synonyms"].split("|"))
            for name in names:
                yield Term(target, "reagent", name, _case_counts(name))
            for mechanism in filter(None, reagent["mechanism"].split("|")):
                yield Term(target, "mechanism", mechanism)


def _usable(name: str) -> bool:
    """Whether a synonym says enough: three letters or digits, one letter, and no stain's name."""
    short = "".join(_WORD.findall(name))
    stains = {stain.lower() for stain in STAINS}
    return len(short) >= MIN_ALIAS and not short.isdigit() and short.lower() not in stains


def _usable_synonym(name: str) -> bool:
    return _usable(name) and not (len(name) < MIN_SYNONYM and name.isalpha())


def _case_counts(name: str) -> bool:
    return len(name) < MIN_ALIAS or name.upper() in WORDS


def _spellings(term: Term) -> Iterator[tuple[str, ...]]:
    """Words of a term; a symbol with a number also apart from it ("HDAC 3", "HDAC-3")."""
    words = tuple(_WORD.findall(term.text))
    if words:
        yield words
    if term.kind == "gene" and (apart := _SYMBOL_WITH_NUMBER.fullmatch(term.text)):
        yield apart.groups()
