"""The projector's beginning: readouts sound like words."""

import pytest
import torch
from tiny import READOUT_GROUPS, tiny_model

from data.channels import STAINS
from vlm.soft_words import begin_with_words

NAMES = ["Nuclei", "Mito"]
CHANGES = [("larger", "smaller"), ("brighter", "dimmer"), ("granular", "smoother")]


STRENGTHS = [("clearly", 2.0), ("strongly", 3.0)]


def begin(model, processor, strengths=STRENGTHS):
    begin_with_words(model, processor.tokenizer, NAMES, CHANGES, 1.0, strengths, STAINS)


@pytest.fixture
def spoken():
    model, processor = tiny_model()
    begin(model, processor)
    embeddings = model.get_input_embeddings().weight
    project, tower = model.model.multi_modal_projector, model.model.vision_tower

    def word(text):
        ids = processor.tokenizer(" " + text, add_special_tokens=False)["input_ids"]
        return embeddings[ids].mean(dim=0)

    def say(readout):
        return project(tower.speak(torch.tensor([readout])))[0]

    return say, word, lambda: project(tower.missing_codes)


def alike(vector, expected):
    return torch.cosine_similarity(vector, expected, dim=0).item()


def test_a_quiet_readout_says_the_names_only(spoken):
    say, word, _ = spoken
    tokens = say([0.0, 0.8, 0.0])  # of equals, the first stands first
    names = [NAMES[READOUT_GROUPS[slot]] for slot in (1, 0, 2)]
    for token, name in zip(tokens, names, strict=True):
        assert alike(token, word(name)) > 0.9


def test_statements_stand_strongest_first_each_with_its_word(spoken):
    say, word, _ = spoken
    tokens = say([-1.3, 1.5, 0.2])
    assert alike(tokens[0], word("Mito") + word("brighter")) > 0.9
    assert alike(tokens[1], word("Nuclei") + word("smaller")) > 0.9
    assert alike(tokens[2], word("Mito")) > 0.9


def test_strength_is_said_in_steps_and_up_and_down(spoken):
    say, word, _ = spoken
    for value, strength in ((2.5, "clearly"), (4.0, "strongly"), (9.0, "strongly")):
        for sign, change in ((1, "granular"), (-1, "smoother")):
            token = say([0.0, 0.0, sign * value])[0]
            expected = word("Mito") + word(change) + word(strength)
            torch.testing.assert_close(token, expected, atol=0.05, rtol=0.05)


def test_a_channel_that_was_not_imaged_says_so(spoken):
    _, word, missing = spoken
    for token, stain in zip(missing(), STAINS, strict=True):
        assert alike(token, word(f"{stain} was not imaged")) > 0.9


def test_too_many_words_are_refused():
    model, processor = tiny_model()
    with pytest.raises(ValueError, match="the projector has 32 units, words need"):
        begin(model, processor, 4 * STRENGTHS)
