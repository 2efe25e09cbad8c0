"""Simulated plates in JUMP's own layout: pictures, platemaps and metadata, all marked simulated."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from tqdm import tqdm

from data.channels import CHANNELS
from data.errors import InputError
from data.files import atomic_path
from data.library import Reagent, build_library
from data.microscope import draw_plate_conditions, draw_well_conditions, photograph
from data.parallel import ordered_map
from data.phenotypes import AXES, INACTIVE_COMPOUNDS, INACTIVE_GENES, TARGETS
from data.rendering import render_field

ROWS, COLUMNS = "ABCDEFGH", 12

JUMP_CHANNELS = ("Mito", "AGP", "RNA", "ER", "DNA")
"""Stains of ch1 to ch5 in JUMP's file names."""

HOURS = {"compound": 48, "crispr": 96, "orf": 48}

NOTE = "SIMULATED plates, made by MorphoCLIP's simulator. Nothing in this folder was measured.\n"


@dataclass
class SimulationConfig:
    """Every setting of the simulator.

    Attributes
    ----------
    seed : int
        The same seed and settings give the same files.
    n_targets, n_inactive_compounds, n_inactive_genes : int
        Targets, and reagents without any effect; each gene has a guide and an ORF.
    compound_plates, crispr_plates, orf_plates : int
        Replicate plates of each modality; all plates of a modality share one platemap.
    controls : int
        Negative control wells a plate.
    orf_wells : int
        Wells of each ORF on a plate.
    sites : int
        Fields of view a well.
    field_size : int
        Height and width of a field in pixels.
    cells : float
        Cells that an ordinary 256 x 256 field holds on average.
    compound_strength, crispr_strength, orf_strength, off_target_strength : float
        Factors on the effects in `data.phenotypes`.
    cell_variation : float
        How unlike the affected cells of a well are: standard deviation of a factor on the effect.
    plate_variation : float
        Standard deviation of log staining between plates, a stain at a time.
    well_staining : float
        The same between wells.
    density_variation : float
        Standard deviation of the log number of seeded cells between wells.
    focus_variation : float
        Pixels of extra blur, typically, a well at a time.
    position_strength : float
        Log change of staining and density at the plate's edge and across it.
    camera_noise : float
        1 for an ordinary camera.
    processes : int
        Processes to draw wells with.
    """

    seed: int = 7
    n_targets: int = len(TARGETS)
    n_inactive_compounds: int = len(INACTIVE_COMPOUNDS)
    n_inactive_genes: int = len(INACTIVE_GENES)
    compound_plates: int = 4
    crispr_plates: int = 2
    orf_plates: int = 2
    controls: int = 14
    orf_wells: int = 2
    sites: int = 2
    field_size: int = 256
    cells: float = 34.0
    compound_strength: float = 0.55
    crispr_strength: float = 0.55
    orf_strength: float = 0.45
    off_target_strength: float = 0.5
    cell_variation: float = 0.15
    plate_variation: float = 0.25
    well_staining: float = 0.05
    density_variation: float = 0.1
    focus_variation: float = 0.15
    position_strength: float = 0.08
    camera_noise: float = 1.0
    processes: int = 2


@dataclass(frozen=True)
class _Plate:
    number: int
    barcode: str
    modality: str
    wells: dict[str, Reagent]  # well name to reagent


def simulation_library(config: SimulationConfig) -> list[Reagent]:
    """Return the reagents that `simulate_plates` uses, with the truth about their effects."""
    return build_library(
        config.n_targets,
        config.n_inactive_compounds,
        config.n_inactive_genes,
        config.compound_strength,
        config.crispr_strength,
        config.orf_strength,
        config.off_target_strength,
        np.random.default_rng([config.seed, 1]),
    )


def simulate_plates(out: Path | str, config: SimulationConfig) -> None:
    """Write simulated raw plates in JUMP's layout.

    Parameters
    ----------
    out : path
        The folder to write; it appears when everything in it is finished. An older simulated
        folder there is replaced.
    config : SimulationConfig

    Raises
    ------
    InputError
        When a setting makes no sense, a plate has too few wells, or `out` holds something else.
    """
    _check(config)
    out = Path(out)
    if out.exists() and not (out / "SIMULATED.txt").is_file():
        raise InputError(f"{out} exists and is no simulated folder: choose another --out")
    library = simulation_library(config)
    plates = list(_lay_out(library, config))
    with atomic_path(out) as folder:
        folder.mkdir()
        (folder / "SIMULATED.txt").write_text(NOTE)
        _write_tables(folder, plates, library, config)
        tasks = [(plate, well) for plate in plates for well in plate.wells]
        draw = partial(_draw_well, config, folder / "images")
        with ordered_map(config.processes) as mapped:
            for _ in tqdm(mapped(draw, tasks), total=len(tasks), desc="simulating", unit="well"):
                pass


def _check(config: SimulationConfig) -> None:
    limits = {
        "n_targets": (1, len(TARGETS)),
        "n_inactive_compounds": (0, len(INACTIVE_COMPOUNDS)),
        "n_inactive_genes": (0, len(INACTIVE_GENES)),
        "controls": (2, len(ROWS) * COLUMNS),
        "sites": (1, 99),
        "field_size": (32, 1024),
        "processes": (1, 256),
    }
    for name, (low, high) in limits.items():
        if not low <= getattr(config, name) <= high:
            raise InputError(f"{name}: expected {low} to {high}, found {getattr(config, name)}")


def _lay_out(library: list[Reagent], config: SimulationConfig) -> Iterator[_Plate]:
    """Yield the plates; positions are random, but alike on all plates of a modality."""
    number = 0
    for modality, code, count in (
        ("compound", "C", config.compound_plates),
        ("crispr", "K", config.crispr_plates),
        ("orf", "O", config.orf_plates),
    ):
        rng = np.random.default_rng([config.seed, 2, len(modality)])
        mine = [r for r in library if r.modality == modality]
        treated = [r for r in mine if not r.control for _ in range(_wells(r, config))]
        negative = [r for r in mine if r.control]
        if len(treated) + config.controls > len(ROWS) * COLUMNS:
            raise InputError(
                f"{modality} plates: {len(treated)} treated and {config.controls} control wells do "
                f"not fit into {len(ROWS) * COLUMNS}; lower n_targets, n_inactive_... or controls"
            )
        spread = _spread_wells(config.controls, rng)
        free = rng.permutation(sorted(set(_all_wells()) - set(spread)))
        wells = {well: negative[i % len(negative)] for i, well in enumerate(spread)}
        wells |= {str(well): reagent for well, reagent in zip(free, treated, strict=False)}
        wells = dict(sorted(wells.items()))
        for copy in range(count):
            yield _Plate(number, f"SIM{code}{copy + 1:02d}", modality, wells)
            number += 1


def _wells(reagent: Reagent, config: SimulationConfig) -> int:
    return config.orf_wells if reagent.modality == "orf" else 1


def _all_wells() -> list[str]:
    return [f"{row}{column + 1:02d}" for row in ROWS for column in range(COLUMNS)]


def _spread_wells(count: int, rng: np.random.Generator) -> list[str]:
    """Choose wells all over the plate: one at random in each of 16 blocks, and again."""
    blocks = np.array(_all_wells()).reshape(4, 2, 4, 3).swapaxes(1, 2).reshape(16, 6)
    blocks = rng.permuted(blocks, axis=1)[rng.permutation(16)]
    return [str(well) for well in blocks.T.ravel()[:count]]


def _draw_well(config: SimulationConfig, images: Path, task: tuple[_Plate, str]) -> None:
    """Draw and write all sites of one well."""
    plate, well = task
    reagent = plate.wells[well]
    row, column = ROWS.index(well[0]), int(well[1:]) - 1
    shared = np.random.default_rng([config.seed, 3, plate.number])
    rng = np.random.default_rng([config.seed, 4, plate.number, row, column])
    on_plate = draw_plate_conditions(config.plate_variation, config.position_strength, shared)
    in_well = draw_well_conditions(
        on_plate,
        (row / (len(ROWS) - 1), column / (COLUMNS - 1)),
        config.well_staining,
        config.density_variation,
        config.focus_variation,
        config.position_strength,
        rng,
    )
    expected = config.cells * (config.field_size / 256) ** 2 * in_well.density
    affected = reagent.penetrance * reagent.effects[AXES.index("cell_count")]
    expected *= float(np.exp(0.5 * affected))
    for site in range(1, config.sites + 1):
        n = int(rng.poisson(expected))
        hit = rng.random(n) < reagent.penetrance
        size = np.maximum(1 + config.cell_variation * rng.standard_normal(n), 0)
        effects = (hit * size)[:, None] * reagent.effects
        stains = render_field(effects, config.field_size, rng)
        counts = photograph(stains, on_plate, in_well, config.camera_noise, rng)
        for number, stain in enumerate(JUMP_CHANNELS, start=1):
            name = f"r{row + 1:02d}c{column + 1:02d}f{site:02d}p01-ch{number}sk1fk1fl1.tiff"
            tifffile.imwrite(
                images / plate.barcode / name,
                counts[CHANNELS.index(stain)],
                description="simulated",
                metadata=None,
            )


def _write_tables(
    folder: Path, plates: list[_Plate], library: list[Reagent], config: SimulationConfig
) -> None:
    """Write everything but the pictures, and make the folders for those."""
    for name in ("platemaps", "metadata", "images"):
        (folder / name).mkdir()
    pd.DataFrame({"channel": [f"ch{i + 1}" for i in range(5)], "stain": JUMP_CHANNELS}).to_csv(
        folder / "channels.tsv", sep="\t", index=False
    )
    pd.DataFrame([_experiment_row(plate, config) for plate in plates]).to_csv(
        folder / "experiment-metadata.tsv", sep="\t", index=False
    )
    for plate in plates:
        (folder / "images" / plate.barcode).mkdir()
        platemap = pd.DataFrame(
            {
                "well_position": list(plate.wells),
                "broad_sample": [r.broad_sample for r in plate.wells.values()],
                "solvent": "DMSO" if plate.modality == "compound" else "",
            }
        )
        platemap.to_csv(
            folder / "platemaps" / f"{_platemap_name(plate)}.tsv", sep="\t", index=False
        )
    for modality in sorted({plate.modality for plate in plates}):
        rows = [_metadata_row(r) for r in library if r.modality == modality]
        pd.DataFrame(rows).to_csv(
            folder / "metadata" / f"{modality}_metadata.tsv", sep="\t", index=False
        )


def _platemap_name(plate: _Plate) -> str:
    return f"simulated_{plate.modality}_platemap"


def _experiment_row(plate: _Plate, config: SimulationConfig) -> dict[str, object]:
    """One plate, in the columns of JUMP's experiment metadata."""
    return {
        "Batch": f"simulated_seed{config.seed}",
        "Plate_Map_Name": _platemap_name(plate),
        "Assay_Plate_Barcode": plate.barcode,
        "Perturbation": plate.modality,
        "Cell_type": "U2OS",
        "Time": HOURS[plate.modality],
        "Density": 100,
        "Antibiotics": "absent",
        "Cell_line": "Cas9" if plate.modality == "crispr" else "Parental",
        "Time_delay": "Day0",
        "Times_imaged": 1,
        "Anomaly": "none",
        "Number_of_images": len(plate.wells) * config.sites * len(CHANNELS),
        "Simulated": "simulated",
    }


def _metadata_row(reagent: Reagent) -> dict[str, object]:
    """One reagent, in the columns of JUMP-Target's metadata."""
    row: dict[str, object] = {"broad_sample": reagent.broad_sample}
    if reagent.modality == "compound":
        row |= {"InChIKey": "", "pert_iname": reagent.name, "target_list": reagent.target}
    else:
        row |= {"gene": reagent.name}
    row |= {
        "pert_type": "control" if reagent.control else "trt",
        "control_type": "negcon" if reagent.control else "",
    }
    if reagent.modality == "compound":
        row["smiles"] = reagent.smiles
    return row | {"simulated": "simulated", "simulated_active": reagent.active}
