"""Write docs/fact_dictionary.md: each slot in a sentence, with the features behind it counted.

python scripts/write_dictionary.py --profiles CSV
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from _cli import parse_config, run_main

from captions.dictionary import dictionary_page
from data.errors import InputError
from data.files import atomic_path
from data.normalize import feature_columns

PAGE = Path(__file__).resolve().parent.parent / "docs" / "fact_dictionary.md"


@dataclass
class DictionaryConfig:
    """Which features to count, where to write."""

    profiles: str = field(metadata={"help": "CSV with CPJUMP1's features as columns"})
    out: str = field(default=str(PAGE), metadata={"help": "Markdown file"})


def main() -> None:
    """Read the columns, write the page."""
    (config,) = parse_config(DictionaryConfig)
    try:
        names = feature_columns(pd.read_csv(config.profiles, nrows=0))
    except (OSError, ValueError) as error:
        raise InputError(f"--profiles {config.profiles}: {error}") from None
    with atomic_path(config.out) as path:
        path.write_text(dictionary_page(names), encoding="utf-8")
    print(f"{len(names)} features: {config.out}")


if __name__ == "__main__":
    run_main(main)
