"""Wells as pixels, for a backbone that is being trained: its features cannot be kept."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from data.store import load_sites, read_pixels
from vlm.modeling import CellPaintingVlmForConditionalGeneration
from vlm.processing import CellPaintingImageProcessor, CellPaintingProcessor
from vlm.vision_tower import CellPaintingVisionTower
from vlm.wells import WellBank


@dataclass(kw_only=True)
class PixelBank(WellBank):
    """Wells whose sites are read for every batch anew.

    Attributes
    ----------
    sites : datasets.Dataset
        All sites of the store, in the order of `site_features`.
    controls_of : list of int arrays
        Rows of `sites` behind each row of `control_median`.
    image_processor : CellPaintingImageProcessor
    sites_per_well, controls_per_plate : int
        How many are drawn for a batch: every one of them goes through the backbone and back.
    """

    sites: Dataset
    controls_of: list[np.ndarray]
    image_processor: CellPaintingImageProcessor
    sites_per_well: int
    controls_per_plate: int

    def batch(
        self, rows: Sequence[int] | np.ndarray, generator: np.random.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """Read some sites of some wells, and of the controls of their plates.

        Returns
        -------
        dict of Tensor
            `site_pixels` (N, C, H, W): every site once, for controls serve many wells;
            `site_features` (N, C, F): of the backbone as it was, and of cells;
            `site_rows` (B, S) and, on plates with controls, `control_rows` (B, R): which of them
            belong to each well; `channel_mask` (B, C). `encode_batch` makes the tower's inputs
            of it.
        """
        generator = generator or np.random.default_rng(0)
        chosen = np.stack(
            [generator.choice(self.sites_of[row], self.sites_per_well) for row in rows]
        )
        parts = {"site_rows": chosen}
        if self.control_median is not None:
            drawn = {
                plate: generator.choice(self.controls_of[plate], self.controls_per_plate)
                for plate in np.unique(self.plate_of[rows])
            }
            parts["control_rows"] = np.stack([drawn[plate] for plate in self.plate_of[rows]])
        together = np.concatenate([part.ravel() for part in parts.values()])
        read, places = np.unique(together, return_inverse=True)
        pixels = self.image_processor.preprocess(list(read_pixels(self.sites, read)[:, None]))
        inputs = {
            "site_pixels": pixels["pixel_values"][:, 0],
            "site_features": torch.from_numpy(self.site_features[read]),
            "channel_mask": torch.from_numpy(self.channel_mask[rows]),
        }
        for name, part in parts.items():
            own, places = np.split(places, [part.size])
            inputs[name] = torch.from_numpy(own.reshape(part.shape))
        return inputs


def with_pixels(
    bank: WellBank,
    folder: str | Path,
    processor: CellPaintingProcessor,
    sites_per_well: int,
    controls_per_plate: int,
) -> PixelBank:
    """Let a bank (or a part of one) of a prepared store give pixels in place of features."""
    controls = bank.controls
    controls_of = []
    if controls is not None:
        for row in np.unique(controls.plate_of):
            own = np.flatnonzero(controls.plate_of == row)
            controls_of.append(np.concatenate([controls.sites_of[well] for well in own]))
    return PixelBank(
        **{field.name: getattr(bank, field.name) for field in fields(WellBank)},
        sites=load_sites(folder),
        controls_of=controls_of,
        image_processor=processor.image_processor,
        sites_per_well=sites_per_well,
        controls_per_plate=controls_per_plate,
    )


def encode_batch(
    tower: CellPaintingVisionTower, batch: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Turn a bank's batch into the tower's inputs; of features, it is as it should be.

    Parameters
    ----------
    tower : CellPaintingVisionTower
        Gradients flow into its backbone.
    batch : dict of Tensor
        From `WellBank.batch` or `PixelBank.batch`.
    """
    if "site_pixels" not in batch:
        return batch
    known = batch["site_features"]
    cells = known[:, None, :, known.shape[2] - tower.cell_statistics :]  # (N, 1, C, f)
    features = tower.encode_channels(batch["site_pixels"][:, None], cells)[:, 0]  # (N, C, F)
    inputs = {
        "channel_features": features[batch["site_rows"]],
        "channel_mask": batch["channel_mask"],
    }
    if "control_rows" in batch:
        inputs["control_features"] = features[batch["control_rows"]]
    return inputs


def backbone_learns(model: CellPaintingVlmForConditionalGeneration) -> bool:
    """Whether an adapter sits in the tower's backbone: its features then change in training."""
    return any("lora_" in name for name, _ in model.model.vision_tower.backbone.named_parameters())
