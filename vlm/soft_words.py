"""A projector that begins by saying words.

A new projector says noise, and a language model needs thousands of steps before it listens. This
one starts where prompts already are: the two tokens of a statement become the embedding of its
subject's name ("Mito") and, once its readout is beyond a threshold, of the word for its change
("dimmer"), else of "unchanged"; a channel that was not imaged says so. Training goes on from there.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from vlm.modeling import CellPaintingVlmForConditionalGeneration

RAMP = 0.1  # readouts so far below a threshold are silent, so far above it at full loudness
SLOPE = 20.0  # GELU(20 x) / 20 is max(x, 0) with corners rounded over RAMP
UNCHANGED = "unchanged"
NOISE = 1e-3  # of what is not set, so that gradients differ from unit to unit


@torch.no_grad()
def begin_with_words(
    model: CellPaintingVlmForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    changes: Sequence[tuple[str, str]],
    told_from: float,
    strengths: Sequence[tuple[str, float]],
    stains: Sequence[str],
) -> None:
    """Set the multi-modal projector, in place, so that tokens of statements are sums of words.

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
    told_from : float
        The readout, up or down, from which on its change is said.
    strengths : sequence of (str, float)
        A word and the readout from which on it is said, each in place of the one before.
    stains : sequence of str
        Of each of the tower's codes for a channel that was not imaged.

    Raises
    ------
    ValueError
        When the projector has fewer units than the words need.
    """
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    layers = (projector.linear_1, projector.linear_2)
    words = _Words(layers, model.get_input_embeddings().weight, tokenizer)
    # Codes are at right angles and of length one, so a code is also what reads it out.
    for code, (high, low) in zip(tower.readout_codes, changes, strict=True):
        words.say_beyond(told_from, code, high, UNCHANGED)
        words.say_beyond(told_from, -code, low, UNCHANGED)
    whole = tower.readout_codes.sum(dim=0)  # reads out whichever readout a token is about
    for sign in (1, -1):
        before = None
        for word, threshold in strengths:
            words.say_beyond(threshold, sign * whole, word, before)
            before = word
    for code, name in zip(tower.group_codes, names, strict=True):
        words.say(code, name)
    words.say(tower.change_code[0], UNCHANGED)
    for code, stain in zip(tower.missing_codes, stains, strict=True):
        words.say(code, f"{stain} was not imaged")
    words.write()


class _Words:
    """The units of a projector, given out one after the other."""

    def __init__(
        self,
        layers: tuple[nn.Linear, nn.Linear],
        embeddings: torch.Tensor,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.layers, self.embeddings, self.tokenizer = layers, embeddings, tokenizer
        self.units: list[tuple[torch.Tensor, float, torch.Tensor]] = []  # direction, bias, meaning

    def say(self, direction: torch.Tensor, word: str) -> None:
        """Say a word as loud as a token goes along a direction."""
        self.units.append((direction, 0.0, self._meaning(word)))

    def say_beyond(
        self, threshold: float, direction: torch.Tensor, word: str, unsaid: str | None = None
    ) -> None:
        """Say a word, and take another one back, where a token goes far enough along a direction.

        The difference of two ramps is a step that has a slope.
        """
        meaning = self._meaning(word) - (0.0 if unsaid is None else self._meaning(unsaid))
        for sign in (1, -1):
            self.units.append((direction, sign * RAMP - threshold, sign * meaning / (2 * RAMP)))

    def write(self) -> None:
        """Put the units into the projector; those that are left over say next to nothing."""
        first, second = self.layers
        if len(self.units) > first.out_features:
            raise ValueError(
                f"the projector has {first.out_features} units, words need {len(self.units)}"
            )
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=NOISE)
            nn.init.zeros_(layer.bias)
        for unit, (direction, bias, meaning) in enumerate(self.units):
            first.weight[unit] = SLOPE * direction
            first.bias[unit] = SLOPE * bias
            second.weight[:, unit] = meaning / SLOPE

    def _meaning(self, words: str) -> torch.Tensor:
        """Mean embedding of a text's tokens."""
        ids = self.tokenizer(" " + words, add_special_tokens=False)["input_ids"]
        return self.embeddings[ids].mean(dim=0)
