"""A small Cell Painting Gallery made from a real JUMP field, an S3 server, and a bad network."""

import http.client
import io
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

FILE_CHANNELS = ("Mito", "AGP", "RNA", "ER", "DNA", "HighZBF", "LowZBF", "Brightfield")
"""What JUMP's ch1 to ch8 are, on most plates."""

BATCH = "2020_11_04_CPJUMP1"

SIDE = 96


def read_field(shared: Path) -> NDArray[np.uint16]:
    """The real field BR00117035 A01: (8, 1080, 1080), ch1 to ch8."""
    folder = shared / "jump_fields/BR00117035_A01/images"
    names = [f"r01c01f01p01-ch{n}sk1fk1fl1.tiff" for n in range(1, 9)]
    return np.stack([np.asarray(Image.open(folder / name)) for name in names])


def site_crop(field: NDArray, well: str, site: int) -> NDArray[np.uint16]:
    """The (8, SIDE, SIDE) part of the real field that stands for a site."""
    place = (ord(well[0]) * 7 + int(well[1:]) * 31 + site * 131) % 900
    return field[:, place : place + SIDE, (place * 3) % 900 : (place * 3) % 900 + SIDE]


def image_name(well: str, site: int, channel: int) -> str:
    return f"r{ord(well[0]) - 64:02d}c{int(well[1:]):02d}f{site:02d}p01-ch{channel}sk1fk1fl1.tiff"


def write_gallery_plate(
    root: Path,
    field: NDArray[np.uint16],
    barcode: str,
    wells: Sequence[str],
    *,
    sites: int = 2,
    channels: Sequence[str] = FILE_CHANNELS,
    table: str = "csv",
    project: str = "cpg0000-jump-pilot",
    batch: str = BATCH,
    published: bool = True,
) -> Path:
    """Add a plate to a copy of the Gallery; return its folder of images.

    `channels` are the stains of ch1 to ch8, so that the numbering can be another; `table` is the
    ending of load_data: .csv has URLs, .csv.gz and .parquet names and paths of another machine.
    """
    source = root / project / "source_4"
    full = f"{barcode}__2020-11-08T18_18_00-Measurement1"
    images = source / "images" / batch / "images" / full / "Images"
    images.mkdir(parents=True)
    url = f"s3://cellpainting-gallery/{project}/source_4/images/{batch}/images/{full}/Images"
    elsewhere = f"/home/ubuntu/bucket/projects/jump/{batch}/images/{full}/Images/"
    rows = []
    for well in wells:
        for site in range(1, sites + 1):
            planes = site_crop(field, well, site)
            row: dict[str, object] = {}
            for number, stain in enumerate(channels, start=1):
                name = image_name(well, site, number)
                plane = planes[FILE_CHANNELS.index(stain)]
                Image.fromarray(plane).save(images / name, compression="tiff_lzw")
                if table == "csv":
                    row[f"URL_Orig{stain}"] = f"{url}/{name}"
                else:
                    row[f"FileName_Orig{stain}"] = name
                    row[f"PathName_Orig{stain}"] = elsewhere
            row |= {"Metadata_Plate": barcode, "Metadata_Well": well, "Metadata_Site": site}
            rows.append(row)
    load_data = source / "workspace/load_data_csv" / batch / barcode / f"load_data.{table}"
    load_data.parent.mkdir(parents=True)
    frame = pd.DataFrame(rows)
    if table == "parquet":
        frame.to_parquet(load_data, index=False)
    else:
        frame.to_csv(load_data, index=False)
    if published:
        write_published(source, batch, barcode, wells, channels)
    return images


def write_published(
    source: Path, batch: str, barcode: str, wells: Sequence[str], channels: Sequence[str]
) -> None:
    """Illumination functions and well profiles, as CellProfiler published them."""
    illum = source / "images" / batch / "illum" / barcode
    illum.mkdir(parents=True)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    for number, stain in enumerate(channels):
        light = 1 + (0.1 + 0.02 * number) * (x - 0.5) ** 2 + 0.1 * y
        np.save(illum / f"{barcode}_Illum{stain}.npy", light.astype(np.float32))
    rng = np.random.default_rng(0)
    profiles = pd.DataFrame({"Metadata_Plate": barcode, "Metadata_Well": wells})
    for name in ("Cells_AreaShape_Area", "Nuclei_Intensity_MeanIntensity_DNA"):
        profiles[name] = rng.normal(100, 10, len(wells))
    backend = source / "workspace/backend" / batch / barcode
    backend.mkdir(parents=True)
    profiles.to_csv(backend / f"{barcode}.csv", index=False)


def write_jump_target(root: Path, annotation: Path, plates: dict[str, str]) -> None:
    """The real JUMP-Target tables, and which plate (barcode: modality) has which platemap."""
    metadata = root / "cpg0000-jump-pilot/source_4/workspace/metadata"
    platemaps = metadata / "platemaps" / BATCH
    (platemaps / "platemap").mkdir(parents=True)
    (metadata / "external_metadata").mkdir()
    for modality in ("compound", "crispr", "orf"):
        name = f"JUMP-Target-1_{modality}_platemap"
        content = (annotation / f"{name}.tsv").read_bytes()
        (platemaps / "platemap" / f"{name}.txt").write_bytes(content)
        name = f"JUMP-Target-1_{modality}_metadata.tsv"
        (metadata / "external_metadata" / name).write_bytes((annotation / name).read_bytes())
    lines = [f"{b},JUMP-Target-1_{m}_platemap" for b, m in plates.items()]
    text = "\n".join(["Assay_Plate_Barcode,Plate_Map_Name", *lines])
    (platemaps / "barcode_platemap.csv").write_text(text + "\n")


class BadNetwork:
    """An HTTP proxy before an S3 server that spoils the answers to chosen files.

    `faults` maps the end of a key to what happens to its next requests, in order: a status (503),
    "drop" (the connection breaks in the middle of the body), "stall" (there nothing more comes,
    until the client gives up), "slow" (half a second, then the answer). The last one is repeated
    for ever when the list ends with "always". What is not listed passes.
    """

    def __init__(self, port: int) -> None:
        self.faults: dict[str, list] = {}
        self.asked: list[str] = []
        network = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                network.answer(self, port)

            do_HEAD = do_GET  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def next_fault(self, path: str) -> object:
        """What happens to this request; None when it passes."""
        for end, faults in self.faults.items():
            if path.endswith(end) and faults:
                if faults[-1] == "always":
                    return faults[0]
                return faults.pop(0)
        return None

    def answer(self, handler: BaseHTTPRequestHandler, port: int) -> None:
        """Ask the server at the port, and pass its answer on, or spoil it."""
        path = handler.path.partition("?")[0]
        self.asked.append(path)
        fault = self.next_fault(path)
        if isinstance(fault, int):
            code = {404: "NoSuchKey", 503: "SlowDown"}[fault]
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send(handler, fault, [("Content-Type", "application/xml")], body)
            return
        if fault == "slow":
            time.sleep(0.5)
        upstream = http.client.HTTPConnection("127.0.0.1", port)
        upstream.request(handler.command, handler.path, headers=dict(handler.headers))
        response = upstream.getresponse()
        body = response.read()
        headers = [
            (name, value)
            for name, value in response.getheaders()
            if name.lower() not in ("connection", "transfer-encoding", "content-length")
        ]
        length = response.getheader("Content-Length") or str(len(body))
        upstream.close()
        if fault in ("drop", "stall"):
            self.send(handler, response.status, headers, body[: len(body) // 2], str(len(body)))
            if fault == "stall":
                handler.connection.recv(1)
            handler.close_connection = True
            return
        self.send(handler, response.status, headers, body, length)

    @staticmethod
    def send(
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        length: str | None = None,
    ) -> None:
        """Send an answer whose length is said to be another when it breaks off."""
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", length or str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)
        handler.wfile.flush()


def truncated(tiff: Path) -> bytes:
    return tiff.read_bytes()[:-2000]


def corrupted(tiff: Path) -> bytes:
    """Nonsense in place of the directory of tags, which is at the end."""
    content = bytearray(tiff.read_bytes())
    with Image.open(io.BytesIO(content)) as image:
        start = image.tag_v2.get(273)[0]  # type: ignore[attr-defined]
    content[start : start + 4000] = b"\xff" * 4000
    return bytes(content)
