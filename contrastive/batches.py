"""Which wells meet in a batch of phase align."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data.errors import InputError


@dataclass
class Batch:
    """Wells that meet in a step.

    Attributes
    ----------
    rows : (N,) int array
        Wells: the two of each reagent next to each other, then those that only push.
    reagents : list of str
        `rows[2 * i]` and `rows[2 * i + 1]` are of reagent i. All of a target stand together; those
        at one place of theirs (0, 1, ...) are of different targets.
    """

    rows: np.ndarray
    reagents: list[str]


class TargetBatches:
    """Draw batches in which replicates and modalities of a target meet across plates.

    A batch holds `num_targets` targets; some reagents of each, of different modalities where there
    are; two wells of each reagent, on different plates where there are. Two kinds of wells join
    them that only push: of reagents without a target (controls, inactive ones), and of other
    targets from the plates of the batch, which no trait of a plate tells apart.

    Parameters
    ----------
    wells : DataFrame
        Training wells: Metadata_broad_sample, Metadata_Plate, Metadata_modality and `label_column`.
    label_column : str
        What reagents share: target lists ("A|B") or mechanisms; "" for none.
    num_targets, num_unlabelled, num_same_plate : int
        Most that a batch holds, of all ranks together.
    seed : int
        The batch of a step depends on seed and step alone, so a resumed run draws the same.
    reagents_per_target : int
        Where a target has fewer, they come again.
    ranks : int
        A batch divides among them: each number is lowered to a multiple of theirs.

    Attributes
    ----------
    labels : (n_reagents, T) float32 array
        1 / (length of its list) at each label of a reagent; see `losses.label_overlap`.
    reagent_of, plate_of : (n_wells,) int array
        Row of `labels`, and number of the plate, of each well.

    Raises
    ------
    InputError
        When there are fewer targets than ranks.
    """

    def __init__(
        self,
        wells: pd.DataFrame,
        label_column: str,
        num_targets: int,
        num_unlabelled: int,
        seed: int,
        reagents_per_target: int = 2,
        num_same_plate: int = 0,
        ranks: int = 1,
    ):
        self.seed = seed
        self.ranks = ranks
        self.reagents_per_target = reagents_per_target
        self.num_same_plate = num_same_plate
        self.num_unlabelled = num_unlabelled
        self.plate_of, _ = pd.factorize(wells["Metadata_Plate"])
        self.reagent_of, names = pd.factorize(wells["Metadata_broad_sample"], sort=True)
        self.reagents = [str(name) for name in names]
        first = wells.drop_duplicates("Metadata_broad_sample").set_index("Metadata_broad_sample")
        first = first.loc[names]
        self.modality = dict(zip(self.reagents, first["Metadata_modality"], strict=True))
        has = first[label_column].str.get_dummies(sep="|")
        self.names = list(has.columns)
        listed = has.to_numpy(np.float32)
        self.labels = listed / listed.sum(axis=1, keepdims=True).clip(1)
        self.wells_of: dict[str, np.ndarray] = {
            name: np.flatnonzero(self.reagent_of == number)
            for number, name in enumerate(self.reagents)
        }
        self.reagents_of: dict[int, list[str]] = defaultdict(list)
        for reagent, label in np.argwhere(listed):
            self.reagents_of[label].append(self.reagents[reagent])
        self.num_targets = self._divisible(min(num_targets, len(self.names)))
        if self.num_targets == 0:
            raise InputError(
                f"phase align: {ranks} process(es) share {len(self.names)} target(s): the "
                "training wells have too few targets for so many processes"
            )
        self.labelled = self.labels[self.reagent_of].any(axis=1)

    def draw(self, step: int) -> Batch:
        """Draw the batch of one step, the same on all ranks."""
        rng = np.random.default_rng([self.seed, step])
        R = self.reagents_per_target
        used: set[str] = set()
        rows: list[int] = []
        reagents: list[str] = []
        chosen = rng.choice(len(self.names), self.num_targets, replace=False)
        spare = np.setdiff1d(np.arange(len(self.names)), chosen)
        for number in [*chosen, *spare]:
            if len(reagents) == R * self.num_targets:
                break
            # A reagent of several targets is drawn for one: under two, prompts would oppose it to
            # itself.
            mine = [r for r in self.reagents_of[number] if r not in used]
            if not mine:
                continue  # a spare target stands in, where there is one
            for reagent in self._reagents(mine, rng):
                reagents.append(reagent)
                used.add(reagent)
                rows += self._two_wells(reagent, rng)
        reagents = reagents[: R * self._divisible(len(reagents) // R)]
        rows = rows[: 2 * len(reagents)]
        push = [
            self._some(np.flatnonzero(~self.labelled), self.num_unlabelled, rng),
            self._some(self._strangers(rows), self.num_same_plate, rng),
        ]
        return Batch(np.concatenate([rows, *push]).astype(int), reagents)

    def share(self, batch: Batch, rank: int) -> Batch:
        """Take a rank's part of a batch: whole targets, and as many wells as the others take."""
        reagents = np.array_split(np.arange(len(batch.reagents)), self.ranks)[rank]
        pulled, push = np.split(batch.rows, [2 * len(batch.reagents)])
        rows = np.concatenate([part.reshape(self.ranks, -1)[rank] for part in (pulled, push)])
        return Batch(rows, [batch.reagents[i] for i in reagents])

    def _divisible(self, count: int) -> int:
        return count // self.ranks * self.ranks

    def _reagents(self, reagents: list[str], rng: np.random.Generator) -> list[str]:
        order = [reagents[i] for i in rng.permutation(len(reagents))]
        kinds = [self.modality[reagent] for reagent in order]
        first = [kinds.index(kind) for kind in dict.fromkeys(kinds)]  # one of each modality
        rest = [i for i in range(len(order)) if i not in first]
        places = [*first, *rest]
        return [order[places[i % len(places)]] for i in range(self.reagents_per_target)]

    def _two_wells(self, reagent: str, rng: np.random.Generator) -> list[int]:
        wells = self.wells_of[reagent]
        first = rng.choice(wells)
        others = wells[self.plate_of[wells] != self.plate_of[first]]
        if len(others) == 0:
            others = wells
        return [int(first), int(rng.choice(others))]

    def _strangers(self, rows: list[int]) -> np.ndarray:
        """Labelled wells on the plates of some wells, of reagents that share no label with them."""
        taken = self.labels[self.reagent_of[rows]].any(axis=0)  # (T,)
        shares = self.labels[:, taken].any(axis=1)[self.reagent_of]
        here = np.isin(self.plate_of, self.plate_of[rows])
        return np.flatnonzero(self.labelled & ~shares & here)

    def _some(self, wells: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        return rng.choice(wells, self._divisible(min(count, len(wells))), replace=False)
