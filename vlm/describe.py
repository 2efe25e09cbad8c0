"""Ask a trained model about wells."""

import torch
from tqdm import tqdm

from vlm.adapters import DESCRIBE, Vlm, use_adapter
from vlm.processing import CellPaintingProcessor


@torch.inference_mode()
def describe(
    model: Vlm,
    processor: CellPaintingProcessor,
    well_tokens: torch.Tensor,
    question: str,
    max_new_tokens: int = 80,
    batch_size: int = 32,
) -> list[str]:
    """Answer one question about each of some wells.

    Parameters
    ----------
    model, processor
        From `vlm.adapters.load_model`, with a `describe` adapter (or with it merged).
    well_tokens : (n_wells, T, D) float
        From `vlm.instruct.well_tokens`; the tower ran once, whatever is asked.
    question : str
    max_new_tokens, batch_size : int

    Returns
    -------
    list of str
        One answer a well. Decoding is greedy: the same well gets the same answer.
    """
    use_adapter(model, DESCRIBE)
    device = next(model.parameters()).device
    prompt = processor(text=processor.ask(question))
    answers: list[str] = []
    starts = range(0, len(well_tokens), batch_size)
    for start in tqdm(starts, desc="describe", unit="batch", disable=None, leave=False):
        tokens = well_tokens[start : start + batch_size].to(device)
        inputs = {name: value.expand(len(tokens), -1).to(device) for name, value in prompt.items()}
        out = model.generate(
            **inputs, well_tokens=tokens, max_new_tokens=max_new_tokens, do_sample=False
        )
        new = out[:, inputs["input_ids"].shape[1] :]
        answers.extend(processor.tokenizer.batch_decode(new, skip_special_tokens=True))
    return [answer.strip() for answer in answers]
