"""Find the reagents that look most like a well, a reagent, or a text.

python scripts/find_matches.py --model RUN --data PREPARED --reagent NAME
python scripts/find_matches.py ... --plate P --well B07 --modality crispr
python scripts/find_matches.py ... --text "loss of mitochondrial membrane potential"
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from _cli import parse_config, run_main

from data.errors import InputError
from data.store import load_wells
from eval.profiles import read_profiles
from eval.reagents import consensus
from vlm.adapters import ALIGN, bare, load_model, use_adapter
from vlm.instruct import well_embeddings
from vlm.processing import prompt_ids
from vlm.wells import open_wells

REAGENT = [
    "Metadata_broad_sample",
    "Metadata_modality",
    "Metadata_pert_iname",
    "Metadata_target_list",
]


@dataclass
class MatchConfig:
    """What to match, among what."""

    data: str = field(metadata={"help": "prepared store with the candidates"})
    model: str = field(metadata={"help": "run or model folder"})
    embeddings: str | None = field(
        default=None, metadata={"help": "Parquet from embed_wells.py; computed when not given"}
    )
    reagent: str | None = field(default=None, metadata={"help": "Metadata_broad_sample or name"})
    plate: str | None = field(default=None, metadata={"help": "barcode of --well"})
    well: str | None = field(default=None, metadata={"help": "like B07"})
    text: str | None = field(default=None, metadata={"help": "free text, as in a prompt"})
    modality: str | None = field(
        default=None, metadata={"help": "candidates: compound, crispr or orf; all by default"}
    )
    top: int = field(default=10, metadata={"help": "matches to print"})


def main() -> None:
    """Parse, rank, print."""
    (config,) = parse_config(MatchConfig)
    if sum(x is not None for x in (config.reagent, config.well, config.text)) != 1:
        raise InputError("give one of --reagent, --well (with --plate) and --text")
    load_wells(config.data)  # before the model: says at once when this is no prepared store
    model, processor = load_model(config.model)
    if config.embeddings is None:
        bank = open_wells(config.data, bare(model), processor)
        meta, features = bank.wells, well_embeddings(model, bank)
    else:
        meta, features = read_profiles(config.embeddings)
    matches = rank_matches(config, meta, features, model, processor)
    print(matches.head(config.top).to_string(index=False, float_format="%.3f"))


def rank_matches(
    config: MatchConfig, meta: pd.DataFrame, features: np.ndarray, model, processor
) -> pd.DataFrame:
    """Rank reagents by the cosine of their consensus embedding with the query.

    Raises
    ------
    InputError
        When the query or the candidates are not in the data.
    """
    treated = (meta["Metadata_modality"] != "control").to_numpy()
    reagents, unit = consensus(meta[treated], features[treated], REAGENT)
    asked = np.zeros(len(reagents), bool)
    if config.text is not None:
        query = _embed_text(model, processor, config.text)
    elif config.reagent is not None:
        names = reagents[["Metadata_broad_sample", "Metadata_pert_iname"]]
        asked = (names == config.reagent).any(axis=1).to_numpy()
        if not asked.any():
            raise InputError(f"{config.data}: no treated well has the reagent {config.reagent!r}")
        query = unit[asked][0]
    else:
        rows = (meta["Metadata_Plate"] == config.plate) & (meta["Metadata_Well"] == config.well)
        if not rows.any():
            raise InputError(f"{config.data}: no well {config.well} on plate {config.plate}")
        query = features[rows.to_numpy()][0]
        asked = (
            reagents["Metadata_broad_sample"] == meta[rows]["Metadata_broad_sample"].iloc[0]
        ).to_numpy()
    candidates = ~asked
    if config.modality is not None:
        candidates &= (reagents["Metadata_modality"] == config.modality).to_numpy()
    if not candidates.any():
        raise InputError(f"{config.data}: no candidate of the modality {config.modality!r}")
    table = reagents.loc[candidates, REAGENT].assign(similarity=unit[candidates] @ query)
    table = table.sort_values("similarity", ascending=False)
    return table.rename(columns=lambda name: name.removeprefix("Metadata_"))


@torch.inference_mode()
def _embed_text(model, processor, text: str) -> np.ndarray:
    if not text.strip():
        raise InputError(
            "--text is empty: write what the cells should look like or be treated with"
        )
    use_adapter(model, ALIGN)
    ids = torch.tensor([prompt_ids(processor.prompt_tokenizer, text)])
    return bare(model).embed_prompts(ids, torch.ones_like(ids))[0].numpy()


if __name__ == "__main__":
    run_main(main)
