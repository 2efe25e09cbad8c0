"""The projector's beginning: readouts sound like words."""

import pytest
import torch
from tiny import tiny_model

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


def test_statements_stand_strongest_first_and_say_names_and_changes(spoken):
    say, word, _ = spoken
    said = ["Mito", "brighter", "Nuclei", "smaller", "Mito", "unchanged"]
    for token, text in zip(say([-1.3, 1.5, 0.2]), said, strict=True):
        assert alike(token, word(text)) > 0.9


def test_what_is_quiet_is_said_to_be_unchanged(spoken):
    say, word, _ = spoken
    for name, change in say([0.0, 0.8, -0.8]).unflatten(0, (3, 2)):
        assert max(alike(name, word(text)) for text in NAMES) > 0.9
        assert alike(change, word("unchanged")) > 0.9


def test_strength_is_said_in_steps_and_up_and_down(spoken):
    say, word, _ = spoken
    for value, strength in ((2.5, "clearly"), (4.0, "strongly"), (9.0, "strongly")):
        for sign, change in ((1, "granular"), (-1, "smoother")):
            token = say([0.0, 0.0, sign * value])[1]
            expected = word(change) + word(strength)
            torch.testing.assert_close(token, expected, atol=0.05, rtol=0.05)


def test_a_channel_that_was_not_imaged_says_so(spoken):
    _, word, missing = spoken
    for token, stain in zip(missing(), STAINS, strict=True):
        assert alike(token, word(f"{stain} was not imaged")) > 0.9


def test_too_many_words_are_refused():
    model, processor = tiny_model()
    with pytest.raises(ValueError, match="the projector has 32 units, words need"):
        begin(model, processor, 4 * STRENGTHS)
