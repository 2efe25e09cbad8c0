"""Every base, small and random but of the real classes: both phases, saved, loaded, asked."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from helpers import write_tiff_plate, write_tiny_store
from test_align import prompts_of
from test_backbone import save_clip
from tiny import READOUT_GROUPS, save_tiny_language_model, tiny_adapter, tiny_wells
from tiny_bases import BASES, save_tiny_base
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlamaConfig,
    LlamaForCausalLM,
)
from trl import SFTConfig

from contrastive.align_model import AlignModel
from contrastive.configuration import AlignConfig
from contrastive.trainer import align
from data.channels import CHANNELS
from data.errors import InputError
from vlm.adapters import ALIGN, DESCRIBE, load_model, save_adapter, save_aligned, save_base
from vlm.assembly import build_model
from vlm.backbone import feature_maps
from vlm.describe import describe
from vlm.instruct import encode_dialogues, train_describe, well_embeddings, well_tokens
from vlm.model_config import model_config
from vlm.pretrained import base_backbone, load_backbone
from vlm.wells import WellBank, fit_reference, open_wells

SIDE = {kind: 64 if kind == "qwen3_vl" else 56 for kind in BASES}
QUESTION = "What changed?"
TOWER = {"hidden_size": 32, "num_latents": 2, "num_attention_heads": 2}
END = {
    "llava": "</s>",
    "onevision": "<|im_end|>",
    "smolvlm": "<end_of_utterance>",
    "idefics3": "<end_of_utterance>",
    "qwen2_5_vl": "<|im_end|>",
    "qwen3_vl": "<|im_end|>",
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Where a base's checkpoint lies, written at the first call."""
    root = tmp_path_factory.mktemp("bases")

    def folder(kind: str) -> Path:
        return root / kind if (root / kind).is_dir() else save_tiny_base(kind, root / kind)

    return folder


def new_model(folder: Path, kind: str, **changed):
    torch.manual_seed(0)
    values = {"backbone": "base", "image_size": SIDE[kind], "readout_groups": READOUT_GROUPS}
    return build_model(str(folder), **{**TOWER, **values, **changed})


def bank_of(model, processor) -> WellBank:
    """The tiny wells, with features of random sites."""
    wells = tiny_wells(n_targets=2)
    rng = np.random.default_rng(0)
    size = processor.image_processor.size
    sites = rng.integers(0, 30000, (2 * len(wells), 1, 5, size, size)).astype(np.uint16)
    with torch.no_grad():
        pixels = processor.image_processor.preprocess(sites)["pixel_values"]
        features = model.model.vision_tower.encode_channels(pixels)[:, 0].numpy()
    plate = (wells["Metadata_Plate"] == "P2").to_numpy().astype(int)
    return WellBank(
        wells=wells,
        site_features=features,
        sites_of=[np.array([2 * row, 2 * row + 1]) for row in range(len(wells))],
        control_median=np.stack([np.median(features, axis=0)] * 2),
        plate_of=plate,
        channel_mask=np.ones((len(wells), 5), bool),
    )


@pytest.mark.parametrize("kind", BASES)
def test_the_language_model_and_its_words_are_taken_out(kind, folder_of):
    folder = folder_of(kind)
    model, processor = new_model(folder, kind)
    base = AutoModelForImageTextToText.from_pretrained(folder).eval()
    words = AutoProcessor.from_pretrained(folder)
    ids = words.tokenizer(QUESTION, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        # The whole base says of a text what ours says: weights, lm_head and rotary positions.
        assert torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)
    asked = words.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}],
        add_generation_prompt=True,
    )
    assert processor.ask(QUESTION) == asked
    assert processor.end_of_answer == END[kind]
    end = processor.tokenizer.convert_tokens_to_ids(END[kind])
    assert model.generation_config.eos_token_id == end
    found = processor(text=asked)["input_ids"]
    assert (found == model.config.image_token_id).sum() == processor.image_seq_length
    assert found[0].tolist().count(processor.tokenizer.bos_token_id) <= 1
    planned = model_config(str(folder), "base", tuple(CHANNELS), **TOWER)
    for part in ("vision_config", "text_config"):
        ours, theirs = getattr(planned, part), getattr(model.config, part)
        assert ours.hidden_size == theirs.hidden_size
    assert planned.vision_config.backbone_layers == model.config.vision_config.backbone_layers
    ours, theirs = (c.vision_config.backbone_config for c in (planned, model.config))
    assert type(ours) is type(theirs)
    tied = model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert tied == (kind in ("smolvlm", "qwen3_vl"))


@pytest.mark.parametrize(
    ("kind", "stem"),
    [(kind, ("shared", "inflated")[i % 2]) for i, kind in enumerate(BASES)],
)
def test_both_phases_then_saved_and_loaded_it_answers_the_same(kind, stem, folder_of, tmp_path):
    model, processor = new_model(folder_of(kind), kind, stem=stem)
    bank = bank_of(model, processor)
    fit_reference(model, bank)
    save_base(model, processor, tmp_path / "base")
    model = tiny_adapter(model, ALIGN)
    effects = np.zeros((len(bank), len(READOUT_GROUPS)), np.float32)
    settings = AlignConfig(align_steps=2, align_num_targets=2, align_num_unlabelled=2)
    arguments = (processor.tokenizer, bank, prompts_of(bank), effects, settings)
    state = align(model, *arguments, tmp_path, 0, Accelerator(cpu=True))
    folder = tmp_path / "model"
    save_aligned(tmp_path / "base", model, processor, folder, state)

    model, processor = load_model(folder)
    embedded = well_embeddings(model, bank)
    model = tiny_adapter(model, DESCRIBE, projector=True)
    dialogues = pd.DataFrame({"well": range(len(bank))}).assign(
        question=QUESTION, answer="Mito: dimmer."
    )
    args = SFTConfig(
        output_dir=str(tmp_path / "describe"),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        max_length=200,
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    train_describe(model, processor, well_tokens(model, bank), dialogues, args)
    save_adapter(model, DESCRIBE, folder)
    again, processor_again = load_model(folder)
    model.set_adapter(DESCRIBE)
    again.set_adapter(DESCRIBE)
    tokens = well_tokens(model, bank)[:2]
    assert torch.equal(well_tokens(again, bank)[:2], tokens)
    assert (well_embeddings(again, bank) == embedded).all()
    asked = processor(text=[processor.ask(QUESTION)] * 2)
    assert torch.equal(
        asked["input_ids"], processor_again(text=[processor_again.ask(QUESTION)] * 2)["input_ids"]
    )
    with torch.inference_mode():
        logits = model(**asked, well_tokens=tokens).logits
        assert torch.equal(logits, again(**asked, well_tokens=tokens).logits)
        assert not torch.equal(logits[0], logits[1])  # it looks at the well
    answers = describe(again, processor_again, tokens, QUESTION, max_new_tokens=4)
    before = describe(model, processor, tokens, QUESTION, max_new_tokens=4)
    assert [said.text for said in answers] == [said.text for said in before]


def test_an_answer_is_followed_by_its_end_and_begins_once(folder_of):
    _, processor = new_model(folder_of("llava"), "llava")
    dialogue = {"well": 0, "question": QUESTION, "answer": "Mito: dimmer."}
    ids = encode_dialogues(pd.DataFrame([dialogue]), processor, None)["input_ids"][0]
    text = processor.tokenizer.decode(ids)
    well = "<image>" * processor.image_seq_length
    assert text == f"<s> USER: {well}\n{QUESTION} ASSISTANT: Mito: dimmer.</s>"


@pytest.mark.parametrize("kind", BASES)
def test_a_grey_plane_gives_what_three_equal_colours_gave(kind, folder_of):
    base = AutoModelForImageTextToText.from_pretrained(folder_of(kind)).eval()
    colour = base.get_encoder(modality="image")
    grey, layers = base_backbone(base, 1)
    plane = torch.randn(2, 1, SIDE[kind], SIDE[kind], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = feature_maps(grey, plane, layers)
        expected = feature_maps(colour, plane.expand(-1, 3, -1, -1), layers)
    grid = SIDE[kind] // colour.config.patch_size
    for one, other in zip(found, expected, strict=True):
        assert one.shape == (2, 16, grid, grid)
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("kind", BASES)
def test_a_map_is_where_the_image_is(kind, folder_of):
    base = AutoModelForImageTextToText.from_pretrained(folder_of(kind)).eval()
    backbone, _ = base_backbone(base, 1)
    side, patch = SIDE[kind], backbone.config.patch_size
    planes = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    other = planes.clone()
    other[1, 0, patch : 2 * patch, -patch:] += 1  # second row, last column, of the second image
    with torch.inference_mode():
        before, after = (feature_maps(backbone, images, [0])[0] for images in (planes, other))
    changed = (before - after).abs().amax(dim=1) > 1e-4
    grid = side // patch
    assert changed.nonzero().tolist() == [[1, 1, grid - 1]]


def test_qwens_maps_are_in_the_order_of_what_it_gives_its_language_model(folder_of):
    base = AutoModelForImageTextToText.from_pretrained(folder_of("qwen2_5_vl")).eval()
    backbone = base.get_encoder(modality="image")
    words = AutoProcessor.from_pretrained(folder_of("qwen2_5_vl"))
    image = np.random.default_rng(0).integers(0, 255, (56, 84, 3)).astype(np.uint8)
    packed = words.image_processor(images=[image], return_tensors="pt")
    scale = words.image_processor
    mean, std = (torch.tensor(v)[:, None, None] for v in (scale.image_mean, scale.image_std))
    plane = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std
    _, _, h = (packed["image_grid_thw"][0] * 14).tolist()
    plane = torch.nn.functional.interpolate(
        plane[None], size=(packed["image_grid_thw"][0, 1] * 14, h), mode="bicubic", antialias=True
    )
    with torch.inference_mode():
        merged = backbone(packed["pixel_values"], packed["image_grid_thw"]).pooler_output
        last = feature_maps(backbone, plane, [-1])[0]  # (1, D, 2h, 2w)
        D, H, W = last.shape[1:]
        units = last[0].reshape(D, H // 2, 2, W // 2, 2).permute(1, 3, 2, 4, 0)
        again = backbone.merger(units.reshape(-1, D))
    assert torch.allclose(again, merged, atol=0.05)


def test_an_inflated_stem_sees_all_channels_and_needs_them(folder_of, tmp_path):
    model, processor = new_model(folder_of("smolvlm"), "smolvlm", stem="inflated")
    tower = model.model.vision_tower
    assert model.config.vision_config.num_tokens == 1 + 2 * len(READOUT_GROUPS) + 1
    pixels = torch.randn(1, 2, 5, 56, 56)
    features = tower.encode_channels(pixels)
    assert features.shape == (1, 2, 1, 2 * 3 * 16)
    for channel in range(5):
        other = pixels.clone()
        other[:, :, channel, ::2] += 3
        assert not torch.allclose(tower.encode_channels(other), features, atol=1e-4)

    raw = write_tiff_plate(tmp_path / "raw")
    write_tiny_store(raw, tmp_path / "whole", measure=False)
    bank = open_wells(tmp_path / "whole", model, processor)
    assert bank.site_features.shape == (16, 1, 96)
    for file in (raw / "images" / "P1").glob("*-ch1sk1fk1fl1.tiff"):
        file.unlink()
    channels = (raw / "channels.tsv").read_text().splitlines()
    kept = [line for line in channels if not line.startswith("ch1\t")]
    (raw / "channels.tsv").write_text("\n".join(kept) + "\n")
    write_tiny_store(raw, tmp_path / "without", measure=False)
    with pytest.raises(InputError, match=r"plate P1 has no Mito; .* stem: shared"):
        open_wells(tmp_path / "without", model, processor)


def test_a_model_with_another_backbone_is_saved_and_loaded(folder_of, tmp_path):
    save_clip(tmp_path / "clip")
    language = save_tiny_language_model(tmp_path / "language")
    model, processor = new_model(language, "llava", backbone=str(tmp_path / "clip"))
    assert processor.image_processor.mean == pytest.approx(0.5)
    assert processor.image_processor.std == pytest.approx(0.2)
    save_base(model, processor, tmp_path / "model")
    again, _ = load_model(tmp_path / "model")
    bank = bank_of(model, processor)
    assert (well_embeddings(again, bank) == well_embeddings(model, bank)).all()


def test_a_language_model_without_chatml_speaks_plainly(tmp_path):
    save_tiny_base("llava", tmp_path / "llava")
    words = AutoProcessor.from_pretrained(tmp_path / "llava").tokenizer
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=len(words),
    )
    folder = tmp_path / "vicuna"
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    _, processor = new_model(folder, "llava", backbone=str(tmp_path / "llava"))
    assert processor.ask(QUESTION) == f"USER: <image>{QUESTION} ASSISTANT:"
    assert processor.end_of_answer == "</s>"


def test_what_does_not_fit_is_named(folder_of, tmp_path):
    with pytest.raises(InputError, match="image_size is 60; base needs a multiple of 14"):
        new_model(folder_of("llava"), "llava", image_size=60)
    with pytest.raises(InputError, match="needs a multiple of 28"):
        new_model(folder_of("qwen2_5_vl"), "qwen2_5_vl", image_size=42)
    with pytest.raises(InputError, match=r"num_text_layers is 4; .* has only 3 layers"):
        new_model(folder_of("qwen3_vl"), "qwen3_vl", num_text_layers=4)
    language = save_tiny_language_model(tmp_path / "language")
    with pytest.raises(InputError, match="LlamaForCausalLM has no vision encoder"):
        new_model(language, "llava")
    with pytest.raises(InputError, match=r"language_model '.*nowhere'"):
        build_model(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"backbone '.*nowhere'"):
        load_backbone(str(tmp_path / "nowhere"))
    shutil.copytree(folder_of("llava"), tmp_path / "mute")
    (tmp_path / "mute" / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        new_model(tmp_path / "mute", "llava")


def test_a_vlms_language_model_is_made_shallow(folder_of):
    model, _ = new_model(folder_of("qwen2_5_vl"), "qwen2_5_vl", num_text_layers=1)
    assert len(model.model.language_model.layers) == 1
    assert model.config.text_config.num_hidden_layers == 1


def test_images_come_one_a_well_or_as_trls_collator_gives_them(folder_of):
    _, processor = new_model(folder_of("llava"), "llava")
    rng = np.random.default_rng(0)
    wells = [rng.integers(0, 30000, (2, 5, 56, 56)).astype(np.uint16) for _ in range(2)]
    plain = processor(images=wells)["pixel_values"]
    nested = processor(images=[[well] for well in wells])["pixel_values"]
    assert torch.equal(plain, nested)


@pytest.mark.parametrize("kind", BASES)
def test_layers_are_named_for_fsdp_and_are_in_the_model(folder_of, kind):
    model, _ = new_model(folder_of(kind), kind)
    trained = AlignModel(tiny_adapter(model, ALIGN), ["clip"])
    found = {type(module).__name__ for module in trained.modules()}
    assert trained._no_split_modules <= found
    layer = model.model.language_model.layers[0]
    assert type(layer).__name__ in trained._no_split_modules
    assert all(parameter.dim() for parameter in trained.parameters())  # FSDP2 refuses scalars
