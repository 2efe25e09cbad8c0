"""Write a model whose adapter is part of its weights: it loads and runs without PEFT.

python scripts/merge_adapters.py --model runs/quickstart --out runs/quickstart/merged

The base in a model folder is never quantised, also after QLoRA: what is merged is exact.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from _cli import parse_config, run_main

from data.errors import InputError
from vlm.adapters import ALIGN, DESCRIBE, find_model, merge_adapter, save_base

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class MergeConfig:
    """What to merge, and where it goes."""

    model: str = field(metadata={"help": "run or model folder"})
    out: str = field(metadata={"help": "new model folder"})
    adapter: str = field(
        default=DESCRIBE,
        metadata={"help": f"{DESCRIBE} (the model describes) or {ALIGN} (it embeds prompts)"},
    )
    dtype: str = field(default="float32", metadata={"help": " or ".join(DTYPES)})

    def __post_init__(self) -> None:
        if self.adapter not in (ALIGN, DESCRIBE):
            raise InputError(f"adapter is {self.adapter!r}; expected {ALIGN} or {DESCRIBE}")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype is {self.dtype!r}; expected {' or '.join(DTYPES)}")


def main() -> None:
    """Parse, merge, save."""
    (config,) = parse_config(MergeConfig)
    source, out = find_model(config.model), Path(config.out)
    if out.resolve() in (source.resolve(), *source.resolve().parents):
        raise InputError(f"--out {out} would replace the model that is merged: name another folder")
    model, processor = merge_adapter(source, config.adapter)
    save_base(model.to(DTYPES[config.dtype]), processor, out)
    if (source / "README.md").is_file():
        shutil.copy(source / "README.md", out)
    print(f"merged {config.adapter} of {source} into {out}")


if __name__ == "__main__":
    run_main(main)
