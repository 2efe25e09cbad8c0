"""LoRA's settings, the adapters made from them, and the frozen base that they sit on."""

import copy
import math
import re
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers import BitsAndBytesConfig

from data.errors import InputError
from vlm.modeling import CellPaintingVlmForConditionalGeneration

Vlm: TypeAlias = CellPaintingVlmForConditionalGeneration | PeftModel
"""A model with or without adapters around it."""

PRECISIONS = ("float32", "bfloat16", "8bit", "4bit")
NOT_TOWER = r"(?!.*vision_tower)"


@dataclass
class LoraSettings:
    """What LoRA changes, and how the frozen language model below it is held in memory."""

    lora_rank: int = field(default=16, metadata={"help": "rank of both adapters"})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA's scale, alpha / rank"})
    lora_dropout: float = field(default=0.05, metadata={"help": "on LoRA's input"})
    lora_target_modules: str = field(
        default=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
        metadata={
            "help": "regular expression that matches whole module names; layers of the tower that "
            "it matches are frozen and learn through LoRA in phase align (otherwise the whole "
            "tower is trained)"
        },
    )
    lora_init: str = field(
        default="zero",
        metadata={"help": "zero (no change at the start), pissa or pissa_niter_16 (faster SVD)"},
    )
    lora_dora: bool = field(default=False, metadata={"help": "DoRA: direction and size apart"})
    lora_rslora: bool = field(
        default=False, metadata={"help": "rank-stabilised scale, alpha / sqrt(rank)"}
    )
    lora_modules_to_save: list[str] = field(
        default_factory=list,
        metadata={"help": "modules beside the projector that phase describe trains whole: lm_head"},
    )
    base_precision: str = field(
        default="float32",
        metadata={
            "help": f"of the frozen language model while training: {', '.join(PRECISIONS)} "
            "(4bit is QLoRA's NF4 with double quantisation); the model folder keeps float32"
        },
    )

    def __post_init__(self) -> None:
        if self.base_precision not in PRECISIONS:
            raise InputError(
                f"base_precision is {self.base_precision!r}; expected one of "
                f"{', '.join(PRECISIONS)}"
            )
        if self.lora_init != "zero" and not self.pissa:
            raise InputError(
                f"lora_init is {self.lora_init!r}; expected zero, pissa or pissa_niter_NUMBER"
            )
        if self.pissa and self.quantized:
            raise InputError(
                f"lora_init {self.lora_init} splits the base's weights: it does not go with "
                f"base_precision {self.base_precision}; use zero"
            )

    @property
    def pissa(self) -> bool:
        """Whether adapters start from the base's main directions."""
        head, _, number = self.lora_init.partition("_niter_")
        return head == "pissa" and (number.isdigit() or self.lora_init == "pissa")

    @property
    def quantized(self) -> bool:
        """Whether the base is held in 4 or 8 bits."""
        return self.base_precision in ("4bit", "8bit")


def lora_config(settings: LoraSettings, describe: bool) -> LoraConfig:
    """Write down a LoRA adapter.

    Parameters
    ----------
    settings : LoraSettings
    describe : bool
        Whether it is phase describe's: that one leaves the tower alone (its tokens are computed
        once) and trains and keeps the whole projector.
    """
    targets = settings.lora_target_modules
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=f"{NOT_TOWER}(?:{targets})" if describe else targets,
        modules_to_save=["multi_modal_projector", *settings.lora_modules_to_save]
        if describe
        else None,
        use_dora=settings.lora_dora,
        use_rslora=settings.lora_rslora,
        init_lora_weights=settings.lora_init if settings.pissa else True,
        task_type="CAUSAL_LM",
    )


def add_adapter(model: Vlm, name: str, config: LoraConfig) -> PeftModel:
    """Add a fresh adapter, the only trainable part, and make it the active one.

    Where target modules are layers of the tower alone, phase describe's adapter is its projector.

    Raises
    ------
    InputError
        When no module matches the adapter's target modules.
    """
    if config.modules_to_save and _matches_tower_alone(model, config.target_modules):
        config.target_modules = DUMMY_TARGET_MODULES
    try:
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
        else:
            model = get_peft_model(model, config, adapter_name=name)
    except ValueError as error:
        if "target modules" not in str(error).lower():
            raise
        raise InputError(
            f"lora_target_modules {config.target_modules!r} matches no module of the model"
        ) from error
    model.set_adapter(name)
    return model


def _matches_tower_alone(model: Vlm, targets: str) -> bool:
    names = [name for name, _ in model.named_modules()]
    if any(re.fullmatch(targets, name) for name in names):
        return False
    everywhere = targets.removeprefix(NOT_TOWER)
    return any("vision_tower" in name and re.fullmatch(everywhere, name) for name in names)


def lora_layers(model: PeftModel, name: str) -> list[tuple[str, Any]]:
    """Name and module of every layer that an adapter changes."""
    return [
        (path, module)
        for path, module in model.named_modules()
        if name in getattr(module, "lora_A", {})
    ]


def merge_tower(model: PeftModel, name: str) -> None:
    """Write what an adapter learnt in the tower's layers into their weights, in place."""
    for path, layer in lora_layers(model, name):
        if "vision_tower" in path:
            layer.merge(adapter_names=[name])


def settle_pissa(
    state: dict[str, torch.Tensor], start: dict[str, torch.Tensor], config: LoraConfig
) -> tuple[dict[str, torch.Tensor], LoraConfig]:
    """Write an adapter that started from the base's weights as one on the untouched base.

    PiSSA takes s B0 A0 out of the base; after training s (B A - B0 A0) is what changed, which is
    LoRA of twice the rank (Meng et al. 2024, appendix C).

    Parameters
    ----------
    state, start : dict of Tensor
        The adapter after and before training, keys as in an adapter file.
    config : LoraConfig

    Returns
    -------
    state, config
        An ordinary adapter of rank 2 r.
    """
    settled = dict(state)
    for key in state:
        if "lora_A" in key:
            settled[key] = torch.cat([state[key], start[key]], dim=0)  # (2r, in)
        elif "lora_B" in key:
            settled[key] = torch.cat([state[key], -start[key]], dim=1)  # (out, 2r)
    config = copy.deepcopy(config)
    config.r *= 2
    config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2  # keeps the scale
    config.init_lora_weights = True
    return settled, config


def unquantized_modules(model: CellPaintingVlmForConditionalGeneration) -> list[str]:
    """Name everything around the language model's layers: tower, projector, heads, lm_head.

    Parameters
    ----------
    model : CellPaintingVlmForConditionalGeneration
        Its structure is enough: it may lie on the meta device.
    """
    inner = [f"model.{name}" for name, _ in model.model.named_children()]
    outer = [name for name, _ in model.named_children() if name != "model"]
    return [name for name in inner if name != "model.language_model"] + outer


def quantization(precision: str, skip: list[str]) -> BitsAndBytesConfig:
    """Say how bitsandbytes is to hold a base (4bit: QLoRA, Dettmers et al. 2023).

    Parameters
    ----------
    precision : "4bit" or "8bit"
    skip : list of str
        Modules to leave as they are.

    Raises
    ------
    InputError
        When bitsandbytes is not installed.
    """
    try:
        import bitsandbytes  # noqa: F401  # an extra: its absence is one clear line
    except ImportError:
        raise InputError(
            f"base_precision {precision} needs bitsandbytes: pip install morphoclip[quantized]"
        ) from None
    return BitsAndBytesConfig(
        load_in_4bit=precision == "4bit",
        load_in_8bit=precision == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=skip,
    )
