"""LoRA's variants, quantised bases and merging: each trains, is saved, loaded and merged."""

import shutil
from pathlib import Path

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_bank, tiny_model

from data.errors import InputError
from vlm import CellPaintingVlmForConditionalGeneration
from vlm.adapters import (
    ALIGN,
    DESCRIBE,
    adapter_state,
    bare,
    load_base,
    load_model,
    merge_adapter,
    save_adapter,
    save_aligned,
    save_base,
    use_adapter,
)
from vlm.instruct import well_embeddings, well_tokens
from vlm.lora import LoraSettings, add_adapter, lora_config, lora_layers, merge_tower

QUESTION = "What changed in this well?"
TOWER = r".*(language_model.*\.(q|v)_proj|vision_tower\.fusion.*\.linear\d)"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A saved base, as phase describe finds it."""
    folder = tmp_path_factory.mktemp("base") / "model"
    model, processor = tiny_model()
    text = model.config.text_config  # bitsandbytes quantises 64 weights together
    text.hidden_size, text.intermediate_size, text.head_dim = 64, 128, 32
    save_base(CellPaintingVlmForConditionalGeneration(model.config), processor, folder)
    return folder


def settings(**changed) -> LoraSettings:
    return LoraSettings(**{"lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0} | changed)


def adapted(folder: Path, chosen: LoraSettings, name: str = DESCRIBE):
    model, processor = load_model(folder, chosen.base_precision)
    torch.manual_seed(1)
    return add_adapter(model, name, lora_config(chosen, name == DESCRIBE)), processor


def answer_logits(model, processor) -> torch.Tensor:
    """What a model says of one well."""
    asked = processor(text=processor.ask(QUESTION))
    with torch.inference_mode():
        return model(**asked, well_tokens=well_tokens(model, tiny_bank())[:1]).logits.float()


def learn(model, processor, steps: int = 3, bf16: bool = False) -> None:
    """Take some steps on one answer."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-2)
    asked = processor(text=processor.ask(QUESTION) + "Mito: clearly dimmer.<|im_end|>")
    labels = asked["input_ids"].clone()
    labels[:, :-8] = -100
    tokens = well_tokens(model, tiny_bank())[:1]
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(**asked, well_tokens=tokens, labels=labels).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    assert losses[-1] < losses[0]


VARIANTS = {
    "plain": {},
    "dora": {"lora_dora": True},
    "rslora": {"lora_rslora": True},
    "pissa": {"lora_init": "pissa"},
    "pissa_fast": {"lora_init": "pissa_niter_4", "lora_rslora": True},
    "head": {"lora_modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_variant_learns_and_is_the_same_when_loaded_and_when_merged(base, tmp_path, variant):
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    chosen = settings(**variant)
    before = answer_logits(*load_model(folder))
    model, processor = adapted(folder, chosen)
    start = adapter_state(model, DESCRIBE) if chosen.pissa else None
    # Nothing has changed yet, whatever the adapter starts from.
    assert torch.allclose(answer_logits(model, processor), before, atol=1e-4)
    learn(model, processor)
    said = answer_logits(model, processor)
    assert not torch.allclose(said, before, atol=1e-2)
    save_adapter(model, DESCRIBE, folder, start=start)
    loaded, processor = load_model(folder)
    assert torch.allclose(answer_logits(loaded, processor), said, atol=1e-4)
    save_base(*merge_adapter(folder, DESCRIBE), tmp_path / "merged")
    merged, processor = load_model(tmp_path / "merged")
    assert bare(merged) is merged
    assert torch.allclose(answer_logits(merged, processor), said, atol=1e-4)
    use_adapter(merged, DESCRIBE)  # it is in the weights
    with pytest.raises(InputError, match="no adapter 'align'"):
        use_adapter(merged, ALIGN)


@pytest.mark.parametrize("precision", ["4bit", "8bit"])
def test_of_a_quantised_model_only_the_language_model_is(base, precision):
    model = load_base(base, precision)
    small = {
        name
        for name, module in model.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit | bitsandbytes.nn.Linear8bitLt)
    }
    assert len(small) == 2 * 7  # of both layers: q, k, v, o, gate, up, down
    assert all(name.startswith("model.language_model.layers.") for name in small)
    for name, parameter in model.named_parameters():
        quantised = name.removesuffix(".weight") in small
        assert quantised == (parameter.dtype in (torch.uint8, torch.int8)), name
        language = name.startswith(("model.language_model", "lm_head"))
        rest = torch.bfloat16 if language else torch.float32
        assert quantised or parameter.dtype == rest, name


@pytest.mark.parametrize("precision", ["4bit", "8bit"])
def test_what_a_quantised_model_learnt_goes_into_the_base_as_it_was(base, tmp_path, precision):
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    before = answer_logits(*load_model(folder))
    model, processor = adapted(folder, settings(base_precision=precision))
    learn(model, processor, steps=10, bf16=True)
    said = answer_logits(model, processor)
    save_adapter(model, DESCRIBE, folder)
    whole = answer_logits(*load_model(folder))  # the adapter on the unquantised base
    kept, was = (load_file(path / "model.safetensors") for path in (folder, base))
    assert kept.keys() == was.keys()
    assert all(torch.equal(value, was[name]) for name, value in kept.items())
    merged = answer_logits(*merge_adapter(folder, DESCRIBE))
    assert torch.allclose(merged, whole, atol=1e-4)
    # Quantising moves the outputs less than training did.
    assert (said - whole).norm() < 0.5 * (whole - before).norm()


def test_layers_of_the_tower_learn_through_lora_and_end_in_the_base(base, tmp_path, monkeypatch):
    # Outside of training torch fuses a transformer's layer, past LoRA: until it is merged.
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    model, processor = adapted(base, settings(lora_target_modules=TOWER), ALIGN)
    paths = [path for path, _ in lora_layers(model, ALIGN)]
    assert sum("vision_tower" in path for path in paths) == 2
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.1
    embedded, tokens = well_embeddings(model, tiny_bank()), well_tokens(model, tiny_bank())
    plain, _ = load_model(base)
    assert not torch.allclose(tokens, well_tokens(plain, tiny_bank()), atol=1e-3)
    merge_tower(model, ALIGN)
    save_aligned(base, model, processor, tmp_path / "model", model.state_dict())
    again, _ = load_model(tmp_path / "model")
    assert not any("vision_tower" in path for path, _ in lora_layers(again, ALIGN))
    assert torch.allclose(well_tokens(again, tiny_bank()), tokens, atol=1e-5)
    assert abs(well_embeddings(again, tiny_bank()) - embedded).max() < 1e-5
    described = add_adapter(
        again, DESCRIBE, lora_config(settings(lora_target_modules=TOWER), describe=True)
    )
    assert not any("vision_tower" in path for path, _ in lora_layers(described, DESCRIBE))


def test_with_lora_in_the_tower_alone_describe_is_its_projector(base, tmp_path):
    chosen = settings(lora_target_modules=r".*vision_tower\.fusion.*\.linear\d")
    model, processor = adapted(base, chosen, ALIGN)
    assert {"vision_tower" in path for path, _ in lora_layers(model, ALIGN)} == {True}
    folder = tmp_path / "model"
    merge_tower(model, ALIGN)
    save_aligned(base, model, processor, folder, model.state_dict())
    model, processor = adapted(folder, chosen)
    before = answer_logits(model, processor)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all("multi_modal_projector" in name for name in trained)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    said = answer_logits(model, processor)
    assert not torch.allclose(said, before, atol=1e-3)
    save_adapter(model, DESCRIBE, folder)
    loaded, processor = load_model(folder)
    use_adapter(loaded, DESCRIBE)
    assert torch.allclose(answer_logits(loaded, processor), said, atol=1e-4)
    save_base(*merge_adapter(folder, DESCRIBE), tmp_path / "merged")
    merged, processor = load_model(tmp_path / "merged")
    assert torch.allclose(answer_logits(merged, processor), said, atol=1e-4)


def test_target_modules_that_match_nothing_are_named():
    chosen = settings(lora_target_modules="no_such_layer")
    for describe in (False, True):
        with pytest.raises(InputError, match=r"no_such_layer.* matches no module"):
            add_adapter(tiny_model()[0], ALIGN, lora_config(chosen, describe))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"base_precision": "2bit"}, "base_precision is '2bit'; expected one of float32"),
        ({"lora_init": "random"}, "lora_init is 'random'; expected zero, pissa"),
        ({"lora_init": "pissa", "base_precision": "4bit"}, "does not go with base_precision 4bit"),
    ],
)
def test_settings_that_do_not_go_are_named(changed, expected):
    with pytest.raises(InputError, match=expected):
        settings(**changed)


def test_an_adapter_alone_is_small_and_names_no_folder(base, tmp_path):
    model, _ = adapted(base, settings())
    save_adapter(model, DESCRIBE, tmp_path)
    files = {path.name for path in (tmp_path / DESCRIBE).iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    assert str(base) not in (tmp_path / DESCRIBE / "adapter_config.json").read_text()
