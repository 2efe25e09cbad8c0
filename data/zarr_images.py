"""OME-Zarr plates (high-content screening, versions 0.4 and 0.5), local or in an object store."""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.channels import match_channels, order_channels
from data.errors import InputError
from data.image_names import well_name
from data.raw import Plate, Site, stack_planes

VERSIONS = ("0.4", "0.5")


def read_zarr_plate(url: str, barcode: str, stains: Mapping[str, str] | None) -> Plate:
    """Find the sites of an OME-Zarr plate; its pixels are read later.

    Parameters
    ----------
    url : str
        A folder, or what fsspec opens ("s3://bucket/plate.ome.zarr").
    barcode : str
    stains : mapping or None
        Channel label to stain; None takes the channels that are labelled by their stain.

    Returns
    -------
    Plate
        Its table of wells is empty. A site's number is the name of its image plus one where images
        are called 0, 1 and so on, else its place among the well's images.

    Raises
    ------
    InputError
        When there is no such plate, its metadata is incomplete or of another version, it holds
        several acquisitions, or a stain has no channel.
    """
    root = _open_group(url)
    if "plate" not in root:
        kind = "a single image" if "multiscales" in root else "a zarr group without OME metadata"
        raise InputError(
            f"{url}: not an OME-Zarr plate but {kind}; expected high-content screening metadata "
            f"(plate) of version {' or '.join(VERSIONS)}"
        )
    version = root.get("version") or root["plate"].get("version")
    if version not in VERSIONS:
        raise InputError(f"{url}: OME-Zarr version {version}, expected {' or '.join(VERSIONS)}")
    stamps = _stamp_images(url)
    sites: list[Site] = []
    acquisitions = set()
    for well in _get(root, url, "plate", "wells"):
        path = _get(well, url, "path")
        row, _, column = path.partition("/")
        images = _get(_open_group(f"{url}/{path}"), f"{url}/{path}", "well", "images")
        acquisitions |= {image.get("acquisition") for image in images}
        names = [str(_get(image, f"{url}/{path}", "path")) for image in images]
        numbered = all(name.isdigit() for name in names)
        for place, name in enumerate(names):
            image = f"{path}/{name}"
            sites.append(
                Site(
                    well_name(row, column, f"{url}/{path}"),
                    int(name) + 1 if numbered else place + 1,
                    (f"{url}/{image}",),
                    objects=(stamps.get(image, (0, "")),),
                )
            )
    if len(acquisitions) > 1:
        raise InputError(
            f"{url}: holds the acquisitions {', '.join(sorted(map(str, acquisitions)))}, expected "
            "one: split them into plates"
        )
    if not sites:
        raise InputError(f"{url}: the plate has no images")
    sites.sort(key=lambda site: (site.well, site.number))
    first = str(sites[0].files[0])
    found = dict.fromkeys(_channel_labels(_open_group(first), first))
    labelled = match_channels(found, stains, url)
    channels = order_channels(labelled)
    labels = tuple(labelled.get(stain) for stain in channels)
    return Plate(
        barcode=barcode,
        channels=channels,
        channels_present=tuple(label is not None for label in labels),
        wells=pd.DataFrame(),
        sites=tuple(sites),
        read=partial(read_zarr_site, labels=labels),
    )


def read_zarr_site(site: Site, labels: tuple[str | None, ...]) -> NDArray[np.unsignedinteger]:
    """Read the channels of those labels from a site's image; None gives a zero plane.

    Returns
    -------
    uint8 or uint16 array (C, H, W)

    Raises
    ------
    InputError
        Naming the image: missing or damaged, without a channel of that label, with several z planes
        or time points, or of other than 8 or 16-bit unsigned integers.
    """
    url = str(site.files[0])
    attributes = _open_group(url)
    array, axes = _open_array(url, attributes)
    if array.dtype not in (np.uint8, np.uint16) or not {"c", "y", "x"} <= set(axes):
        raise InputError(
            f"{url}: expected axes c, y and x of 8 or 16-bit unsigned integers, found "
            f"{', '.join(axes)} of {array.dtype}"
        )
    sizes = dict(zip(axes, array.shape, strict=True))
    if sizes.get("t", 1) != 1 or sizes.get("z", 1) != 1:
        raise InputError(
            f"{url}: expected one time point and one z plane, found {sizes.get('t', 1)} and "
            f"{sizes.get('z', 1)}"
        )
    found = _channel_labels(attributes, url)
    planes: list[NDArray | None] = []
    for label in labels:
        if label is None:
            planes.append(None)
            continue
        if label not in found:
            raise InputError(f"{url}: no channel {label!r}; found {', '.join(found)}")
        place: dict[str, Any] = {"c": found.index(label), "t": 0, "z": 0}
        try:
            plane = np.asarray(array[tuple(place.get(axis, slice(None)) for axis in axes)])
        except Exception as error:  # what codecs and object stores raise has nothing in common
            raise InputError(f"{url}: its pixels cannot be read ({_one_line(error)})") from None
        planes.append(plane.T if axes.index("x") < axes.index("y") else plane)
    return stack_planes(planes, site)


def _open_group(url: str) -> dict[str, Any]:
    """Return the OME metadata of a zarr group."""
    try:
        import zarr
    except ImportError:
        raise InputError(
            f"{url}: reading OME-Zarr needs the extra `zarr`: pip install 'morphoclip[zarr]'"
        ) from None
    try:
        attributes: dict[str, Any] = zarr.open_group(url, mode="r").attrs.asdict()
    except (FileNotFoundError, zarr.errors.GroupNotFoundError):
        raise InputError(f"{url}: there is no zarr group") from None
    except Exception as error:  # what object stores raise has nothing in common
        raise InputError(f"{url}: not a readable zarr group ({_one_line(error)})") from None
    return dict(attributes.get("ome", attributes))  # version 0.5 keeps all under "ome"


def _open_array(url: str, attributes: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return an image at its highest resolution, nothing read yet, and the names of its axes."""
    import zarr

    axes = [axis["name"] for axis in _get(attributes, url, "multiscales", 0, "axes")]
    path = _get(attributes, url, "multiscales", 0, "datasets", 0, "path")
    try:
        array = zarr.open_array(f"{url}/{path}", mode="r")
    except Exception as error:  # what codecs and object stores raise has nothing in common
        raise InputError(f"{url}: its pixels cannot be read ({_one_line(error)})") from None
    if len(array.shape) != len(axes):
        raise InputError(f"{url}: expected axes {', '.join(axes)}, found shape {array.shape}")
    return array, axes


def _channel_labels(attributes: dict[str, Any], url: str) -> list[str]:
    """Return the channels' labels; "1", "2" and so on for an image without any."""
    if "omero" in attributes:
        channels = _get(attributes, url, "omero", "channels")
        labels = [str(channel.get("label") or n) for n, channel in enumerate(channels, start=1)]
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise InputError(f"{url}: two channels are labelled {twice[0]!r}; expected one")
        return labels
    array, axes = _open_array(url, attributes)
    count = dict(zip(axes, array.shape, strict=True)).get("c", 1)
    return [str(n) for n in range(1, count + 1)]


def _stamp_images(url: str) -> dict[str, tuple[int, str]]:
    """Return bytes and version of each image ("A/1/0"): they tell when one has changed."""
    import fsspec

    system, root = fsspec.url_to_fs(url)
    files: dict[str, list[tuple[str, int, str]]] = {}
    for path, facts in sorted(system.find(root, detail=True).items()):
        parts = path.removeprefix(root).strip("/").split("/")
        if len(parts) > 3:
            version = str(facts.get("ETag") or facts.get("mtime"))
            stamp = ("/".join(parts[3:]), int(facts["size"]), version)
            files.setdefault("/".join(parts[:3]), []).append(stamp)
    return {
        image: (sum(size for _, size, _ in all_), hashlib.sha256(repr(all_).encode()).hexdigest())
        for image, all_ in files.items()
    }


def _get(content: Any, where: str, *keys: str | int) -> Any:
    """Walk down the metadata; what is missing is named."""
    for depth, key in enumerate(keys):
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            name = ".".join(map(str, keys[: depth + 1]))
            raise InputError(f"{where}: its OME-Zarr metadata has no {name}") from None
    return content


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
