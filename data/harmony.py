"""Index.idx.xml, the list of images that Harmony writes beside them (Phenix, Operetta, Sonata)."""

from pathlib import Path
from xml.etree import ElementTree

from data.errors import InputError
from data.image_names import HARMONY, ImageFile, well_name

INDEX_NAMES = ("Index.idx.xml", "Index.xml")
"""Harmony 4 and 5, and later ones."""


def read_index(path: Path) -> list[ImageFile]:
    """Read the images that an index lists, with channel names and positions where it has them.

    Parameters
    ----------
    path : Path
        An Index.idx.xml (Harmony 4 to 7); its images lie beside it.

    Raises
    ------
    InputError
        When it is no such file, lists an image that is missing, disagrees with an image's name, or
        does not list an image that lies beside it.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise InputError(f"{path}: not a readable XML file ({error})") from None
    # Later Harmonys name the channels once, in a map, and not in every image.
    channels = {
        entry.get("ChannelID"): entry.findtext("{*}ChannelName")
        for entry in root.iterfind("{*}Maps/{*}Map/{*}Entry")
        if entry.findtext("{*}ChannelName")
    }
    elements = root.findall("{*}Images/{*}Image")
    if not elements:
        raise InputError(f"{path}: lists no images; expected Harmony's Images and Image elements")
    images = [_read_image(path, element, channels) for element in elements]
    listed = {image.path.name for image in images}
    for other in sorted(path.parent.iterdir()):
        if HARMONY.fullmatch(other.name) and other.name not in listed:
            raise InputError(
                f"{other}: not listed in {path.name}: remove one of the two, or both are of "
                "different measurements"
            )
    return images


def _read_image(
    path: Path, element: ElementTree.Element, channels: dict[str | None, str | None]
) -> ImageFile:
    text = {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in element}
    try:
        row, column, site, channel = (
            int(text[name]) for name in ("Row", "Col", "FieldID", "ChannelID")
        )
        file = path.parent / text["URL"]
        position = None
        if "PositionX" in text and "PositionY" in text:  # metres from the well's centre
            position = (1e6 * float(text["PositionX"]), 1e6 * float(text["PositionY"]))
        resolution = text.get("ImageResolutionX")
        pixel_size = 1e6 * float(resolution) if resolution else None
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: image {text.get('URL') or text.get('id')} has no usable Row, Col, FieldID, "
            f"ChannelID, URL, position or resolution ({error})"
        ) from None
    name = HARMONY.fullmatch(file.name)
    expected = (row, column, site, f"ch{channel}")
    if name:
        found = (int(name["row"]), int(name["column"]), int(name["site"]), name["channel"])
        if found != expected:
            raise InputError(
                f"{path}: says that {file.name} is row {row}, column {column}, field {site}, "
                f"channel {channel}, which its name denies: remove the index to go by the names"
            )
    if not file.is_file():
        raise InputError(
            f"{path}: lists {text['URL']}, which is missing: copy it, or remove the index to go by "
            "the names of the files"
        )
    return ImageFile(
        path=file,
        well=well_name(row, column, str(path)),
        site=site,
        channel=f"ch{channel}",
        channel_name=text.get("ChannelName") or channels.get(str(channel)),
        position=position,
        pixel_size=pixel_size,
    )
