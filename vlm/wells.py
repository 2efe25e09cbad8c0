"""Wells of a prepared store as the tower takes them, with the frozen backbone run only once."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers.backbone_utils import BackboneConfigMixin

from data.errors import InputError
from data.files import atomic_path
from data.normalize import MEDIAN_TILE, SAME_PLATE_CONTROLS
from data.spread import column_means, column_medians
from data.store import load_manifest, load_sites, load_wells, read_pixels, site_table
from vlm.backbone import map_widths
from vlm.modeling import CellPaintingVlmForConditionalGeneration
from vlm.planes import has_structure
from vlm.processing import CellPaintingProcessor

SITES_PER_STEP = 8  # sites that go through the backbone together


@dataclass
class WellBank:
    """Wells with the backbone's features of their sites.

    Attributes
    ----------
    wells : DataFrame
        One row a well, Metadata_ columns; the order of everything below.
    site_features : (N, C, F) float32 array
        One row a site.
    sites_of : list of int arrays
        Rows of `site_features` that belong to each well.
    control_median : (P, C, F) float32 array or None
        Median over the control sites of each plate; where the data set's median is the store's
        reference, P is 1 and it is over all sites. None for single fields (the tower's fitted
        reference stands in).
    plate_of : (n_wells,) int array
        Row of `control_median` for each well.
    channel_mask : (n_wells, C) bool array
        False where a channel was not imaged.
    controls : WellBank or None
        The wells behind `control_median`, whatever wells were selected: the negative controls of
        all plates, or all wells.
    """

    wells: pd.DataFrame
    site_features: np.ndarray
    sites_of: list[np.ndarray]
    control_median: np.ndarray | None
    plate_of: np.ndarray
    channel_mask: np.ndarray
    controls: "WellBank | None" = None

    def __len__(self) -> int:
        return len(self.wells)

    def batch(
        self, rows: Sequence[int] | np.ndarray, generator: np.random.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """Collect the tower's inputs for some wells.

        Parameters
        ----------
        rows : sequence of int
            Wells, as rows of `wells`.
        generator : Generator, optional
            Draws what each site counts in the change: a well's sites with replacement (a training
            augmentation). What is read of a well was measured on all of them, and is so learnt.

        Returns
        -------
        dict of Tensor
            `channel_features` (B, S, C, F), every site in order, wells with fewer repeating theirs;
            `channel_mask` (B, C); on plates with controls, `control_features` (B, 1, C, F); with a
            generator, `site_weights` (B, S).
        """
        count = max(len(self.sites_of[row]) for row in rows)
        sites = np.stack([np.resize(self.sites_of[row], count) for row in rows])  # (B, S)
        inputs = {
            "channel_features": torch.from_numpy(self.site_features[sites]),
            "channel_mask": torch.from_numpy(self.channel_mask[rows]),
        }
        if generator is not None:
            weights = generator.multinomial(count, np.full(count, 1 / count), len(sites)) / count
            inputs["site_weights"] = torch.from_numpy(weights.astype(np.float32))
        if self.control_median is not None:
            controls = self.control_median[self.plate_of[rows]]
            inputs["control_features"] = torch.from_numpy(controls[:, None])
        return inputs

    def batches(self, size: int = 64) -> Iterator[dict[str, torch.Tensor]]:
        """Give all wells in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))))

    def select(self, rows: np.ndarray) -> "WellBank":
        """Keep some wells (a boolean mask or row numbers), sharing the features."""
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows)
        return replace(
            self,
            wells=self.wells.iloc[rows].reset_index(drop=True),
            sites_of=[self.sites_of[row] for row in rows],
            plate_of=self.plate_of[rows],
            channel_mask=self.channel_mask[rows],
        )

    def query(self, expression: str) -> "WellBank":
        """Keep the wells for which a pandas query on their metadata is true.

        Raises
        ------
        InputError
            When the query is wrong or no well fits it.
        """
        try:
            rows = self.wells.index.get_indexer(self.wells.query(expression).index)
        except (SyntaxError, ValueError, KeyError, NameError, TypeError) as error:
            known = ", ".join(map(str, self.wells.filter(regex="^Metadata_").columns))
            raise InputError(f"query {expression!r}: {error}; columns are {known}") from None
        if len(rows) == 0:
            raise InputError(f"query {expression!r}: no well fits it")
        return self.select(rows)


def open_wells(
    folder: str | Path,
    model: CellPaintingVlmForConditionalGeneration,
    processor: CellPaintingProcessor,
) -> WellBank:
    """Open a prepared store for a model; compute or find its backbone features.

    Features are kept under `folder/cache`, keyed by what made them: backbone weights, image
    processor and the plate's checksum.

    Raises
    ------
    InputError
        When the folder is not a prepared store or its channels are not the model's.
    """
    folder = Path(folder)
    manifest = load_manifest(folder)
    expected = model.config.vision_config.channels
    if list(manifest.channels) != list(expected):
        raise InputError(
            f"{folder} holds the channels {', '.join(manifest.channels)}; the model expects "
            f"{', '.join(expected)}"
        )
    wells = load_wells(folder).reset_index(drop=True)
    plates = list(manifest.plates)
    present = np.array([manifest.plates[plate]["channels_present"] for plate in plates])
    if model.config.vision_config.stem == "inflated" and not present.all():
        row, column = np.argwhere(~present)[0]
        raise InputError(
            f"{folder}: plate {plates[row]} has no {expected[column]}; an inflated stem needs "
            "every channel: train with stem: shared"
        )
    maker = _features_key(model, processor)
    features, tables = [], []
    for plate in tqdm(plates, desc="backbone features", unit="plate", disable=None):
        key = hashlib.sha256((maker + manifest.plates[plate]["sha256"]).encode()).hexdigest()[:16]
        path = folder / "cache" / f"features-{key}.npy"
        sites = load_sites(folder, [plate])
        if not path.exists():
            computed = encode_sites(model, processor, sites)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, computed)
        features.append(np.load(path))
        tables.append(site_table(sites)[["Metadata_Plate", "Metadata_Well"]])
    site_features = np.concatenate(features)
    sites_of = group_sites(pd.concat(tables, ignore_index=True), wells)
    plate_of = wells["Metadata_Plate"].map({plate: i for i, plate in enumerate(plates)}).to_numpy()
    channel_mask = present[plate_of] & fill_blanks(site_features, sites_of, len(expected))

    bank = WellBank(wells, site_features, sites_of, None, plate_of, channel_mask)
    if manifest.reference == SAME_PLATE_CONTROLS:
        control = (wells["Metadata_control_type"] == "negcon").to_numpy()
    elif manifest.reference == MEDIAN_TILE:
        control, plates = np.ones(len(wells), bool), plates[:1]
        bank = replace(bank, plate_of=np.zeros(len(wells), int))
    else:
        return bank
    medians = [
        median_site(site_features[_sites(sites_of, control & (bank.plate_of == row))])
        for row in range(len(plates))
    ]
    bank = replace(bank, control_median=np.stack(medians))
    return replace(bank, controls=bank.select(control))


def median_site(site_features: np.ndarray) -> np.ndarray:
    """Median over sites (N, C, F) of each feature, NaN where none has it: (C, F)."""
    flat = site_features.reshape(len(site_features), -1)
    return column_medians(flat).reshape(site_features.shape[1:]).astype(site_features.dtype)


def fill_blanks(site_features: np.ndarray, sites_of: list[np.ndarray], channels: int) -> np.ndarray:
    """Fill what some sites of a well do not show, in place, and say what was imaged.

    NaN, of blank planes and fields without cells (see `encode_sites`), takes the mean of the
    well's other sites; it stays where no site has a value.

    Parameters
    ----------
    site_features : (N, C, F) float32 array
    sites_of : list of int arrays
        Rows of each well.
    channels : int
        C, or more with an inflated stem, whose C is one: that one then speaks for all channels.

    Returns
    -------
    (n_wells, channels) bool array
        False where all planes of a well are blank.
    """
    imaged = np.ones((len(sites_of), channels), bool)
    for row in np.flatnonzero([np.isnan(site_features[sites]).any() for sites in sites_of]):
        sites = sites_of[row]
        features = site_features[sites]  # (S, C, F)
        unknown = np.isnan(features)
        imaged[row] = ~unknown[..., 0].all(axis=0)
        site_features[sites] = np.where(unknown, column_means(features), features)
    return imaged


def fit_reference(model: CellPaintingVlmForConditionalGeneration, bank: WellBank) -> None:
    """Fit the tower's reference to a bank's training wells.

    To its negative controls or, where there are none, to all its wells (then the median well of
    the data set is the reference).
    """
    control = (bank.wells["Metadata_control_type"] == "negcon").to_numpy()
    rows = np.flatnonzero(control) if control.any() else np.arange(len(bank))
    sites = np.concatenate([bank.sites_of[row] for row in rows])
    # Without controls a plate's median is biology (it holds few treatments): deviations are then
    # taken over the whole data set.
    plates = bank.plate_of[rows] if control.any() else np.zeros(len(rows), int)
    per_site = np.repeat(plates, [len(bank.sites_of[row]) for row in rows])
    model.model.vision_tower.fit_reference(
        torch.from_numpy(bank.site_features[sites]), torch.from_numpy(per_site)
    )


def blank_wells(bank: WellBank) -> WellBank:
    """Make every image of a bank black, that is: nothing was imaged; the controls stay."""
    return replace(bank, channel_mask=np.zeros_like(bank.channel_mask))


def wrong_controls(bank: WellBank) -> WellBank:
    """Compare every well with the controls of another plate: what comes of plates, not of wells.

    Raises
    ------
    InputError
        When there are no controls, or those of one plate only.
    """
    plates = 0 if bank.control_median is None else len(bank.control_median)
    if plates < 2:
        raise InputError(f"controls of another plate are asked for: there are those of {plates}")
    return replace(bank, plate_of=(bank.plate_of + 1) % plates)


@torch.no_grad()
def encode_sites(
    model: CellPaintingVlmForConditionalGeneration, processor: CellPaintingProcessor, sites
) -> np.ndarray:
    """Run the backbone on every site of a plate.

    Parameters
    ----------
    model, processor
        The model's frozen backbone and its image processor.
    sites : datasets.Dataset
        From `data.store.load_sites`.

    Returns
    -------
    (N, C, F) float32 array
        NaN for a plane whose pixels are all equal: that is no image. Statistics of cells are NaN
        without cells.
    """
    tower = model.model.vision_tower.eval()
    if isinstance(tower.backbone.config, BackboneConfigMixin):  # convolutions run faster so
        tower.backbone.to(memory_format=torch.channels_last)
    device = next(tower.parameters()).device

    def encode(start: int) -> np.ndarray:
        with torch.no_grad():  # is set per thread
            pixels = read_pixels(sites, range(start, min(start + SITES_PER_STEP, len(sites))))
            values = processor.image_processor.preprocess(pixels[:, None])["pixel_values"]
            features = tower.encode_channels(values.to(device))  # (B, 1, C, F)
            seen = has_structure(values).to(device)  # (B, 1, channels)
            if features.shape[2] == 1:  # an inflated stem sees all at once
                seen = seen.any(dim=2, keepdim=True)
            features = features.masked_fill(~seen[..., None], torch.nan)
            return features[:, 0].float().cpu().numpy()

    starts = range(0, len(sites), SITES_PER_STEP)
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return np.concatenate([encode(start) for start in starts])
    # Small convolutions do not scale over threads; batches do (three times faster on 2 cores).
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(encode, starts)))
    finally:
        torch.set_num_threads(threads)


def _features_key(
    model: CellPaintingVlmForConditionalGeneration, processor: CellPaintingProcessor
) -> str:
    digest = hashlib.sha256(repr(sorted(processor.image_processor.to_dict().items())).encode())
    config, backbone = model.config.vision_config, model.model.vision_tower.backbone
    # Which maps are taken, weights do not say.
    taken = (config.stem, config.backbone_layers, map_widths(backbone, config.backbone_layers))
    digest.update(b"blank planes are NaN; statistics of cells")
    digest.update(repr(taken).encode())
    for name, tensor in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def group_sites(sites: pd.DataFrame, wells: pd.DataFrame) -> list[np.ndarray]:
    """Rows of the sites that belong to each well, found by plate and position."""
    keys = ["Metadata_Plate", "Metadata_Well"]
    groups = sites.groupby(keys).indices
    return [np.asarray(groups[key]) for key in wells[keys].itertuples(index=False, name=None)]


def _sites(sites_of: list[np.ndarray], wells: np.ndarray) -> np.ndarray:
    return np.concatenate([sites_of[row] for row in np.flatnonzero(wells)])
