"""Embed wells: Parquet profiles (Metadata_ columns, embedding columns) for matching.

python scripts/embed_wells.py --model RUN --data PREPARED --out embeddings.parquet
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from _cli import run_main

from data.files import atomic_path
from vlm.adapters import bare, load_model
from vlm.instruct import well_embeddings
from vlm.pretrained import untrain
from vlm.wells import WellBank, open_wells


@dataclass
class EmbedConfig:
    """Which wells to embed, with what, and where to write them."""

    model: str = field(metadata={"help": "run or model folder"})
    data: str = field(metadata={"help": "prepared store"})
    out: str = field(metadata={"help": "Parquet file to write"})
    split: str = field(default="all", metadata={"help": "train, test or all"})
    untrained: bool = field(
        default=False,
        metadata={"help": "draw tower and heads anew: the control every model has to beat"},
    )
    seed: int = field(default=0, metadata={"help": "of the untrained tower"})


def main() -> None:
    """Parse, embed, write."""
    from trl import TrlParser

    (config,) = TrlParser(EmbedConfig).parse_args_and_config()
    model, processor = load_model(config.model)
    bank = open_wells(config.data, bare(model), processor)
    if config.split != "all":
        bank = bank.select((bank.wells["Metadata_split"] == config.split).to_numpy())
    if config.untrained:
        untrain(bare(model), config.seed)
    profiles = embedding_profiles(model, bank)
    with atomic_path(config.out) as path:
        profiles.to_parquet(path, index=False)
    print(f"{len(profiles)} wells embedded: {Path(config.out)}")


def embedding_profiles(model, bank: WellBank) -> pd.DataFrame:
    """Embed a bank: its wells' Metadata_ columns and `embedding_000`, ... (float32)."""
    embeddings = well_embeddings(model, bank)
    columns = [f"embedding_{i:03d}" for i in range(embeddings.shape[1])]
    metadata = bank.wells.filter(regex="^Metadata_").reset_index(drop=True)
    return pd.concat([metadata, pd.DataFrame(embeddings, columns=columns)], axis=1)


if __name__ == "__main__":
    run_main(main)
