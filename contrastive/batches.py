"""Which wells meet in a batch of phase align."""

from collections import defaultdict

import numpy as np
import pandas as pd


class TargetBatches:
    """Draw batches in which replicates and modalities of a target meet across plates.

    A batch holds `num_targets` targets; two reagents of each, of different modalities where there
    are; two wells of each reagent, on different plates where there are. Wells of reagents without
    a target (controls, inactive ones) fill it up.

    Parameters
    ----------
    wells : DataFrame
        Training wells: Metadata_broad_sample, Metadata_Plate, Metadata_modality and `label_column`.
    label_column : str
        What reagents share: target lists ("A|B") or mechanisms; "" for none.
    num_targets, num_unlabelled : int
        Size of a batch: 4 x num_targets + num_unlabelled wells.
    seed : int
        The batch of a step depends on seed and step alone, so a resumed run draws the same.
    """

    def __init__(
        self,
        wells: pd.DataFrame,
        label_column: str,
        num_targets: int,
        num_unlabelled: int,
        seed: int,
    ):
        self.seed = seed
        self.num_unlabelled = num_unlabelled
        self.plates = wells["Metadata_Plate"].to_numpy()
        groups = wells.groupby("Metadata_broad_sample").indices
        self.wells_of: dict[str, np.ndarray] = {
            str(reagent): np.asarray(rows) for reagent, rows in groups.items()
        }
        reagents = wells.drop_duplicates("Metadata_broad_sample").set_index("Metadata_broad_sample")
        self.modality = reagents["Metadata_modality"].to_dict()
        self.reagents_of: dict[str, list[str]] = defaultdict(list)
        for reagent, labels in reagents[label_column].items():
            for label in filter(None, labels.split("|")):
                self.reagents_of[label].append(str(reagent))
        self.labels = sorted(self.reagents_of)
        self.num_targets = min(num_targets, len(self.labels))
        self.unlabelled = np.flatnonzero(wells[label_column] == "")

    def draw(self, step: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Draw the batch of one step.

        Returns
        -------
        rows : (N,) int array
            Wells: the two of each reagent next to each other, all labelled ones first.
        labels : (N,) int array
            What each shares with others; wells without a label get numbers of their own.
        reagents : list of str
            The 2 x num_targets reagents: `rows[2 * i]` and `rows[2 * i + 1]` are of reagent i.
            Even and odd places hold different reagents of the same targets.
        """
        rng = np.random.default_rng([self.seed, step])
        rows: list[int] = []
        labels: list[int] = []
        reagents: list[str] = []
        chosen = rng.choice(len(self.labels), self.num_targets, replace=False)
        spare = np.setdiff1d(np.arange(len(self.labels)), chosen)
        for number in [*chosen, *spare]:
            if len(reagents) == 2 * self.num_targets:
                break
            # A reagent of several targets is drawn for one: under two it would oppose itself.
            mine = [r for r in self.reagents_of[self.labels[number]] if r not in reagents]
            if not mine:
                continue  # a spare target stands in, where there is one
            for reagent in self._two_reagents(mine, rng):
                reagents.append(reagent)
                rows.extend(self._two_wells(self.wells_of[reagent], rng))
                labels.extend([int(number)] * 2)
        extra = rng.choice(self.unlabelled, min(self.num_unlabelled, len(self.unlabelled)), False)
        rows.extend(extra)
        labels.extend(range(len(self.labels), len(self.labels) + len(extra)))
        return np.array(rows), np.array(labels), reagents

    def _two_reagents(self, reagents: list[str], rng: np.random.Generator) -> list[str]:
        order = [reagents[i] for i in rng.permutation(len(reagents))]
        first = order[0]
        others = (
            [r for r in order if self.modality[r] != self.modality[first]] or order[1:] or order
        )
        return [first, others[0]]

    def _two_wells(self, wells: np.ndarray, rng: np.random.Generator) -> list[int]:
        first = rng.choice(wells)
        others = wells[self.plates[wells] != self.plates[first]]
        if len(others) == 0:
            others = wells
        return [int(first), int(rng.choice(others))]
