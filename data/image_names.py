"""What the names of image files say: well, site and channel, for the common microscopes."""

import re
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError

WELL_NAME = re.compile(r"[A-P](0[1-9]|1\d|2[0-4])$")

HARMONY = re.compile(
    r"r(?P<row>\d+)c(?P<column>\d+)f(?P<site>\d+)p\d+-(?P<channel>ch\d+)sk\d+fk\d+fl\d+\.tiff?"
)

NAMES = {
    # Phenix, Operetta, Sonata: r01c01f01p01-ch1sk1fk1fl1.tiff
    "Harmony": HARMONY,
    # ImageXpress: plate_A01_s1_w1.tif, also with the long id that MetaXpress puts after the channel
    "MetaXpress": re.compile(
        r"(?:.*_)?(?P<well>[A-P]\d\d)(?:_s(?P<site>\d+))?_(?P<channel>w\d)"
        r"(?:[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})?\.tiff?"
    ),
    # all channels of a site in one file: plate_A01_s1.tiff, A01_1.ome.tiff
    "multi-page": re.compile(
        r"(?:.*_)?(?P<well>[A-P]\d\d)(?:_[sf]?(?P<site>\d+))?(?:\.ome)?\.tiff?"
    ),
}
"""The file names that are known; the first that fits any file of a plate is that plate's."""


@dataclass(frozen=True)
class ImageFile:
    """One image file of a plate.

    Attributes
    ----------
    path : Path
    well : str
        "A01" to "P24".
    site : int
    channel : str or None
        As the name says ("ch1", "w2"); None where the file holds all channels of a site.
    channel_name : str or None
        The microscope's own name of the channel ("HOECHST 33342") where it is known.
    position : (float, float) or None
        X and Y of the site from the well's centre in micrometres.
    pixel_size : float or None
        Micrometres.
    """

    path: Path
    well: str
    site: int
    channel: str | None
    channel_name: str | None = None
    position: tuple[float, float] | None = None
    pixel_size: float | None = None


def read_names(folder: Path, pattern: str | None = None) -> list[ImageFile]:
    """Read the names of all image files below a folder.

    Parameters
    ----------
    folder : Path
    pattern : str, optional
        A regular expression that fits the end of a file's path below `folder`, in place of `NAMES`.
        Its named groups: `well` (or `row` and `column`), and where they vary `site` and `channel`.

    Raises
    ------
    InputError
        When the pattern is no such expression, no name fits, or one says an impossible well.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path: path.relative_to(folder).as_posix() for path in files}
    if pattern is None:
        for known in NAMES.values():
            images = [_read_name(known.fullmatch(path.name), path) for path in files]
            if any(images):
                return [image for image in images if image]
        raise InputError(
            f"{folder}: no images named like r01c01f01p01-ch1sk1fk1fl1.tiff, plate_A01_s1_w1.tif "
            "or plate_A01_s1.ome.tiff: give --pattern for other names"
        )
    try:
        given = re.compile(f"(?:.*/)?(?:{pattern})")
    except re.error as error:
        raise InputError(f"--pattern {pattern!r} is not a regular expression ({error})") from None
    groups = set(given.groupindex)
    if not ("well" in groups or {"row", "column"} <= groups):
        raise InputError(
            f"--pattern {pattern!r}: expected a group (?P<well>...), or (?P<row>...) and "
            f"(?P<column>...); found {', '.join(sorted(groups)) or 'no named group'}"
        )
    images = [_read_name(given.fullmatch(name), path) for path, name in names.items()]
    if not any(images):
        some = next(iter(names.values()), "no files")
        raise InputError(f"{folder}: --pattern {pattern!r} fits no file; found {some}")
    return [image for image in images if image]


def well_name(row: str | int, column: str | int, where: str) -> str:
    """Return "B03" for row 2 or "B" and column 3.

    Raises
    ------
    InputError
        Naming `where` when a plate has no such well.
    """
    letter = chr(ord("A") + int(row) - 1) if str(row).isdigit() else str(row).upper()
    well = f"{letter}{int(column):02d}" if str(column).isdigit() else f"{letter}{column}"
    if not WELL_NAME.match(well):
        raise InputError(f"{where}: row {row} column {column} is no well, expected A01 to P24")
    return well


def _read_name(match: re.Match[str] | None, path: Path) -> ImageFile | None:
    if match is None:
        return None
    said = match.groupdict()
    if said.get("well"):
        row, column = said["well"][:1], said["well"][1:]
    else:
        row, column = said["row"], said["column"]
    site = said.get("site") or "1"
    if not site.isdigit():
        raise InputError(f"{path}: site is {site!r}, expected a number")
    return ImageFile(path, well_name(row, column, str(path)), int(site), said.get("channel"))
