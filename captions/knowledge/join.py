"""The tables of all sources, joined: genes by Entrez number and UniProt accession."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from captions.knowledge import (
    drugbank,
    drugcentral,
    gene_sets,
    refseq,
    repurposing_hub,
    simulated,
    uniprot,
)
from captions.knowledge.tables import COMPOUND_COLUMNS, GENE_COLUMNS, Records, join_list
from data.errors import InputError

LIST_FIELDS = ("aliases", "names")


@dataclass(frozen=True)
class Knowledge:
    """Text about genes and compounds; what is not known is "".

    Attributes
    ----------
    genes : DataFrame
        Indexed by gene symbol: `GENE_COLUMNS` without the symbol, and for each field F its source,
        F_source.
    compounds : DataFrame
        One row a record of a source (`COMPOUND_COLUMNS` and `source`), the preferred source first.
        `captions.knowledge.reagents` finds a reagent's records among them.
    sources : DataFrame
        Indexed by source: version, licence, url, and the number of `rows` read.
    aliases : dict
        Older symbol to the one symbol that it stands for.
    ambiguous : frozenset
        Older symbols that stand for several genes: they are not resolved.
    problems : dict
        Name of a problem to what it concerns.
    """

    genes: pd.DataFrame
    compounds: pd.DataFrame
    sources: pd.DataFrame
    aliases: dict[str, str]
    ambiguous: frozenset[str]
    problems: dict[str, list[str]] = field(default_factory=dict)

    def current_symbol(self, symbol: str) -> str:
        """Return the symbol that the tables use for a gene now, "" when they do not have it."""
        return symbol if symbol in self.genes.index else self.aliases.get(symbol, "")

    def look_up_genes(self, symbols: Iterable[str]) -> pd.DataFrame:
        """Return the rows of some genes, under the symbols asked for; unknown ones are left out.

        The column `current_symbol` has the symbol that the tables use.
        """
        current = {symbol: self.current_symbol(symbol) for symbol in sorted(set(symbols))}
        known = [symbol for symbol in current if current[symbol]]
        genes = self.genes.loc[[current[symbol] for symbol in known]]
        return genes.assign(current_symbol=genes.index).set_axis(pd.Index(known, name="symbol"))


def load_knowledge(annotation: str | Path | None = None, more: Sequence[Records] = ()) -> Knowledge:
    """Join what the annotation files and the packaged table say.

    Parameters
    ----------
    annotation : path, optional
        A folder with any of the files that docs/prompts.md lists; each is optional.
    more : sequence of Records
        Sources that are no file there: `uniprot.ask_uniprot`, `drugbank.read_full`.

    Returns
    -------
    Knowledge
        Where sources differ, the first of these wins: RefSeq, UniProt, Reactome, Gene Ontology,
        packaged sentences; Repurposing Hub, `more`, DrugCentral, DrugBank vocabulary, packaged.

    Raises
    ------
    InputError
        When the folder does not exist, or a file in it cannot be read or lacks a column.
    """
    genes: list[Records] = [part for part in more if "symbol" in part.rows]
    compounds: list[Records] = []
    later = [part for part in more if "symbol" not in part.rows]
    if annotation is not None:
        folder = Path(annotation)
        if not folder.is_dir():
            raise InputError(f"annotation folder {folder} does not exist")
        readers: list[tuple[str, Callable[[Path], Records]]] = [
            (uniprot.PATTERN, uniprot.read_uniprot),
            (refseq.PATTERN, refseq.read_refseq),
            (gene_sets.REACTOME, gene_sets.read_reactome),
            (gene_sets.GENE_ONTOLOGY, gene_sets.read_gene_ontology),
        ]
        genes += [
            read(path)
            for pattern, read in readers
            if (path := _newest(folder, pattern)) is not None
        ]
        if hub := _newest(folder, repurposing_hub.DRUGS):
            samples = _newest(folder, repurposing_hub.SAMPLES)
            compounds.append(repurposing_hub.read_repurposing_hub(hub, samples))
        if full := _newest(folder, drugbank.FULL):
            compounds.append(drugbank.read_full(full))
        if targets := _newest(folder, drugcentral.TARGETS):
            structures = _newest(folder, drugcentral.STRUCTURES)
            drugs, proteins = drugcentral.read_drugcentral(targets, structures)
            later.append(drugs)
            genes.append(proteins)
        if vocabulary := _newest(folder, drugbank.VOCABULARY):
            later.append(drugbank.read_vocabulary(vocabulary))
    packaged = simulated.read_simulated()
    return join_records([*genes, packaged[0]], [*compounds, *later, packaged[1]])


def join_records(genes: Sequence[Records], compounds: Sequence[Records]) -> Knowledge:
    """Join sources, the preferred first; see `Knowledge`."""
    problems: dict[str, list[str]] = {}
    rows = _with_source(genes, GENE_COLUMNS)
    listed_as = rows["symbol"]
    rows["symbol"] = _one_symbol_a_gene(rows, problems)
    rows["aliases"] = [
        join_list([aliases, own]) if own != current else aliases
        for aliases, own, current in zip(rows["aliases"], listed_as, rows["symbol"], strict=True)
    ]
    aliases, ambiguous = _aliases(rows)
    table = pd.DataFrame(index=pd.Index(sorted(set(rows["symbol"])), name="symbol"))
    for name in GENE_COLUMNS[1:]:
        filled = rows[rows[name] != ""]
        if name in LIST_FIELDS:
            found = filled.groupby("symbol")[[name, "source"]].agg(join_list)
        else:
            found = filled.drop_duplicates("symbol").set_index("symbol")[[name, "source"]]
        table[[name, f"{name}_source"]] = found.reindex(table.index).fillna("")
    listed: dict[str, dict] = {}
    for part in (*genes, *compounds):
        source = listed.setdefault(part.source.name, asdict(part.source) | {"rows": 0})
        source["rows"] += len(part.rows)
        if part.rows.empty:
            problems.setdefault("table_empty", []).append(part.source.name)
    return Knowledge(
        genes=table,
        compounds=_with_source(compounds, COMPOUND_COLUMNS),
        sources=pd.DataFrame(listed.values()).set_index("name"),
        aliases=aliases,
        ambiguous=ambiguous,
        problems=problems,
    )


def _newest(folder: Path, pattern: str) -> Path | None:
    """Return the last file by name: names carry dates or years."""
    return max(folder.glob(pattern), default=None)


def _with_source(parts: Sequence[Records], columns: Sequence[str]) -> pd.DataFrame:
    tables = [part.rows[list(columns)].assign(source=part.source.name) for part in parts]
    return pd.concat([pd.DataFrame(columns=[*columns, "source"], dtype=str), *tables])[
        [*columns, "source"]
    ].reset_index(drop=True)


def _one_symbol_a_gene(rows: pd.DataFrame, problems: dict[str, list[str]]) -> list[str]:
    """Give each row the symbol that the first row with its Entrez number or accession has.

    Never by alias: one gene's older symbol is often another gene's current one (MAL, CAD, PDX1).
    """
    of_entrez: dict[str, str] = {}
    of_uniprot: dict[str, str] = {}
    symbols = []
    renamed, clashes = set(), set()
    for symbol, entrez, accession in rows[["symbol", "entrez", "uniprot"]].itertuples(index=False):
        by_entrez, by_uniprot = of_entrez.get(entrez, ""), of_uniprot.get(accession, "")
        if by_entrez and by_uniprot and by_entrez != by_uniprot:
            clashes.add(
                f"{symbol}: Entrez {entrez} is {by_entrez}, UniProt {accession} is {by_uniprot}"
            )
        current = by_entrez or by_uniprot or symbol
        if current != symbol:
            renamed.add(f"{symbol} is now {current}")
        if entrez:
            of_entrez.setdefault(entrez, current)
        if accession:
            of_uniprot.setdefault(accession, current)
        symbols.append(current)
    if renamed:
        problems["table_gene_renamed"] = sorted(renamed)
    if clashes:
        problems["table_gene_identifiers_disagree"] = sorted(clashes)
    return symbols


def _aliases(rows: pd.DataFrame) -> tuple[dict[str, str], frozenset[str]]:
    """Older symbol to the gene that it stands for, and those that stand for several."""
    genes = rows[["symbol", "aliases"]].assign(alias=rows["aliases"].str.split("|"))
    pairs = genes.explode("alias")[["alias", "symbol"]].drop_duplicates()
    pairs = pairs[(pairs["alias"] != "") & ~pairs["alias"].isin(set(rows["symbol"]))]
    several = pairs["alias"].duplicated(keep=False)
    unique = pairs[~several]
    return (
        dict(zip(unique["alias"], unique["symbol"], strict=True)),
        frozenset(pairs.loc[several, "alias"]),
    )
