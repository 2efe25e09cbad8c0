"""The projector's beginning: readouts sound like words."""

import pytest
import torch
from tiny import READOUT_GROUPS, tiny_model

from vlm.soft_words import begin_with_words

CHANGES = [("larger", "smaller"), ("brighter", "dimmer"), ("granular", "smoother")]


@pytest.fixture
def spoken():
    model, processor = tiny_model()
    begin_with_words(model, processor.tokenizer, ["Nuclei", "Mito"], CHANGES)
    embeddings = model.get_input_embeddings().weight

    def word(text):
        ids = processor.tokenizer(" " + text, add_special_tokens=False)["input_ids"]
        return embeddings[ids].mean(dim=0)

    def say(readout):
        tower = model.model.vision_tower
        return model.model.multi_modal_projector(tower.speak(torch.tensor([readout])))[0]

    return say, word


def closest(vector, words, word):
    return max(words, key=lambda text: torch.cosine_similarity(vector, word(text), dim=0).item())


def test_a_quiet_readout_says_the_names_only(spoken):
    say, word = spoken
    tokens = say([0.0] * len(READOUT_GROUPS))
    for token, name in zip(tokens, ("Nuclei", "Mito"), strict=True):
        assert torch.cosine_similarity(token, word(name), dim=0) > 0.9


def test_a_loud_readout_adds_its_word_to_its_group(spoken):
    say, word = spoken
    words = [text for pair in CHANGES for text in pair]
    quiet = say([0.0, 0.0, 0.0])
    for slot, (high, low) in enumerate(CHANGES):
        for value, expected in ((4.0, high), (-4.0, low)):
            readout = [0.0, 0.0, 0.0]
            readout[slot] = value
            moved = say(readout) - quiet
            group = READOUT_GROUPS[slot]
            assert closest(moved[group], words, word) == expected
            assert moved[1 - group].norm() < 0.05 * moved[group].norm()


def test_louder_is_longer(spoken):
    say, _ = spoken
    lengths = [(say([r, 0.0, 0.0]) - say([0.0, 0.0, 0.0])).norm() for r in (0.5, 1.0, 2.0, 4.0)]
    assert lengths == sorted(lengths)


def test_too_many_words_are_refused():
    model, processor = tiny_model()
    names = [f"N{i}" for i in range(40)]
    with pytest.raises(ValueError, match="the projector has 32 units, words need"):
        begin_with_words(model, processor.tokenizer, names, CHANGES)
