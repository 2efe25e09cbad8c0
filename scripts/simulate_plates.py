"""Write simulated Cell Painting plates.

simulate_plates.py --config configs/simulation.yaml --out RAW
"""

from dataclasses import dataclass
from pathlib import Path

from _cli import parse_config, run_main

from data.simulator import SimulationConfig, simulate_plates


@dataclass
class Output:
    """Where to write.

    Attributes
    ----------
    out : str
        The folder for the raw plates (JUMP's layout).
    """

    out: str


def main() -> None:
    """Parse the command line and simulate."""
    config, output = parse_config(SimulationConfig, Output)
    simulate_plates(Path(output.out), config)
    print(f"simulated plates are in {output.out}")


if __name__ == "__main__":
    run_main(main)
