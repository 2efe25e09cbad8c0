"""The model: tower, projection heads, saving, generating."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from data.channels import stain_index
from data.errors import InputError
from vlm.adapters import load_model
from vlm.pretrained import packaged_file
from vlm.reference import CELL_GAIN

FEATURES = tiny_model()[0].model.vision_tower.reference_center.shape[1]


def random_wells(sites: int = 2, wells: int = 3, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 30000, (sites, 5, 32, 32)).astype(np.uint16) for _ in range(wells)]


@pytest.fixture(scope="module")
def tiny():
    return tiny_model()


def test_any_number_of_sites_gives_the_same_number_of_tokens(tiny):
    model, processor = tiny
    for sites in (1, 3):
        pixels = processor(images=random_wells(sites))["pixel_values"]
        tokens = model.model.vision_tower(pixel_values=pixels).last_hidden_state
        assert tokens.shape == (3, model.config.vision_config.num_tokens, 32)


def test_sites_have_no_order(tiny):
    model, processor = tiny
    pixels = processor(images=random_wells(4))["pixel_values"]
    forward = model.embed_wells(pixel_values=pixels)
    assert torch.allclose(forward, model.embed_wells(pixel_values=pixels.flip(1)), atol=1e-5)


def test_embeddings_are_unit_vectors_that_depend_on_the_image(tiny):
    model, processor = tiny
    embedded = model.embed_wells(pixel_values=processor(images=random_wells())["pixel_values"])
    assert torch.allclose(embedded.norm(dim=1), torch.ones(3), atol=1e-5)
    assert not torch.allclose(embedded[0], embedded[1], atol=1e-4)


@settings(max_examples=5, deadline=None)
@given(missing=st.integers(0, 4), seed=st.integers(0, 3))
def test_a_missing_channel_is_not_looked_at(missing, seed):
    model, processor = tiny_model()
    pixels = processor(images=random_wells(seed=seed))["pixel_values"]
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[:, missing] = False
    other = pixels.clone()
    other[:, :, missing] = torch.randn_like(other[:, :, missing])
    a = model.model.vision_tower(pixel_values=pixels, channel_mask=mask).last_hidden_state
    b = model.model.vision_tower(pixel_values=other, channel_mask=mask).last_hidden_state
    assert torch.allclose(a, b, atol=1e-5)
    full = model.model.vision_tower(pixel_values=pixels).last_hidden_state
    assert not torch.allclose(a, full, atol=1e-4)


def test_features_in_place_of_pixels_give_the_same(tiny):
    model, processor = tiny
    tower = model.model.vision_tower
    batch = processor(images=random_wells(), control_images=random_wells(3, seed=1))
    features = tower.encode_channels(batch["pixel_values"])
    controls = tower.encode_channels(batch["control_pixel_values"])
    from_pixels = tower(**batch).last_hidden_state
    from_features = tower(channel_features=features, control_features=controls).last_hidden_state
    median = controls.median(dim=1, keepdim=True).values
    from_median = tower(channel_features=features, control_features=median).last_hidden_state
    assert torch.allclose(from_pixels, from_features, atol=1e-5)
    assert torch.allclose(from_pixels, from_median, atol=1e-5)


def test_controls_are_the_zero_of_the_scale():
    model, _ = tiny_model()
    tower = model.model.vision_tower
    features = torch.randn(40, 5, FEATURES) * 3 + 7
    tower.fit_reference(features, torch.arange(40) // 20)
    imaged = torch.ones(1, 5, dtype=torch.bool)
    z = tower.standardize(features[None, :20], features[None, :20], imaged)
    assert z.median(dim=1).values.abs().max() < 0.2 * CELL_GAIN
    far = tower.standardize(features[None] + 1e6, None, imaged)
    first = FEATURES - tower.cell_statistics
    for own, unit in ((slice(first), 1.0), (slice(first, None), CELL_GAIN)):
        assert 0.5 < z[..., own].std() / unit < 2
        assert far[..., own].max() == 10 * unit


def test_stains_are_told_apart_by_name():
    five, _ = tiny_model()
    three, _ = tiny_model(channels=("DNA", "Tubulin", "Actin"))
    three.load_state_dict(five.state_dict(), strict=True)  # stains are parameters, not positions
    features = torch.randn(1, 2, 3, FEATURES)
    as_trained = three.embed_wells(channel_features=features)
    five_features = torch.zeros(1, 2, 5, FEATURES)
    five_features[:, :, 0] = features[:, :, 0]
    mask = torch.tensor([[True, False, False, False, False]])
    dna_only = five.embed_wells(channel_features=five_features, channel_mask=mask)
    assert as_trained.shape == dna_only.shape


def test_how_a_stain_goes_with_a_missing_one_is_not_looked_at(tiny):
    tower = tiny[0].model.vision_tower
    features = torch.randn(1, 2, 5, FEATURES)
    mask = torch.tensor([[True, True, False, True, True]])
    other = features.clone()
    other[..., FEATURES - tower.cell_statistics + stain_index("RNA")] += 3.0
    told = [tower(channel_features=one, channel_mask=mask) for one in (features, other)]
    assert torch.equal(told[0].last_hidden_state, told[1].last_hidden_state)
    whole = [tower(channel_features=one).pooler_output for one in (features, other)]
    assert not torch.allclose(*whole, atol=1e-4)


def test_without_dna_no_cells_are_looked_at(tiny):
    tower = tiny[0].model.vision_tower
    features = torch.randn(1, 2, 5, FEATURES)
    mask = torch.tensor([[False, True, True, True, True]])
    other = features.clone()
    other[..., -tower.cell_statistics :] += 3.0
    told = [tower(channel_features=one, channel_mask=mask) for one in (features, other)]
    assert torch.equal(told[0].last_hidden_state, told[1].last_hidden_state)


def test_wrong_number_of_channels_is_named(tiny):
    model, _ = tiny
    with pytest.raises(ValueError, match="expects the channels"):
        model.embed_wells(channel_features=torch.zeros(1, 1, 4, FEATURES))


def test_saved_and_loaded_again_it_says_the_same(tiny, tmp_path):
    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    processor_again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert AutoConfig.from_pretrained(tmp_path).vision_config.channels == list(
        model.config.vision_config.channels
    )
    text = [processor.ask("What changed in this well?")] * 3
    batch = processor(images=random_wells(), text=text)
    batch_again = processor_again(images=random_wells(), text=text)
    assert torch.equal(batch["pixel_values"], batch_again["pixel_values"])
    assert torch.equal(batch["input_ids"], batch_again["input_ids"])
    with torch.inference_mode():
        assert torch.equal(model(**batch).logits, again(**batch_again).logits)
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**batch, **options), again.generate(**batch, **options))


def test_generation_looks_at_the_well_and_caching_changes_nothing(tiny):
    model, processor = tiny
    text = [processor.ask("What changed in this well?")] * 3
    batch = processor(images=random_wells(), text=text)
    tokens = model.model.vision_tower(pixel_values=batch["pixel_values"]).last_hidden_state
    with torch.inference_mode():
        logits = model(**batch).logits
        batch.pop("pixel_values")
        assert torch.allclose(model(**batch, well_tokens=tokens).logits, logits, atol=1e-4)
        assert not torch.allclose(logits[0], logits[1], atol=1e-4)
        options = {"max_new_tokens": 5, "do_sample": False}
        cached = model.generate(**batch, well_tokens=tokens, **options)
        plain = model.generate(**batch, well_tokens=tokens, use_cache=False, **options)
    assert torch.equal(cached, plain)


def test_the_loss_counts_answers_only(tiny):
    model, processor = tiny
    text = [processor.ask("What changed in this well?") + "Mito: dimmer.<|im_end|>"] * 2
    batch = processor(images=random_wells(wells=2), text=text)
    labels = batch["input_ids"].clone()
    labels[:, :-4] = -100
    ours = model(**batch, labels=labels)
    logits = model(**batch).logits[:, :-1].float()
    plain = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    assert torch.isclose(ours.loss, plain, atol=1e-5)
    halved = model(**batch, labels=labels, num_items_in_batch=16).loss
    assert torch.isclose(halved, plain / 2, atol=1e-5)


def test_padding_does_not_change_a_prompts_embedding(tiny):
    model, processor = tiny
    tokenizer = processor.tokenizer
    ids = tokenizer("U2OS cells, 48 h, compound: nocodazole.")["input_ids"]
    alone = model.embed_prompts(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))
    longer = {"input_ids": [ids, ids + ids]}
    padded = tokenizer.pad(longer, padding_side="right", return_tensors="pt")
    together = model.embed_prompts(padded["input_ids"], padded["attention_mask"])
    assert torch.allclose(together[:1], alone, atol=1e-5)
    assert not torch.allclose(together[1:], alone, atol=1e-3)


def test_a_foreign_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="is a 'llama' model"):
        load_model(tmp_path)


def test_a_missing_package_is_named():
    with pytest.raises(InputError, match="pip install no_such_package"):
        packaged_file("no_such_package", "*.gguf")


def test_pixels_of_another_shape_are_named(tiny):
    _, processor = tiny
    with pytest.raises(ValueError, match=r"well 0 has shape \(5, 32, 32\)"):
        processor(images=[np.zeros((5, 32, 32), np.uint16)])
