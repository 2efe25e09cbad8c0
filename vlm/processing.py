"""From prepared wells and questions to what the model takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from transformers import (
    AutoTokenizer,
    BaseImageProcessor,
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

PROMPT_TOKENIZER = "prompt_tokenizer"  # sub-folder of a separate text encoder's tokenizer

# What a message says: its text, with a placeholder where its well is.
_CONTENT = (
    "{% macro say(content) %}{% if content is string %}{{ content }}{% else %}"
    "{% for part in content %}{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}{% endmacro %}"
)

# ChatML as SmolLM2 speaks it, without its system prompt. {% generation %} marks the answer for the
# loss; it includes the end token, so that the model learns to stop.
CHATML_TEMPLATE = _CONTENT + (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ say(message['content']) + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ say(message['content']) + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# For language models without ChatML's tokens: Vicuna's words, ended by the tokenizer's end token.
PLAIN_TEMPLATE = _CONTENT + (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ 'ASSISTANT: ' }}"
    "{% generation %}{{ say(message['content']) + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['role'].upper() + ': ' + say(message['content']) + ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


class CellPaintingImageProcessor(BaseImageProcessor):
    """Prepared pixels (uint16, the controls' bright end at `white`) into network input.

    Parameters
    ----------
    size : int
        Fields are resized to size x size where they are not.
    white : int
        The value of the controls' 99.9 percentile in the prepared store.
    gamma : float
        Stains span orders of magnitude; a square root lets dim structures be seen.
    mean, std : float
        Normalisation after gamma, one pair for every channel: the backbone is shared.
    """

    model_input_names: ClassVar = ["pixel_values"]

    def __init__(
        self,
        size: int = 128,
        white: int = 16384,
        gamma: float = 0.5,
        mean: float = 0.45,
        std: float = 0.25,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.size = size
        self.white = white
        self.gamma = gamma
        self.mean = mean
        self.std = std

    def preprocess(self, images: Sequence[np.ndarray], **kwargs: Any) -> BatchFeature:
        """Turn wells into `pixel_values`.

        Parameters
        ----------
        images : sequence of (S, C, H, W) uint16
            One array a well, all with the same number of sites and channels; or, as TRL's
            collator gives them, a list of one array a dialogue.

        Returns
        -------
        BatchFeature
            `pixel_values`: (B, S, C, size, size) float32.

        Raises
        ------
        ValueError
            When an array is not four-dimensional.
        """
        if isinstance(images[0], list):
            images = [image for dialogue in images for image in dialogue]
        for i, image in enumerate(images):
            if np.ndim(image) != 4:
                raise ValueError(
                    f"well {i} has shape {np.shape(image)}; "
                    "expected (sites, channels, height, width)"
                )
        pixels = torch.from_numpy(np.stack([np.asarray(image, np.float32) for image in images]))
        B, S, C, H, W = pixels.shape
        pixels = ((pixels / self.white) ** self.gamma - self.mean) / self.std
        if (self.size, self.size) != (H, W):
            planes = pixels.reshape(B * S, C, H, W)
            planes = F.interpolate(
                planes, size=(self.size, self.size), mode="bilinear", antialias=True
            )
            pixels = planes.reshape(B, S, C, self.size, self.size)
        return BatchFeature({"pixel_values": pixels})


class CellPaintingProcessor(ProcessorMixin):
    """Image processor, tokenizer and chat template in one.

    Parameters
    ----------
    image_processor, tokenizer
        The parts.
    chat_template : str
        Jinja template over messages whose content is a list of parts, as VLMs have it: the base's
        own, or one of this module.
    image_token : str
        The placeholder of one well token in a text; the one that the chat template writes.
    image_seq_length : int
        Tokens a well (`CellPaintingVisionConfig.num_tokens`).
    reads_prompts_apart : bool
        Whether prompts have a tokenizer of their own (a separate text encoder's).

    Attributes
    ----------
    prompt_tokenizer
        What reads prompts: the language model's tokenizer unless there is another.
    """

    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        image_processor: CellPaintingImageProcessor | None = None,
        tokenizer: Any = None,
        chat_template: str | None = CHATML_TEMPLATE,
        image_token: str = "<image>",
        image_seq_length: int = 9,
        reads_prompts_apart: bool = False,
        **kwargs: Any,
    ):
        self.image_token = image_token
        self.reads_prompts_apart = reads_prompts_apart
        self.prompt_tokenizer = tokenizer
        self.image_seq_length = image_seq_length
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)

    def __call__(
        self,
        images: Sequence[np.ndarray] | None = None,
        text: str | list[str] | None = None,
        control_images: Sequence[np.ndarray] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Process wells, texts, or both.

        Parameters
        ----------
        images, control_images : sequence of (S, C, H, W) uint16, optional
            Sites of each well, and of its plate's controls.
        text : str or list of str, optional
            Each `image_token` becomes `image_seq_length` of them.
        **kwargs
            For the tokenizer.

        Returns
        -------
        BatchFeature
            `input_ids`, `attention_mask`, `pixel_values`, `control_pixel_values`, as asked for.
        """
        data: dict[str, Any] = {}
        if text is not None:
            texts = [text] if isinstance(text, str) else text
            start = self.tokenizer.bos_token
            if start and texts[0].startswith(start):  # some chat templates write it themselves
                kwargs.setdefault("add_special_tokens", False)
            well = self.image_token * self.image_seq_length
            kwargs.setdefault("return_tensors", "pt")
            kwargs.setdefault("padding", True)
            data.update(
                self.tokenizer([t.replace(self.image_token, well) for t in texts], **kwargs)
            )
        if images is not None:
            data["pixel_values"] = self.image_processor.preprocess(images)["pixel_values"]
        if control_images is not None:
            controls = self.image_processor.preprocess(control_images)["pixel_values"]
            data["control_pixel_values"] = controls
        return BatchFeature(data)

    def ask(self, question: str) -> str:
        """Write one question about one well as a prompt that the model continues."""
        return self.apply_chat_template(_messages(question), add_generation_prompt=True)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> Any:
        """Write the parts; a tokenizer of prompts goes to a sub-folder."""
        if self.reads_prompts_apart:
            self.prompt_tokenizer.save_pretrained(Path(save_directory) / PROMPT_TOKENIZER)
        return super().save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, name: str | Path, *args: Any, **kwargs: Any) -> Any:
        """Load what `save_pretrained` wrote, from a folder or a hub id."""
        processor = super().from_pretrained(name, *args, **kwargs)
        if processor.reads_prompts_apart:
            processor.prompt_tokenizer = AutoTokenizer.from_pretrained(
                name, subfolder=PROMPT_TOKENIZER
            )
        return processor

    @property
    def end_of_answer(self) -> str:
        """The token at which an answer ends.

        The first one that the chat template writes after an answer, or the tokenizer's end token
        where it writes none (LLaVA-1.5).
        """
        answer = "ANSWER"
        text = self.apply_chat_template(_messages("", answer))
        after = self.tokenizer(text.rpartition(answer)[2], add_special_tokens=False)["input_ids"]
        special = self.tokenizer.added_tokens_decoder
        if after and after[0] in special and special[after[0]].special:
            return str(self.tokenizer.convert_ids_to_tokens(after[0]))
        return str(self.tokenizer.eos_token)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a prompt and the end token that is read out (encoders write theirs anyway)."""
    ids, end = tokenizer(prompt)["input_ids"], tokenizer.eos_token_id
    return ids if end is None else [*ids, end]


def _messages(question: str, answer: str | None = None) -> list[dict[str, Any]]:
    asked = [{"type": "image"}, {"type": "text", "text": question}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": asked}]
    if answer is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages
