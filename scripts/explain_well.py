"""Draw what drove a well's embedding: which sites, channels, places and cells.

python scripts/explain_well.py --model RUN --data PREPARED --plate P --well W --out well.png
python scripts/explain_well.py ... --against KIF11 --modality crispr    # why it looks like this
python scripts/explain_well.py ... --against P2:C05                     # or like this well
python scripts/explain_well.py ... --check true     # cover parts, and see whether that agrees
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _cli import parse_config, run_main
from scipy.stats import spearmanr

from data.errors import InputError
from data.files import atomic_path
from data.store import load_manifest, load_sites, read_pixels, site_table
from eval.montages import attribution_figure
from eval.reagents import consensus
from vlm.adapters import bare, load_model
from vlm.attribution import (
    Attribution,
    background,
    explain,
    occlude_patches,
    occlude_shares,
    sum_patches,
)
from vlm.instruct import well_embeddings
from vlm.modeling import CellPaintingVlmForConditionalGeneration
from vlm.wells import WellBank, open_wells


@dataclass
class ExplainConfig:
    """Which well to explain, and what it is compared with."""

    model: str = field(metadata={"help": "run or model folder"})
    data: str = field(metadata={"help": "prepared store"})
    plate: str = field(metadata={"help": "barcode"})
    well: str = field(metadata={"help": "like B07"})
    out: str = field(metadata={"help": "PNG to write"})
    against: str | None = field(
        default=None,
        metadata={
            "help": "explain the cosine with this reagent (Metadata_broad_sample or name) or well "
            "(PLATE:WELL); by default, the well's own embedding"
        },
    )
    modality: str | None = field(
        default=None, metadata={"help": "compound, crispr or orf: which reagents --against means"}
    )
    check: bool = field(
        default=False, metadata={"help": "compare with occlusion: parts covered, embedded anew"}
    )
    patches: int = field(
        default=8, metadata={"help": "it covers each of patches x patches squares of a field"}
    )

    def __post_init__(self) -> None:
        if self.patches < 2:
            raise InputError(f"patches is {self.patches}; expected 2 or more")


def main() -> None:
    """Parse, explain, draw."""
    (config,) = parse_config(ExplainConfig)
    model, processor = load_model(config.model)
    vlm = bare(model)
    bank = open_wells(config.data, vlm, processor)
    row = find_well(config.data, bank, config.plate, config.well)
    name, direction = reference(config, bank, well_embeddings(model, bank), row)
    sites = load_sites(config.data)
    pixels = read_pixels(sites, bank.sites_of[row])
    values = processor.image_processor.preprocess(pixels[None])["pixel_values"][0]
    well = bank.batch([row])
    found = explain(vlm, well, values, direction)

    channels = load_manifest(config.data).channels
    names = site_names(site_table(sites).iloc[bank.sites_of[row]])
    streams = channels if found.shares.shape[1] == len(channels) else ["all channels"]
    shares = pd.DataFrame(found.shares.numpy(), index=names, columns=streams)
    title = f"{config.plate} {config.well}: cosine {found.cosine:.2f} with {name}"
    drawing = attribution_figure(pixels, channels, found.heat.numpy(), shares, title)
    with atomic_path(config.out) as path:
        drawing.savefig(path, format="png", dpi=130)
    print(title)
    shares["all channels"] = shares.sum(axis=1)
    shares.loc["all sites"] = shares.sum()
    print(shares.to_string(float_format="%+.3f"))
    if config.check:
        print(check(vlm, well, values, direction, found, config.patches))
    print(f"drawn: {Path(config.out)}")


def find_well(data: str, bank: WellBank, plate: str, well: str) -> int:
    """Return the row of a well."""
    wells = bank.wells
    rows = (wells["Metadata_Plate"] == plate) & (wells["Metadata_Well"] == well)
    if not rows.any():
        raise InputError(f"{data}: no well {well} on plate {plate}")
    return int(np.flatnonzero(rows)[0])


def reference(
    config: ExplainConfig, bank: WellBank, embeddings: np.ndarray, row: int
) -> tuple[str, torch.Tensor]:
    """Say what a well is compared with, and its unit vector.

    Raises
    ------
    InputError
        When no other well in the store has such a reagent, or several modalities have it.
    """
    if config.against is None:
        return "its own embedding", torch.from_numpy(embeddings[row])
    wells = bank.wells
    plate, _, well = config.against.partition(":")
    if well and plate in set(wells["Metadata_Plate"]):
        other = find_well(config.data, bank, plate, well)
        return f"{plate} {well}", torch.from_numpy(embeddings[other])
    named = (wells[["Metadata_broad_sample", "Metadata_pert_iname"]] == config.against).any(axis=1)
    named &= wells.index != row
    if config.modality is not None:
        named &= wells["Metadata_modality"] == config.modality
    found = sorted(set(wells.loc[named, "Metadata_modality"]))
    if not found:
        which = "" if config.modality is None else f" of the modality {config.modality!r}"
        raise InputError(f"{config.data}: no other well has the reagent {config.against!r}{which}")
    if len(found) > 1:
        raise InputError(
            f"--against {config.against} is a reagent of the modalities {' and '.join(found)}: "
            "choose one with --modality"
        )
    _, unit = consensus(wells[named], embeddings[named.to_numpy()], ["Metadata_modality"])
    name = f"{config.against} ({found[0]}, {named.sum()} wells)"
    return name, torch.from_numpy(unit[0].astype(np.float32))


def check(
    vlm: CellPaintingVlmForConditionalGeneration,
    well: dict[str, torch.Tensor],
    values: torch.Tensor,
    direction: torch.Tensor,
    found: Attribution,
    patches: int,
) -> str:
    """Say how alike attribution and occlusion rank the parts of a well (Spearman)."""
    parts = occlude_shares(vlm, well, direction)
    places = occlude_patches(vlm, well, values, background(values), direction, patches)
    of_parts = spearmanr(found.shares.flatten(), parts.flatten()).statistic
    of_places = spearmanr(sum_patches(found.heat, patches).flatten(), places.flatten()).statistic
    return (
        f"occlusion ranks {parts.numel()} sites x channels alike by {of_parts:.2f}, "
        f"{places.numel()} places by {of_places:.2f}"
    )


def site_names(sites: pd.DataFrame) -> list[str]:
    """Name sites, and tiles or cells of sites, as rows of a table."""
    return [
        f"site {site}" + (f" part {part}" if part else "")
        for site, part in zip(sites["Metadata_Site"], sites["Metadata_Part"], strict=True)
    ]


if __name__ == "__main__":
    run_main(main)
