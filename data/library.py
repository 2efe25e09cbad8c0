"""The simulated reagents: compounds, guides and ORFs, and what each does to a cell."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.phenotypes import (
    AXES,
    INACTIVE_COMPOUNDS,
    INACTIVE_GENES,
    OFF_TARGETS,
    SMILES,
    TARGETS,
    Target,
)

NEGATIVE_CONTROLS = {
    "compound": (("", "DMSO"),),
    "crispr": (("SIM-K-NT1", "control"), ("SIM-K-NT2", "control")),
    "orf": (("SIM-O-LACZ", "LacZ"), ("SIM-O-EGFP", "EGFP")),
}
"""(broad_sample, name) of each modality's controls; DMSO has no sample, as in JUMP's platemaps."""

POTENCIES = (1.0, 0.75, 0.45)
"""Strong, medium and weak compound."""


@dataclass(frozen=True, eq=False)
class Reagent:
    """One compound, guide or ORF.

    Attributes
    ----------
    broad_sample : str
        Its id; "" for DMSO.
    name : str
        Compound name, or gene.
    modality : str
        compound, crispr or orf.
    target : str
        The gene; "" where there is none.
    control : bool
        True for negative controls.
    effects : float array (len(AXES),)
        What an affected cell shows, off-target effects included.
    penetrance : float
        Part of the cells that is affected.
    """

    broad_sample: str
    name: str
    modality: str
    target: str
    control: bool
    effects: NDArray[np.float64]
    penetrance: float

    @property
    def active(self) -> bool:
        """Whether the reagent does anything."""
        return bool(self.effects.any())

    @property
    def smiles(self) -> str:
        """The structure of a compound that we know by heart, or ""."""
        return SMILES.get(self.name, "")


def axis_vector(effects: dict[str, float]) -> NDArray[np.float64]:
    """Turn axis names and effects into a vector over `AXES`."""
    return np.array([effects.get(axis, 0.0) for axis in AXES])


def build_library(
    n_targets: int,
    n_inactive_compounds: int,
    n_inactive_genes: int,
    compound_strength: float,
    crispr_strength: float,
    orf_strength: float,
    off_target_strength: float,
    rng: np.random.Generator,
) -> list[Reagent]:
    """Build every reagent, the controls included.

    Three compounds, two or three guides and one ORF a target. Each also moves the off-target
    programmes, which reagents of all targets share, up or down by amounts of its own.

    Parameters
    ----------
    n_targets, n_inactive_compounds, n_inactive_genes : int
        How many of `TARGETS` and of the inactive compounds and genes to use.
    compound_strength, crispr_strength, orf_strength : float
        Factor on the target's effects.
    off_target_strength : float
        Standard deviation of the factors on the off-target programmes.
    rng : Generator
    """
    programmes = np.stack([axis_vector(effects) for effects in OFF_TARGETS.values()])

    def off_target() -> NDArray[np.float64]:
        return off_target_strength * rng.standard_normal(len(programmes)) @ programmes

    nothing = np.zeros(len(AXES))
    library = [
        Reagent(sample, name, modality, "", True, nothing, 1.0)
        for modality, controls in NEGATIVE_CONTROLS.items()
        for sample, name in controls
    ]
    for number, target in enumerate(TARGETS[:n_targets]):
        effects = axis_vector(target.effects)
        for name, potency in zip(target.compounds, POTENCIES, strict=True):
            seen = compound_strength * potency * effects + off_target()
            library.append(
                Reagent(_sample("C", library), name, "compound", target.gene, False, seen, 0.92)
            )
        for _ in range(2 + number % 2):
            seen = crispr_strength * rng.uniform(0.85, 1.1) * effects + 0.85 * off_target()
            penetrance = rng.uniform(0.6, 0.9)
            library.append(_gene_reagent("crispr", target, seen, penetrance, library))
        sign = 1.0 if target.orf_mimics else -1.0
        seen = orf_strength * sign * effects + 0.85 * off_target()
        library.append(_gene_reagent("orf", target, seen, 0.8, library))
    for name in INACTIVE_COMPOUNDS[:n_inactive_compounds]:
        library.append(Reagent(_sample("C", library), name, "compound", "", False, nothing, 1.0))
    for gene in INACTIVE_GENES[:n_inactive_genes]:
        for modality, letter in (("crispr", "K"), ("orf", "O")):
            sample = _sample(letter, library)
            library.append(Reagent(sample, gene, modality, gene, False, nothing, 1.0))
    return library


def _gene_reagent(
    modality: str,
    target: Target,
    effects: NDArray[np.float64],
    penetrance: float,
    library: list[Reagent],
) -> Reagent:
    sample = _sample({"crispr": "K", "orf": "O"}[modality], library)
    return Reagent(sample, target.gene, modality, target.gene, False, effects, penetrance)


def _sample(letter: str, library: list[Reagent]) -> str:
    """Return the next free id: SIM-C001 (compounds), SIM-K001 (guides), SIM-O001 (ORFs)."""
    taken = sum(r.broad_sample.startswith(f"SIM-{letter}") and not r.control for r in library)
    return f"SIM-{letter}{taken + 1:03d}"
