"""Ask a trained model about wells.

model, processor = load_model("runs/quickstart")
wells = open_wells("runs/quickstart/prepared", bare(model), processor)
for said in describe(model, processor, wells.query("Metadata_Plate == 'SIMC01'"), question):
    print(said.text)
"""

from dataclasses import dataclass

import torch
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from vlm.adapters import DESCRIBE, use_adapter
from vlm.instruct import well_tokens
from vlm.lora import Vlm
from vlm.processing import CellPaintingProcessor
from vlm.wells import WellBank


@dataclass(frozen=True)
class Spoken:
    """An answer, token by token.

    Attributes
    ----------
    text : str
    ends : list of int
        Where in the text each token ends.
    probabilities : list of float
        What the model gave each of its tokens; claims are as sure as theirs.
    """

    text: str
    ends: list[int]
    probabilities: list[float]


@torch.inference_mode()
def describe(
    model: Vlm,
    processor: CellPaintingProcessor,
    wells: WellBank | torch.Tensor,
    question: str,
    max_new_tokens: int = 80,
    batch_size: int = 32,
) -> list[Spoken]:
    """Answer one question about each of some wells.

    Parameters
    ----------
    model, processor
        From `vlm.adapters.load_model`, with a `describe` adapter (or with it merged).
    wells : WellBank, or (n_wells, T, D) float Tensor
        From `vlm.wells.open_wells`; or their tokens, from `vlm.instruct.well_tokens`: then the
        tower ran once, whatever is asked.
    question : str
    max_new_tokens, batch_size : int

    Returns
    -------
    list of Spoken
        One answer a well. Decoding is greedy: the same well gets the same answer.
    """
    use_adapter(model, DESCRIBE)
    tokens = wells if isinstance(wells, torch.Tensor) else well_tokens(model, wells)
    device = next(model.parameters()).device
    prompt = processor(text=processor.ask(question))
    # Wells that look the same (blank ones) are asked about once.
    tokens, copy_of = torch.unique(tokens, dim=0, return_inverse=True)
    # Wells with much to say have loud tokens; those with little end together, and early.
    order = tokens.flatten(1).norm(dim=1).argsort()
    answers: dict[int, Spoken] = {}
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc="describe", unit="batch", disable=None, leave=False):
        rows = order[start : start + batch_size]
        inputs = {name: value.expand(len(rows), -1).to(device) for name, value in prompt.items()}
        kept = _KeptProbabilities()
        out = model.generate(
            **inputs,
            well_tokens=tokens[rows].to(device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList([kept]),
        )
        new = out[:, inputs["input_ids"].shape[1] :].tolist()
        given = torch.stack(kept.steps, dim=1).tolist()
        for row, ids, probabilities in zip(rows.tolist(), new, given, strict=True):
            answers[row] = _spoken(processor, ids, probabilities)
    return [answers[row] for row in copy_of.tolist()]


class _KeptProbabilities(LogitsProcessor):
    """Keep the probability of each step's likeliest token, the one that greedy decoding takes."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append((scores.amax(dim=-1) - scores.logsumexp(dim=-1)).exp().cpu())
        return scores


def _spoken(processor: CellPaintingProcessor, ids: list[int], probabilities: list[float]) -> Spoken:
    """An answer without its special tokens and without space around it."""
    tokenizer = processor.tokenizer
    said = [
        (token, float(p))
        for token, p in zip(ids, probabilities, strict=True)
        if token not in tokenizer.all_special_ids
    ]
    words = [token for token, _ in said]
    text = tokenizer.decode(words)
    before = len(text) - len(text.lstrip())
    ends = [len(tokenizer.decode(words[: n + 1])) - before for n in range(len(words))]
    return Spoken(text.strip(), ends, [p for _, p in said])
