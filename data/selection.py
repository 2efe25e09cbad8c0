"""Which part of a source is asked for: plates, a modality, wells, sites."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from data.errors import InputError
from data.image_names import WELL_NAME
from data.raw import Plate

MODALITIES = ("compound", "crispr", "orf")


@dataclass(frozen=True)
class Selection:
    """What is asked for; an empty part asks for everything.

    Attributes
    ----------
    plates : tuple of str
        Barcodes.
    modality : str
        "compound", "crispr" or "orf".
    wells : tuple of str
    sites : tuple of int
    """

    plates: tuple[str, ...] = ()
    modality: str = ""
    wells: tuple[str, ...] = ()
    sites: tuple[int, ...] = ()


def parse_selection(plates: str, modality: str, wells: str, sites: str) -> Selection:
    """Read what a command line says: "BR00117010,BR00117011" or "all", "A01,B02", "1-4,7".

    Raises
    ------
    InputError
        Naming the part that is not understood.
    """
    if modality and modality not in MODALITIES:
        raise InputError(f"--modality is {modality!r}, expected {', '.join(MODALITIES)}")
    names = tuple(name for name in _split(wells))
    for name in names:
        if not WELL_NAME.match(name):
            raise InputError(f"--wells: {name!r} is no well, expected A01 to P24, like A01,B02")
    numbers: list[int] = []
    for part in _split(sites):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            raise InputError(f"--sites: {part!r} is no site, expected numbers like 1-4 or 1,3,5")
        numbers += range(int(first), int(last or first) + 1)
    chosen = () if plates == "all" else tuple(_split(plates))
    return Selection(chosen, modality, names, tuple(dict.fromkeys(numbers)))


def choose_plates(barcodes: Sequence[str], wanted: Collection[str]) -> list[str]:
    """Return the barcodes that are wanted, in their order; all when nothing is wanted.

    Raises
    ------
    InputError
        When a wanted plate does not exist.
    """
    missing = [barcode for barcode in wanted if barcode not in barcodes]
    if missing:
        some = ", ".join(barcodes[:5])
        raise InputError(f"--plates: there is no plate {missing[0]}; there are {some}, ...")
    return [barcode for barcode in barcodes if not wanted or barcode in wanted]


def select(plates: Sequence[Plate], wanted: Selection) -> list[Plate]:
    """Keep what is asked for of plates that were read.

    Raises
    ------
    InputError
        When a plate, a well of every plate, or everything is missing.
    """
    barcodes = choose_plates([plate.barcode for plate in plates], wanted.plates)
    kept = []
    for plate in plates:
        modalities = set(plate.wells["Metadata_modality"]) - {"control", ""}
        if plate.barcode in barcodes and (not wanted.modality or wanted.modality in modalities):
            kept.append(select_sites(plate, wanted))
    if not kept:
        raise InputError(f"no plate of modality {wanted.modality} among {', '.join(barcodes)}")
    return kept


def select_sites(plate: Plate, wanted: Selection) -> Plate:
    """Keep the wells and sites asked for of one plate.

    Raises
    ------
    InputError
        Naming a well that the plate does not have, or a well without the sites asked for.
    """
    there = set(plate.wells["Metadata_Well"])
    missing = [well for well in wanted.wells if well not in there]
    if missing:
        raise InputError(
            f"--wells: plate {plate.barcode} has no well {missing[0]} (no images or no reagent)"
        )
    sites = tuple(
        site
        for site in plate.sites
        if (not wanted.wells or site.well in wanted.wells)
        and (not wanted.sites or site.number in wanted.sites)
    )
    imaged = {site.well for site in sites}
    wells = plate.wells
    if wanted.wells:
        wells = wells[wells["Metadata_Well"].isin(wanted.wells)].reset_index(drop=True)
    empty = [well for well in wells["Metadata_Well"] if well not in imaged]
    if empty:
        raise InputError(
            f"--sites: well {empty[0]} of plate {plate.barcode} has none of the sites "
            f"{', '.join(map(str, wanted.sites))}"
        )
    return replace(plate, wells=wells, sites=sites)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
