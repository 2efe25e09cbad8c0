"""Structures: SMILES without salts, in one spelling, and the InChIKey of the parent (RDKit)."""

from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

from data.errors import InputError


class Structure(NamedTuple):
    """A compound without counter-ions: canonical SMILES, and InChIKeys as drawn and of it."""

    smiles: str
    inchikeys: tuple[str, ...]


@lru_cache(maxsize=100_000)
def clean_structure(smiles: str) -> Structure | None:
    """Strip salts, neutralise and write a SMILES in RDKit's canonical spelling.

    Returns
    -------
    Structure or None
        None where RDKit refuses the SMILES.

    Raises
    ------
    InputError
        When RDKit is not installed.

    Examples
    --------
    >>> clean_structure("[Na+].[O-]C(=O)C").smiles
    'CC(=O)O'
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem.MolStandardize import rdMolStandardize
    except ImportError:
        raise InputError(
            "RDKit is not installed: pip install 'morphoclip[knowledge]', or keep SMILES as they"
            " are with --clean_smiles false"
        ) from None
    with rdBase.BlockLogs():
        try:
            drawn = Chem.MolFromSmiles(smiles)
            if drawn is None or not drawn.GetNumAtoms():
                return None
            parent = rdMolStandardize.ChargeParent(drawn)
            keys = (Chem.MolToInchiKey(drawn), Chem.MolToInchiKey(parent))
            return Structure(Chem.MolToSmiles(parent), tuple(dict.fromkeys(filter(None, keys))))
        except (ValueError, RuntimeError):  # what RDKit raises on what it cannot kekulise or charge
            return None


def rdkit_is_installed() -> bool:
    """Whether structures can be cleaned here."""
    return find_spec("rdkit") is not None
