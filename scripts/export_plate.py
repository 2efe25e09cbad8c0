"""Write a prepared plate as OME-Zarr: export_plate.py --data STORE --plate P --out P.ome.zarr."""

from dataclasses import dataclass, field

from _cli import parse_config, run_main

from data.export import export_plate


@dataclass
class ExportConfig:
    """Which plate, and where to."""

    data: str = field(metadata={"help": "The prepared store."})
    plate: str = field(metadata={"help": "The plate's barcode."})
    out: str = field(metadata={"help": "The OME-Zarr folder to make."})
    version: str = field(
        default="0.5", metadata={"help": "OME-Zarr version: 0.5 (zarr 3) or 0.4 (zarr 2)."}
    )


def main() -> None:
    """Parse the command line and export."""
    (config,) = parse_config(ExportConfig)
    images = export_plate(config.data, config.plate, config.out, config.version)
    print(f"{config.out}: plate {config.plate}, {images} images; open it with: napari {config.out}")


if __name__ == "__main__":
    run_main(main)
