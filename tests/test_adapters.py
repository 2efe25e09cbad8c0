"""The model folder: two adapters on one base, saved and loaded again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import tiny_adapter, tiny_bank, tiny_model

from data.errors import InputError
from vlm.adapters import ALIGN, DESCRIBE, bare, load_model, save_adapter, save_base
from vlm.instruct import well_embeddings, well_tokens

QUESTION = "What changed in this well?"


def stir(model, name: str, seed: int) -> None:
    """Give an adapter weights as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if f".{name}." in key:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model folder made as scripts/train_lora.py makes it."""
    folder = tmp_path_factory.mktemp("run") / "model"
    model, processor = tiny_model()
    model = tiny_adapter(model, ALIGN)
    stir(model, ALIGN, 1)
    save_adapter(model, ALIGN, folder.parent)
    save_base(model.unload(), processor, folder)
    (folder.parent / ALIGN).rename(folder / ALIGN)
    model, _ = load_model(folder)
    model = tiny_adapter(model, DESCRIBE, projector=True)
    stir(model, DESCRIBE, 2)
    save_adapter(model, DESCRIBE, folder)
    return folder


def outputs(model, processor) -> dict[str, torch.Tensor]:
    """What the three uses of a model give: embeddings of wells and prompts, next words."""
    bank = tiny_bank()
    tokenizer = processor.tokenizer
    ids = tokenizer("U2OS cells, 48 h", return_tensors="pt")["input_ids"]
    found = {"wells": torch.from_numpy(well_embeddings(model, bank))}
    model.set_adapter(ALIGN)
    with torch.inference_mode():
        found["prompt"] = bare(model).embed_prompts(ids, torch.ones_like(ids))
        if DESCRIBE in model.peft_config:
            model.set_adapter(DESCRIBE)
            asked = processor(text=processor.ask(QUESTION))
            tokens = well_tokens(model, bank)[:1]
            found["answer"] = model(**asked, well_tokens=tokens).logits
    return found


def test_loaded_again_everything_is_the_same(folder, tmp_path):
    model, processor = load_model(folder)
    assert not model.training
    first = outputs(model, processor)
    assert set(first) == {"wells", "prompt", "answer"}
    copy = tmp_path / "copy"
    for name in (ALIGN, DESCRIBE):
        save_adapter(model, name, tmp_path)
    save_base(model.unload(), processor, copy)
    for name in (ALIGN, DESCRIBE):
        (tmp_path / name).rename(copy / name)
    again = outputs(*load_model(copy))
    for name, value in first.items():
        assert torch.equal(value, again[name]), name


def test_each_adapter_counts_only_where_it_belongs(folder, tmp_path):
    both = outputs(*load_model(folder))
    shutil.copytree(folder, tmp_path / "align_only")
    shutil.rmtree(tmp_path / "align_only" / DESCRIBE)
    aligned = outputs(*load_model(tmp_path / "align_only"))
    assert torch.equal(both["wells"], aligned["wells"])
    assert torch.equal(both["prompt"], aligned["prompt"])  # describing damages no embedding
    shutil.copytree(folder, tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / ALIGN)
    model, processor = load_model(tmp_path / "other")
    assert list(model.peft_config) == [DESCRIBE]
    asked = processor(text=processor.ask(QUESTION))
    tokens = well_tokens(model, tiny_bank())[:1]
    with torch.inference_mode():
        assert torch.equal(model(**asked, well_tokens=tokens).logits, both["answer"])
        model.disable_adapter_layers()
        assert not torch.allclose(model(**asked, well_tokens=tokens).logits, both["answer"])


def test_the_projector_is_kept_with_describe_and_not_with_align(folder):
    from safetensors.torch import load_file

    described = load_file(folder / DESCRIBE / "adapter_model.safetensors")
    aligned = load_file(folder / ALIGN / "adapter_model.safetensors")
    assert any("multi_modal_projector" in name for name in described)
    assert all("lora_" in name for name in aligned)
    assert not any("vision_tower" in name for name in [*described, *aligned])


def test_weights_are_safe_ones_only(folder):
    names = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert names <= {".safetensors", ".json", ".jinja", ".md", ".txt"}
    assert not any("tmp" in path.name for path in folder.rglob("*"))


def test_a_run_is_taken_for_its_model(folder):
    model, _ = load_model(folder.parent)
    assert set(model.peft_config) == {ALIGN, DESCRIBE}


def test_a_base_without_adapters_is_loaded_as_it_is(tmp_path):
    model, processor = tiny_model()
    save_base(model, processor, tmp_path / "base")
    again, _ = load_model(tmp_path / "base")
    assert bare(again) is again
    assert (well_embeddings(again, tiny_bank()) == well_embeddings(model, tiny_bank())).all()


def broken_copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_folder_that_lacks_a_file_is_one_clear_line(folder, tmp_path, name):
    copy = broken_copy(folder, tmp_path / "copy")
    (copy / name).unlink()
    with pytest.raises(InputError, match="copy is not a whole model folder") as error:
        load_model(copy)
    assert "\n" not in str(error.value)


def test_a_pickle_is_not_opened(folder, tmp_path):
    copy = broken_copy(folder, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"not to be read")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle"):
        load_model(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "align/adapter_model.safetensors"])
def test_a_file_that_was_cut_off_is_one_clear_line(folder, tmp_path, name):
    copy = broken_copy(folder, tmp_path / "copy")
    file = copy / name
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="copy") as error:
        load_model(copy)
    assert "\n" not in str(error.value)


def test_a_config_that_is_no_json_is_one_clear_line(folder, tmp_path):
    copy = broken_copy(folder, tmp_path / "copy")
    (copy / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json"):
        load_model(copy)


def test_a_model_of_another_kind_is_named(folder, tmp_path):
    copy = broken_copy(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "llava"}))
    with pytest.raises(InputError, match="is a 'llava' model, expected 'cell_painting_vlm'"):
        load_model(copy)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        load_model(tmp_path / "nowhere")
