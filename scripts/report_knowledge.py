"""Count what annotation tables know about a screen's compounds and genes, source by source.

python scripts/report_knowledge.py --annotation FOLDER --compounds COMPOUNDS.tsv --genes GENES.tsv

The tables are JUMP-Target metadata: broad_sample, pert_iname, smiles, target_list (and InChIKey
where there is one) for compounds, gene for genes.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from _cli import parse_config, run_main
from build_captions import print_problems

from captions.knowledge import describe_reagents, load_knowledge
from captions.knowledge.reagents import FOUND_FIELDS
from captions.knowledge.tables import GENE_COLUMNS, split_list
from data.plates import read_table

COMPOUND_COLUMNS = ["broad_sample", "pert_iname", "smiles", "target_list", "pert_type"]


@dataclass
class KnowledgeConfig:
    """Which tables, about which screen."""

    annotation: str = field(metadata={"help": "folder with annotation tables (docs/prompts.md)"})
    compounds: str = field(metadata={"help": "TSV of the screen's compounds"})
    genes: str = field(metadata={"help": "TSV of the screen's guides or ORFs"})


def main() -> None:
    """Parse, look everything up, print the counts."""
    (config,) = parse_config(KnowledgeConfig)
    knowledge = load_knowledge(config.annotation)
    listed = read_table(Path(config.compounds), COMPOUND_COLUMNS)
    listed = listed[listed["broad_sample"] != ""]
    named = listed.add_prefix("Metadata_").assign(Metadata_modality="compound", Metadata_gene="")
    reagents, problems = describe_reagents(named, knowledge)
    symbols = set(read_table(Path(config.genes), ["gene"])["gene"]) - {""}
    genes = knowledge.look_up_genes(symbols)

    print(knowledge.sources[["version", "licence", "rows"]].to_string(), end="\n\n")
    print(f"{len(reagents)} compounds")
    structures = {"inchikey": "JUMP and RDKit", "smiles": "JUMP and RDKit"}
    print(count_sources(reagents, FOUND_FIELDS, structures).to_string(index=False), end="\n\n")
    print(f"{len(symbols)} genes")
    print(count_sources(genes, GENE_COLUMNS[1:], {}).to_string(index=False), end="\n\n")
    print_problems(knowledge.problems | problems)
    print_problems({"gene_unknown": sorted(symbols - set(genes.index))})


def count_sources(
    table: pd.DataFrame, fields: tuple[str, ...], given: dict[str, str]
) -> pd.DataFrame:
    """One row a field: how many have it, and from which source how many."""
    rows = [
        {"field": name, "known": int((table[name] != "").sum()), "from": source}
        for name, source in given.items()
    ]
    for name in fields:
        sources = table.loc[table[name] != "", f"{name}_source"].map(split_list).explode()
        counts = sources.value_counts()
        shown = ", ".join(f"{source} {count}" for source, count in counts.items())
        rows.append({"field": name, "known": int((table[name] != "").sum()), "from": shown})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    run_main(main)
