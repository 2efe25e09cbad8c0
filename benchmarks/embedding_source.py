"""Where a well's embedding is best read from: the tower, the language model, or both.

python benchmarks/embedding_source.py --model runs/quickstart --data runs/quickstart/prepared

Reads, of one trained model and all wells of a store, the embedding of phase align; the language
model's state after a well and a question (what it would begin its answer from), with the `describe`
adapter, at its last layer and half-way; and the embedding beside that state. States are taken
relative to the mean of their plate's controls, as the tower's tokens are. Scores are matching on
held-out targets, as in a run's report. Phase align never trained the language model to embed wells.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from captions.questions import DESCRIBE as QUESTION
from eval.average_precision import unit_rows
from eval.run_metrics import classical_profiles, score_matching
from vlm.adapters import DESCRIBE, bare, load_model, use_adapter
from vlm.instruct import well_embeddings, well_tokens
from vlm.lora import Vlm
from vlm.processing import CellPaintingProcessor
from vlm.wells import open_wells

BATCH = 32


def main() -> None:
    """Read, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/quickstart", help="run with both phases")
    parser.add_argument("--data", default="runs/quickstart/prepared", help="prepared store")
    options = parser.parse_args()
    model, processor = load_model(options.model)
    bank = open_wells(options.data, bare(model), processor)
    wells = bank.wells
    tower = well_embeddings(model, bank)
    middle, last = read_states(model, processor, well_tokens(model, bank))
    middle, last = above_controls(middle, wells), above_controls(last, wells)
    sources = {
        "classical features": classical_profiles(Path(options.data)),
        "tower (ours)": (wells, tower),
        "language model, half-way": (wells, middle),
        "language model, last layer": (wells, last),
        "tower and last layer": (wells, np.hstack([unit_rows(tower), unit_rows(last)])),
        "tower and half-way": (wells, np.hstack([unit_rows(tower), unit_rows(middle)])),
    }
    scores = score_matching(sources, seed=0)
    table = pd.DataFrame(
        {
            f"{task}, {name}": {source: getattr(score, name) for source, score in own.items()}
            for task, own in scores.items()
            for name in ("map", "normalized_map", "fraction_retrieved")
        }
    )
    print(table.to_markdown(floatfmt=".3f"))


@torch.no_grad()
def read_states(
    model: Vlm, processor: CellPaintingProcessor, tokens: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """The language model's states after wells (n, T, D) and a question: (n, H) half-way, last."""
    use_adapter(model, DESCRIBE)
    prompt = processor(text=processor.ask(QUESTION))
    parts = []
    for start in tqdm(range(0, len(tokens), BATCH), desc="states", disable=None):
        some = tokens[start : start + BATCH]
        asked = {name: value.expand(len(some), -1) for name, value in prompt.items()}
        states = bare(model).model(
            **asked, well_tokens=some, output_hidden_states=True, use_cache=False
        )
        layers = states.hidden_states
        parts.append((layers[len(layers) // 2][:, -1], states.last_hidden_state[:, -1]))
    middle, last = (torch.cat(part).float().numpy() for part in zip(*parts, strict=True))
    return middle, last


def above_controls(states: np.ndarray, wells: pd.DataFrame) -> np.ndarray:
    """Subtract from states (n, H) the mean of their plate's controls."""
    control = wells["Metadata_control_type"] == "negcon"
    result = states.astype(np.float64)
    for plate, rows in wells.groupby("Metadata_Plate").indices.items():
        own = (control & (wells["Metadata_Plate"] == plate)).to_numpy()
        result[rows] -= states[own].mean(axis=0)
    return result


if __name__ == "__main__":
    main()
