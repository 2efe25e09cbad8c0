"""Whether sites weighted by attention make a better embedding than their mean.

python benchmarks/site_pooling.py --model runs/quickstart --data runs/quickstart/prepared

The tower's linear path is trained anew with phase align's same-target loss, as long as the
quickstart trains it, without language model and transformer: of the other losses only the prompts'
reaches it. Baseline is the mean over sites, in the same run and with the same seeds. The second
half of the table lays an artefact over one site of every fourth well: there a gate has something
to find.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup
from trl import TrlParser

from contrastive.batches import TargetBatches
from contrastive.losses import same_label_loss
from contrastive.trainer import AlignConfig
from eval.matching import gene_compound_matching, replicate_matching
from vlm.adapters import bare, load_model
from vlm.wells import WellBank, open_wells

SPOILT = 0.25
"""Of the wells, where they are spoilt."""

ARTEFACT = 4.0
"""Its size in every feature, as z."""


@dataclass
class PoolingConfig:
    """On what, how often."""

    model: str = field(metadata={"help": "run whose backbone and reference are used"})
    data: str = field(metadata={"help": "prepared store"})
    seeds: int = field(default=3, metadata={"help": "trainings a row"})
    steps: int = field(default=200, metadata={"help": "of each training"})


class PooledWells(nn.Module):
    """A well's embedding from its sites' z, pooled by their mean or by gated attention.

    Gated (Ilse et al. 2018, equation 9): weights = softmax_s(w . (tanh(V h_s) * sigmoid(U h_s))),
    h_s being a projection of the site, averaged over channels.
    """

    def __init__(self, channels: int, features: int, gated: bool, width: int = 192, out: int = 128):
        super().__init__()
        self.maps = nn.Parameter(0.02 * torch.randn(channels, features, width))
        self.projection = nn.Linear(width, out, bias=False)
        self.dropout = nn.Dropout(0.3)
        self.gated = gated
        self.site = nn.Linear(features, width)
        self.values, self.gates = nn.Linear(width, width // 2), nn.Linear(width, width // 2)
        self.score = nn.Linear(width // 2, 1, bias=False)

    def weights(self, z: torch.Tensor) -> torch.Tensor:
        """Weights (B, S) of sites (B, S, C, F)."""
        if not self.gated:
            return z.new_full(z.shape[:2], 1 / z.shape[1])
        site = self.site(z.mean(dim=2))  # of the mean over channels, as the projection is linear
        return self.score(self.values(site).tanh() * self.gates(site).sigmoid())[..., 0].softmax(1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Embed sites (B, S, C, F) as unit vectors (B, E)."""
        weights = self.weights(z)
        change = torch.einsum("bs,bscf,cfd->bd", weights, self.dropout(z), self.maps)
        return F.normalize(self.projection(change), dim=-1)


def main() -> None:
    """Train, score, print."""
    (config,) = TrlParser((PoolingConfig,)).parse_args_and_config()
    model, processor = load_model(config.model)
    bank = open_wells(config.data, bare(model), processor)
    z = site_scores(bare(model).model.vision_tower, bank)
    rows = []
    for name, sites in (("as they are", z), ("one of 8 spoilt", spoil(z, bank, seed=0))):
        for seed in tqdm(range(config.seeds), desc=name):
            for gated in (False, True):
                scores = train(bank, sites, gated, seed, config.steps)
                rows.append({"sites": name, "pooling": "gated" if gated else "mean"} | scores)
    table = pd.DataFrame(rows).groupby(["sites", "pooling"]).agg(["mean", "std"]).round(3)
    print(table.to_string())


@torch.no_grad()
def site_scores(tower, bank: WellBank) -> torch.Tensor:
    """Robust z of every site against its plate's controls, (wells, S, C, F)."""
    return torch.cat(
        [
            tower.standardize(
                batch["channel_features"], batch.get("control_features"), batch["channel_mask"]
            )
            for batch in bank.batches()
        ]
    )


def spoil(z: torch.Tensor, bank: WellBank, seed: int) -> torch.Tensor:
    """Lay an artefact over one site of some wells, training and test alike."""
    rng = np.random.default_rng(seed)
    artefact = torch.from_numpy(rng.normal(0, ARTEFACT, z.shape[2:]).astype(np.float32))
    spoilt = z.clone()
    for row in np.flatnonzero(rng.random(len(bank)) < SPOILT):
        spoilt[row, rng.integers(z.shape[1])] += artefact * rng.uniform(0.5, 1.5)
    return spoilt.clamp(-10, 10)


def train(bank: WellBank, z: torch.Tensor, gated: bool, seed: int, steps: int) -> dict[str, float]:
    """Train one embedding on the training wells; its scores on held-out targets."""
    settings = AlignConfig()
    torch.manual_seed(seed)
    model = PooledWells(*z.shape[2:], gated=gated)
    seen = np.flatnonzero(bank.wells["Metadata_split"] == "train")
    batches = TargetBatches(
        bank.select(seen).wells,
        settings.align_label_column,
        settings.align_num_targets,
        settings.align_num_unlabelled,
        seed,
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.align_learning_rate, weight_decay=settings.align_weight_decay
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, settings.align_warmup_steps, steps)
    for step in range(steps):
        rows, labels, _ = batches.draw(step)
        rng = np.random.default_rng([seed, step])
        sites = rng.integers(z.shape[1], size=(len(rows), z.shape[1]))  # with replacement
        drawn = z[seen[rows][:, None], sites]
        loss = same_label_loss(model(drawn), torch.from_numpy(labels), settings.align_temperature)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        embedded = model(z).numpy()
    wells = bank.wells
    test = (wells["Metadata_split"] == "test") & (wells["Metadata_target_list"] != "")
    matched = gene_compound_matching(wells, embedded, null_size=200)
    replicated = replicate_matching(wells[test], embedded[test.to_numpy()], null_size=200)
    return {"gene-compound mAP": matched.map, "replicate mAP": replicated.map}


if __name__ == "__main__":
    main()
