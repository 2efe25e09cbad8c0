"""What training reads: captions of a prepared store, and a record of the texts that it saw."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _train_config import TrainConfig

from captions.lessons import draw_lessons
from data.errors import InputError
from data.files import atomic_path
from data.store import load_manifest, load_wells
from eval.leaks import TRAINING_TEXT, collect_training_text
from vlm.adapters import bare
from vlm.instruct import KEY, rows_of_wells, well_readouts, well_tokens
from vlm.lora import Vlm
from vlm.wells import WellBank


def captions_file(data: str, name: str) -> Path:
    """Find a captions table of a prepared store."""
    load_wells(data)  # says it clearly when this is no prepared store
    path = Path(data) / "captions" / f"{name}.parquet"
    if not path.is_file():
        raise InputError(f"{path} is missing: run scripts/build_captions.py --data {data}")
    return path


def describe_examples(
    config: TrainConfig, seed: int, model: Vlm, bank: WellBank
) -> tuple[torch.Tensor, pd.DataFrame]:
    """Collect what phase describe learns from: dialogues about training wells, drawn lessons.

    Returns
    -------
    tokens : (n_wells + lessons, T, D) float Tensor
    dialogues : DataFrame
        well (row of `tokens`), question, answer.
    """
    tokens = well_tokens(model, bank)
    measured = pd.read_parquet(captions_file(config.data, "dialogues")).merge(bank.wells[KEY])
    if config.measured_dialogues is not None:
        few = min(config.measured_dialogues, len(measured))
        measured = measured.sample(few, random_state=seed)
    manifest = load_manifest(config.data)
    imaged = [manifest.imaged_stains(barcode) for barcode in bank.wells["Metadata_Plate"]]
    lessons, readouts = draw_lessons(well_readouts(model, bank), imaged, config.lessons, seed)
    tower = bare(model).model.vision_tower
    left = [[stain in imaged for stain in manifest.channels] for imaged in lessons.pop("imaged")]
    drawn = tower.with_readout(
        tokens[lessons["well"].to_numpy()], torch.from_numpy(readouts), torch.tensor(left)
    )
    lessons["well"] = np.arange(len(lessons)) + len(tokens)
    examples = [rows_of_wells(measured, bank.wells), lessons]
    return torch.cat([tokens, drawn]), pd.concat(examples, ignore_index=True)


def record_training_text(config: TrainConfig, label_column: str, keep: bool) -> None:
    """Write OUT/training_text.parquet: the texts and labels that training saw.

    Only where a phase was trained: captions that are built anew later must not replace what an
    earlier phase saw, which `keep` keeps. Drawn lessons are left out: they are made of the words
    of facts, which name no perturbation.
    """
    wells = load_wells(config.data).query(config.train_query)
    prompts, dialogues, reagents = (
        pd.read_parquet(captions_file(config.data, name))
        for name in ("prompts", "dialogues", "reagents")
    )
    seen = collect_training_text(wells, prompts, dialogues, reagents, label_column)
    path = Path(config.out) / TRAINING_TEXT
    if keep and path.is_file():
        seen = pd.concat([pd.read_parquet(path), seen]).drop_duplicates()
    with atomic_path(path) as temporary:
        seen.to_parquet(temporary, index=False)
