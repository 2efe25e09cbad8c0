"""A projector that begins by saying words.

A new projector says noise, and a language model needs thousands of steps before it listens. This
one starts where prompts already are: a group's token becomes the embedding of the group's name,
plus the embeddings of what is said of each of its slots that went up or down, as loud as the
tower's readout is beyond a threshold. Training goes on from there.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from vlm.modeling import CellPaintingVlmForConditionalGeneration

SLOPE = 2.0  # GELU(2x) / 2 is close to max(x, 0) and has a slope on both sides
QUIET = 0.6  # asinh(e / 2) at which a change begins to be heard: e = 1.3
NOISE = 1e-3  # of what is not set, so that gradients differ from unit to unit


@torch.no_grad()
def begin_with_words(
    model: CellPaintingVlmForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    changes: Sequence[tuple[str, str]],
) -> None:
    """Set the multi-modal projector, in place, so that readout tokens are sums of words.

    Parameters
    ----------
    model : CellPaintingVlmForConditionalGeneration
        Its projector has two layers with a GELU between them, as LLaVA's.
    tokenizer
        The language model's.
    names : sequence of G str
        What each group of the tower's readouts is called ("Mito").
    changes : sequence of K (str, str)
        What is said of each readout when it is high and when it is low ("brighter", "dimmer").

    Raises
    ------
    ValueError
        When the projector has fewer units than the words need (2 K + G).
    """
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    first, second = projector.linear_1, projector.linear_2
    needed = 2 * len(changes) + len(names)
    if needed > first.out_features:
        raise ValueError(f"the projector has {first.out_features} units, words need {needed}")
    for layer in (first, second):
        torch.nn.init.normal_(layer.weight, std=NOISE)
        torch.nn.init.zeros_(layer.bias)

    embeddings = model.get_input_embeddings().weight
    unit = 0

    def say(word: str, direction: torch.Tensor, threshold: float) -> None:
        """One unit: the mean embedding of a word's tokens, above a threshold along a direction."""
        nonlocal unit
        ids = tokenizer(" " + word, add_special_tokens=False)["input_ids"]
        first.weight[unit] = SLOPE * direction
        first.bias[unit] = -SLOPE * threshold
        second.weight[:, unit] = embeddings[ids].mean(dim=0) / SLOPE
        unit += 1

    # Codes are at right angles and of length one, so a code is also what reads it out.
    for code, (high, low) in zip(tower.readout_codes, changes, strict=True):
        say(high, code, QUIET)
        say(low, -code, QUIET)
    for code, name in zip(tower.group_codes, names, strict=True):
        say(name, code, 0.0)
