"""Draw simulated cells: phenotypes in, five stains out, before any microscope touched them.

All cells of a field are drawn at once: a map says which cell owns a pixel and where in that cell
the pixel lies, and each stain is a formula over that map and over tiles of random texture.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from data.channels import CHANNELS
from data.phenotypes import AXES

NUCLEUS_RADIUS = 8.5
CELL_RADIUS = 23.0
"""Pixels; what an average untreated cell has."""

TILE = 1024

Field = NDArray[np.float32]


def render_field(effects: NDArray[np.float64], size: int, rng: np.random.Generator) -> Field:
    """Draw one field of cells.

    Parameters
    ----------
    effects : float array (n, len(AXES))
        What each cell shows, 0 for an ordinary cell; column `cell_count` is not used here.
    size : int
        Height and width in pixels.
    rng : Generator

    Returns
    -------
    float32 array (5, size, size)
        The stains in the order of `CHANNELS`; a bright pixel of an ordinary cell is about 1.
    """
    stains = np.zeros((len(CHANNELS), size * size), np.float32)
    if len(effects) == 0:
        return stains.reshape(-1, size, size)
    cells = _draw_cells(effects, size, rng)
    noise = {name: _crop(name, size, rng) for name in _TEXTURES}
    where = _locate(cells, size, noise["outline"])
    pixels = {name: values[where["pixel"]] for name, values in noise.items()}
    owner = {name: values.astype(np.float32)[where["cell"]] for name, values in cells.items()}
    drawn = _stain(where, owner, pixels)
    for i, stain in enumerate(CHANNELS):
        stains[i, where["pixel"]] = drawn[stain]
    return stains.reshape(-1, size, size)


def _draw_cells(
    effects: NDArray[np.float64], size: int, rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """Turn effects into what each cell looks like, with ordinary variation between cells."""
    n = len(effects)
    effect = dict(zip(AXES, effects.T, strict=True))

    def vary(spread: float) -> NDArray[np.float64]:
        return spread * rng.standard_normal(n)

    mitotic = rng.random(n) < np.clip(0.03 + 0.25 * effect["dna_condensation"], 0, 0.5)
    rounding = effect["cell_rounding"] + 1.3 * mitotic
    radius = CELL_RADIUS * np.exp(
        0.22 * effect["cell_size"] - 0.16 * np.maximum(rounding, 0) + vary(0.12)
    )
    # The same content in a smaller outline is thicker, and thus brighter.
    thick = np.exp(0.3 * np.maximum(rounding, 0))
    place = _place(n, size, rng)
    return {
        "row": place[0],
        "column": place[1],
        "angle": rng.uniform(0, np.pi, n),
        "radius": radius,
        "aspect": np.exp(np.maximum(0.22 - 0.25 * rounding + vary(0.12), 0)),
        "roughness": 0.20 * np.exp(-0.6 * rounding),
        "nucleus_radius": NUCLEUS_RADIUS
        * np.exp(0.24 * effect["nucleus_size"] - 0.35 * mitotic + vary(0.09)),
        "nucleus_aspect": np.exp(0.12 + np.abs(vary(0.10)) + 0.25 * mitotic),
        "nucleus_angle": rng.uniform(0, np.pi, n),
        "nucleus_roughness": 0.06 * np.exp(1.1 * effect["nucleus_irregularity"]),
        "dna": np.exp(0.38 * effect["dna_intensity"] + 0.8 * mitotic + vary(0.13)),
        "chromatin": 0.13 * np.exp(0.8 * effect["dna_condensation"] + vary(0.2)),
        "er": thick * np.exp(0.42 * effect["er_intensity"] + vary(0.15)),
        "er_reach": 0.55 * np.exp(-0.55 * effect["er_perinuclear"] + vary(0.1)),
        "rna": thick * np.exp(0.42 * effect["rna_intensity"] + vary(0.13)),
        "nucleoli": (1 - mitotic) * np.exp(0.7 * effect["nucleoli"] + vary(0.2)),
        "nucleoli_cut": 1.0 - 0.35 * effect["nucleoli"],
        "agp": thick * np.exp(0.42 * effect["agp_intensity"] + vary(0.15)),
        "golgi": np.exp(-0.9 * effect["golgi_dispersal"] + vary(0.2)),
        "vesicles": 0.35 * np.exp(0.9 * effect["golgi_dispersal"] + vary(0.2)),
        "golgi_angle": rng.uniform(0, 2 * np.pi, n),
        "fibres": 0.45 * np.exp(0.8 * effect["actin_bundles"] + vary(0.25)),
        "fibre_phase": rng.uniform(0, 100, n),
        "mito": thick * np.exp(0.45 * effect["mito_intensity"] + vary(0.17)),
        "mito_reach": 1.0 * np.exp(-0.5 * effect["mito_fragmentation"] + vary(0.1)),
        "fragments": 1 / (1 + np.exp(2.2 - 2.6 * effect["mito_fragmentation"])),
    }


def _place(n: int, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Put n cells down one by one, each at the roomiest of a few random places, (2, n)."""
    margin = CELL_RADIUS / 2
    places = np.empty((n, 2))
    for i in range(n):
        tries = rng.uniform(-margin, size + margin, (4, 2))
        room = np.full(4, np.inf)
        if i:
            gaps = tries[:, None] - places[None, :i]
            room = (gaps**2).sum(axis=2).min(axis=1)
        # Beyond a cell's width more room is no better, so that cells cluster as real ones do.
        places[i] = tries[np.argmax(np.minimum(room, (1.7 * CELL_RADIUS) ** 2))]
    return places.T


def _locate(cells: dict[str, NDArray[np.float64]], size: int, outline: Field) -> dict[str, NDArray]:
    """For each pixel inside a cell: the cell, and where in the cell the pixel lies."""
    best = np.ones((size, size), np.float32)
    owner = np.full((size, size), -1, np.int32)
    rough = outline.reshape(size, size)
    for i in range(len(cells["row"])):
        row, column, radius = cells["row"][i], cells["column"][i], cells["radius"][i]
        half = 1.4 * radius * cells["aspect"][i] ** 0.5
        r0, r1 = max(0, int(row - half)), min(size, int(row + half) + 1)
        c0, c1 = max(0, int(column - half)), min(size, int(column + half) + 1)
        if r0 >= r1 or c0 >= c1:
            continue
        y = np.arange(r0, r1, dtype=np.float32)[:, None] - np.float32(row)
        x = np.arange(c0, c1, dtype=np.float32)[None] - np.float32(column)
        box = slice(r0, r1), slice(c0, c1)
        away = _ellipse(y, x, cells["angle"][i], radius, cells["aspect"][i])
        away *= 1 + np.float32(cells["roughness"][i]) * rough[box]
        nearer = away < best[box]
        best[box][nearer] = away[nearer]
        owner[box][nearer] = i
    pixel = np.flatnonzero(owner >= 0)
    cell = owner.ravel()[pixel]
    y = (pixel // size - cells["row"][cell]).astype(np.float32)
    x = (pixel % size - cells["column"][cell]).astype(np.float32)
    return {"pixel": pixel, "cell": cell, "y": y, "x": x, "away": best.ravel()[pixel]}


def _ellipse(y: Field, x: Field, angle: float, radius: float, aspect: float) -> Field:
    """Distance from the middle of an ellipse, 1 on its border."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    long, short = np.float32(radius * aspect**0.5), np.float32(radius / aspect**0.5)
    return np.sqrt(((cos * y + sin * x) / long) ** 2 + ((cos * x - sin * y) / short) ** 2)


def _stain(
    where: dict[str, NDArray], owner: dict[str, Field], noise: dict[str, Field]
) -> dict[str, Field]:
    """The five stains of each pixel inside a cell."""
    y, x, away = where["y"], where["x"], where["away"]
    cos, sin = np.cos(owner["nucleus_angle"]), np.sin(owner["nucleus_angle"])
    stretch = np.sqrt(owner["nucleus_aspect"])
    along, across = (cos * y + sin * x) / stretch, (cos * x - sin * y) * stretch
    from_nucleus = np.sqrt(along**2 + across**2) / owner["nucleus_radius"]
    from_nucleus += owner["nucleus_roughness"] * noise["lobes"]
    nucleus = np.clip((1 - from_nucleus) * 4 + 0.5, 0, 1)
    cytoplasm = 1 - nucleus

    outside = np.maximum(from_nucleus - 1, 0) * owner["nucleus_radius"]
    to_edge = np.maximum(1 - away, 0) * owner["radius"]
    part = outside / (outside + to_edge + 1e-3)  # 0 at the nucleus, 1 at the cell's edge
    body = np.clip(to_edge / 4, 0, 1) * (0.55 + 0.45 * (1 - part))  # thin towards the edge

    dna = nucleus * owner["dna"] * np.maximum(0.8 + owner["chromatin"] * noise["chromatin"], 0)
    reticulum = 0.45 + 0.75 * noise["network"]
    er = owner["er"] * body * np.exp(-part / owner["er_reach"]) * reticulum
    er *= 0.25 + 0.75 * cytoplasm

    spots = 1 / (1 + np.exp(-6 * (noise["nucleoli"] - owner["nucleoli_cut"])))
    rna = 0.55 * owner["rna"] * body * cytoplasm * np.maximum(0.8 + 0.15 * noise["chromatin"], 0)
    rna += nucleus * (0.35 * np.sqrt(owner["rna"]) + owner["nucleoli"] * spots)

    reach = 1.35 * owner["nucleus_radius"]
    gap_y = y - reach * np.sin(owner["golgi_angle"])
    gap_x = x - reach * np.cos(owner["golgi_angle"])
    golgi = np.exp(-(gap_y**2 + gap_x**2) / (0.35 * owner["nucleus_radius"] ** 2))
    golgi *= owner["golgi"] * np.maximum(0.7 + 0.4 * noise["dots"], 0)
    vesicles = owner["vesicles"] * np.clip(noise["dots"] - 0.9, 0, 2) * np.exp(-part)
    rim = np.exp(-((to_edge - 1.5) ** 2) / 4)
    cos, sin = np.cos(owner["angle"]), np.sin(owner["angle"])
    sideways = cos * x - sin * y + 1.5 * noise["outline"]
    stripes = np.clip(np.sin(1.15 * sideways + owner["fibre_phase"]), 0, 1) ** 2
    fibres = owner["fibres"] * stripes * np.clip(to_edge / 3, 0, 1) * noise["network"]
    agp = owner["agp"] * (
        0.22 * body + 1.3 * golgi * cytoplasm + vesicles * cytoplasm + fibres + 0.35 * rim
    )

    threads = np.clip(noise["threads"] - 0.45, 0, 1) * 1.9
    grains = np.clip(noise["dots"] - 0.4, 0, 2)
    mito = owner["fragments"] * grains + (1 - owner["fragments"]) * threads
    mito = owner["mito"] * cytoplasm * (body * np.exp(-part / owner["mito_reach"])) * (mito + 0.12)
    return {"DNA": dna, "ER": er, "RNA": rna, "AGP": agp, "Mito": mito}


# Name: (wavelength in pixels, whether to keep the lines where the noise crosses 0).
_TEXTURES = {
    "outline": (30.0, False),
    "lobes": (14.0, False),
    "chromatin": (3.5, False),
    "nucleoli": (9.0, False),
    "dots": (4.0, False),
    "network": (5.0, True),
    "threads": (9.0, True),
}


@cache
def _tile(name: str) -> Field:
    """Make a texture tile that repeats seamlessly; unit variance, or ridges between 0 and 1."""
    wavelength, ridges = _TEXTURES[name]
    rng = np.random.default_rng([len(name), ord(name[0])])
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None])
    # A ring of frequencies: blobs of one size, without a preferred direction.
    ring = np.exp(-(((frequency * wavelength) - 1) ** 2) / 0.18)
    tile = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) * ring)
    tile /= tile.std()
    if ridges:
        tile = np.clip(1 - np.abs(tile) / 0.8, 0, 1)
    return tile.astype(np.float32)


def _crop(name: str, size: int, rng: np.random.Generator) -> Field:
    """Cut a random window of a tile, flat, turned or mirrored at random."""
    rows = (rng.integers(TILE) + np.arange(size)[:: rng.choice([-1, 1])]) % TILE
    columns = (rng.integers(TILE) + np.arange(size)[:: rng.choice([-1, 1])]) % TILE
    window = _tile(name)[rows][:, columns]
    return (window.T if rng.random() < 0.5 else window).ravel()
