"""Embed wells: Parquet profiles (Metadata_ columns, embedding columns) for matching.

python scripts/embed_wells.py --model RUN --data PREPARED --out embeddings.parquet
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from _cli import output_paths, parse_config, run_main

from data.errors import InputError
from data.files import atomic_path
from vlm.adapters import bare, load_model
from vlm.assembly import untrain
from vlm.instruct import backbone_features, well_embeddings
from vlm.wells import open_wells

REPRESENTATIONS = ("embedding", "backbone", "untrained")


@dataclass
class EmbedConfig:
    """Which wells to embed, with what, and where to write them."""

    model: str = field(metadata={"help": "run or model folder"})
    data: str = field(metadata={"help": "prepared store"})
    out: str = field(metadata={"help": "Parquet file to write"})
    query: str | None = field(default=None, metadata={"help": "pandas query on wells"})
    representation: str = field(
        default="embedding",
        metadata={
            "help": "embedding; backbone (its frozen features) and untrained (tower and heads "
            "drawn anew): the controls that every model has to beat. Several, like "
            "embedding,untrained: the first goes to OUT, each other to OUT_untrained"
        },
    )
    seed: int = field(default=0, metadata={"help": "of the untrained tower"})

    def __post_init__(self) -> None:
        for name in self.representations:
            if name not in REPRESENTATIONS:
                expected = ", ".join(REPRESENTATIONS)
                raise InputError(f"representation is {name!r}; expected one of {expected}")

    @property
    def representations(self) -> list[str]:
        """What wells are embedded as, one after another."""
        return self.representation.split(",")


def main() -> None:
    """Parse, embed, write."""
    (config,) = parse_config(EmbedConfig)
    model, processor = load_model(config.model)
    bank = open_wells(config.data, bare(model), processor)
    if config.query:
        bank = bank.query(config.query)
    metadata = bank.wells.filter(regex="^Metadata_").reset_index(drop=True)
    paths = output_paths(config.out, config.representations)
    for name in sorted(paths, key=REPRESENTATIONS.index):  # untrained comes last
        if name == "untrained":
            untrain(bare(model), config.seed)
        features = (
            backbone_features(model, bank) if name == "backbone" else well_embeddings(model, bank)
        )
        columns = [f"embedding_{i:03d}" for i in range(features.shape[1])]
        profiles = pd.concat([metadata, pd.DataFrame(features, columns=columns)], axis=1)
        with atomic_path(paths[name]) as path:
            profiles.to_parquet(path, index=False)
    print(f"{len(metadata)} wells embedded: {Path(config.out)}")


if __name__ == "__main__":
    run_main(main)
