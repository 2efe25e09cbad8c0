"""Small random VLM checkpoints of the real classes, with processors and tokenizers of theirs."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from tiny import TEXTS
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GPT2Tokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

# The chat templates of the published checkpoints, without what they say about films and tools.
VICUNA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ONEVISION = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + part['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
IDEFICS = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<image>' }}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
QWEN = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.2,  # with the usual 0.02 its logits could never say much
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def save_tiny_llava(folder: Path) -> None:
    """LLaVA-1.5: Vicuna's tokenizer and words, CLIP."""
    tokenizer = _llama_tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=28, patch_size=14),
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer) + 6),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = LlavaProcessor(CLIPImageProcessor(), tokenizer, patch_size=14, chat_template=VICUNA)
    _save(LlavaForConditionalGeneration(config), processor, folder)


def save_tiny_onevision(folder: Path) -> None:
    """LLaVA-OneVision: Qwen2, SigLIP."""
    tokenizer = _qwen_tokenizer("<image>", "<video>")
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            **VISION, image_size=28, patch_size=14, vision_use_head=False
        ),
        text_config=Qwen2Config(**TEXT, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(),
        tokenizer,
        LlavaOnevisionVideoProcessor(),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=ONEVISION,
    )
    _save(LlavaOnevisionForConditionalGeneration(config), processor, folder)


def save_tiny_smolvlm(folder: Path) -> None:
    """SmolVLM: SmolLM2, a SigLIP that takes any size, tied embeddings."""
    tokenizer = _smol_tokenizer()
    config = SmolVLMConfig(
        vision_config={**VISION, "image_size": 56, "patch_size": 14},
        text_config=LlamaConfig(
            **TEXT, vocab_size=len(tokenizer), pad_token_id=0, tie_word_embeddings=True
        ).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(),
        tokenizer,
        SmolVLMVideoProcessor(
            size={"longest_edge": 56}, video_sampling={"fps": 1, "max_frames": 2}
        ),
        chat_template=IDEFICS,
    )
    _save(SmolVLMForConditionalGeneration(config), processor, folder)


def save_tiny_idefics3(folder: Path) -> None:
    """Idefics3: as SmolVLM, untied."""
    tokenizer = _smol_tokenizer()
    processor = Idefics3Processor(Idefics3ImageProcessor(), tokenizer, chat_template=IDEFICS)
    config = Idefics3Config(
        vision_config={**VISION, "image_size": 56, "patch_size": 14},
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer), pad_token_id=0).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    _save(Idefics3ForConditionalGeneration(config), processor, folder)


def save_tiny_qwen2_5_vl(folder: Path) -> None:
    """Qwen2.5-VL: multi-modal rotary positions, windowed attention over patches."""
    tokenizer = _qwen_tokenizer(*_QWEN_VISION)
    config = Qwen2_5_VLConfig(
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "rope_parameters": ROPE,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.2,
        },
        **_qwen_ids(tokenizer),
    )
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor(), chat_template=QWEN
    )
    _save(Qwen2_5_VLForConditionalGeneration(config), processor, folder)


def save_tiny_qwen3_vl(folder: Path) -> None:
    """Qwen3-VL: as Qwen2.5-VL, with interpolated positions and deep stacking; tied embeddings."""
    tokenizer = _qwen_tokenizer(*_QWEN_VISION)
    config = Qwen3VLConfig(
        text_config={
            **TEXT,
            "head_dim": 16,
            "vocab_size": len(tokenizer),
            "rope_parameters": ROPE,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": 0.2,
        },
        tie_word_embeddings=True,
        **_qwen_ids(tokenizer),
    )
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(patch_size=16),
        tokenizer,
        Qwen3VLVideoProcessor(),
        chat_template=QWEN,
    )
    _save(Qwen3VLForConditionalGeneration(config), processor, folder)


BASES: dict[str, Callable[[Path], None]] = {
    "llava": save_tiny_llava,
    "onevision": save_tiny_onevision,
    "smolvlm": save_tiny_smolvlm,
    "idefics3": save_tiny_idefics3,
    "qwen2_5_vl": save_tiny_qwen2_5_vl,
    "qwen3_vl": save_tiny_qwen3_vl,
}
_QWEN_VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def _save(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _qwen_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    names = ("vision_start", "vision_end", "image", "video")
    return {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in zip(names, _QWEN_VISION, strict=True)
    }


def _bpe(pre_tokenizer, alphabet: list[str], special: list[str]) -> dict:
    """Vocabulary and merges of a small byte-pair tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + len(special) + 60,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}


def _qwen_tokenizer(*extra: str) -> Qwen2Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    parts = _bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), alphabet, ["<|endoftext|>"])
    tokenizer = Qwen2Tokenizer(**parts, eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *extra]})
    return tokenizer


def _smol_tokenizer() -> GPT2Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>"]
    parts = _bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), alphabet, special)
    tokenizer = GPT2Tokenizer(
        **parts, bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|im_start|>"
    )
    names = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    return tokenizer


def _llama_tokenizer() -> LlamaTokenizer:
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    alphabet = sorted({char for text in TEXTS for char in text.replace(" ", "▁")})
    parts = _bpe(pre_tokenizers.Metaspace(), alphabet, special)
    tokenizer = LlamaTokenizer(**parts, pad_token="<unk>", add_bos_token=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer


def save_tiny_base(kind: str, folder: Path) -> Path:
    """Write a checkpoint of one of `BASES`."""
    torch.manual_seed(0)
    BASES[kind](folder)
    return folder
