"""What a training needs, before anything is loaded: parameters, memory, tokens a step.

Nothing is estimated from formulas of one architecture. The model is built from its configuration
with fake tensors (shapes without memory), a step of each phase is run on them, and the bytes of
all tensors that live at the same time are counted. So LoRA's variants, gradient checkpointing and
every language model of transformers are counted as they are. On top of that:

    peak = weights + gradients + optimizer states + activations
    weights       what the model holds; under 4bit, a weight of a quantised layer takes
                  1/2 + 1/64 + 4/(64 * 256) bytes (NF4, its scales quantised again, QLoRA 2023,
                  section 3), under 8bit 1 byte and 4 bytes a row; phase align's running average
    gradients     4 bytes a trained parameter
    optimizer     8 bytes a trained parameter (AdamW, float32), 2 with an 8-bit optimizer
    activations   the rest of the peak: what backward needs, logits, temporary tensors; under 4bit
                  and 8bit, weights that bitsandbytes writes out on the way back

    needed on a device = 1.1 * peak + 1 GB: what its allocator wastes, and the runtime's own

Phase align is counted on kept features: LoRA in the backbone needs more. The two numbers of the
last line are a rule of thumb for GPUs (none was at hand to measure them); on a CPU the runtime's
own is what importing torch and transformers takes.
"""

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from vlm.adapters import bare
from vlm.configuration import CellPaintingVlmConfig
from vlm.lora import LoraSettings, add_adapter, lora_config
from vlm.model_config import shallow
from vlm.modeling import CellPaintingVlmForConditionalGeneration

GB = 1e9
DEVICES = (16, 24, 80, 141)  # GB
WASTE, RUNTIME = 1.1, 1.0
FEW_LAYERS = (2, 4)
"""Depths of a language model that say what every further layer adds."""
MANY = 1000
"""Dialogues whose activations are more than anything else."""


@dataclass(frozen=True)
class PhasePlan:
    """What one phase needs on one device; memory in bytes."""

    phase: str
    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    tokens: int

    @property
    def peak(self) -> int:
        """Bytes of tensors that live at the same time, at most."""
        return self.weights + self.gradients + self.optimizer + self.activations

    @property
    def needed(self) -> float:
        """GB on a device."""
        return WASTE * self.peak / GB + RUNTIME


@dataclass(frozen=True)
class Step:
    """What a step of phase describe takes.

    Attributes
    ----------
    batch : int
        Dialogues a process (`per_device_train_batch_size`).
    length : int
        Tokens a dialogue, the well's among them, at most (`max_length`).
    checkpointing : bool
        Whether layers are computed again in backward.
    bf16 : bool
        Mixed precision.
    small_optimizer : bool
        Whether the optimizer's states have 8 bits.
    accumulates : bool
        Whether it adds to the gradients of parts of the batch that came before.
    """

    batch: int
    length: int
    checkpointing: bool
    bf16: bool
    small_optimizer: bool = False
    accumulates: bool = False


class LiveBytes(TorchDispatchMode):
    """Count the bytes of all tensors that were made inside and still live.

    Parameters
    ----------
    held : list of Tensor
        Made before: views of them, such as a transposed weight, are nothing new.
    """

    def __init__(self, held: list[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = WeakIdKeyDictionary()
        for tensor in held:
            self._known[tensor.untyped_storage()] = 0

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation and see what it made."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = size
        weakref.finalize(storage, self._forget, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _forget(self, size: int) -> None:
        self.live -= size


@contextmanager
def fake_model(
    config: CellPaintingVlmConfig, settings: LoraSettings, describe: bool
) -> Iterator[PeftModel]:
    """Build a model with a phase's adapter from its configuration, without memory."""
    unsettled = replace(settings, lora_init="zero")  # PiSSA differs in values, not in sizes
    with torch.device("meta"):
        vlm = CellPaintingVlmForConditionalGeneration(config)
        model = add_adapter(vlm, "planned", lora_config(unsettled, describe))
    if settings.base_precision != "float32":
        for name, parameter in vlm.named_parameters():
            if name.startswith(("model.language_model.", "lm_head.")) and "lora_" not in name:
                parameter.data = parameter.data.to(torch.bfloat16)
    if settings.quantized:
        for layer in _quantised_layers(vlm):
            forward = partial(_in_few_bits, layer, settings.base_precision)
            layer.forward = forward  # type: ignore[method-assign]
    # On "cpu" but fake, operations, autocast and attention are chosen as in a real run.
    with FakeTensorMode():
        made: dict[int, torch.Tensor] = {}  # tied weights stay tied
        for module in model.modules():
            for own in (module._parameters, module._buffers):
                for name, tensor in own.items():
                    if tensor is not None:
                        own[name] = made.setdefault(id(tensor), _fake(tensor))
        yield model


def _quantised_layers(vlm: CellPaintingVlmForConditionalGeneration) -> list[nn.Linear]:
    """Those that bitsandbytes replaces (`vlm.lora.unquantized_modules` are left as they are)."""
    return [
        module
        for name, module in vlm.model.language_model.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name
    ]


def _in_few_bits(layer: nn.Linear, precision: str, x: torch.Tensor) -> torch.Tensor:
    """Compute and keep what bitsandbytes' layers do."""
    out = _TimesFewBits.apply(x.to(torch.bfloat16), layer.weight, precision == "4bit")
    return out if layer.bias is None else out + layer.bias


class _TimesFewBits(torch.autograd.Function):
    """x W^T, for which W is written out whole on the way back, on a GPU too.

    Of 4 bits first in float32, for the base is loaded as such (`vlm.adapters.load_base`). On the
    way forward a CPU writes W out too (a GPU only where it has no kernel for the shape), but in
    bfloat16 alone, so that this is never the peak. Layers of 8 bits hold x themselves, where
    gradient checkpointing cannot drop it.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, four: bool) -> torch.Tensor:
        ctx.weight, ctx.dtype = weight, torch.float32 if four else x.dtype
        ctx.held = None if four else x
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        whole = torch.empty_like(ctx.weight, dtype=ctx.dtype).to(gradient.dtype)
        return gradient @ whole, None, None


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def count_phase(
    model: PeftModel,
    phase: str,
    loss: Callable[[], torch.Tensor],
    settings: LoraSettings,
    step: Step,
    tokens: int,
) -> PhasePlan:
    """Run a step of a phase on fake tensors and count.

    Parameters
    ----------
    model : PeftModel
        From `fake_model`, with what is trained requiring gradients.
    phase : str
    loss : callable
        Computes the loss of a step.
    settings : LoraSettings
    step : Step
    tokens : int
        A step reads so many.
    """
    vlm = bare(model)
    if step.checkpointing:
        vlm.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    tensors = _unique([*model.parameters(), *model.buffers()])
    held = sum(tensor.nbytes for tensor in tensors)
    with LiveBytes(tensors) as counter:
        states = [torch.zeros(2, *p.shape) for p in trained]  # AdamW's, from the second step on
        if step.accumulates:
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
        with torch.autocast("cpu", torch.bfloat16, enabled=step.bf16):
            value = loss()
        value.backward()
    del states
    numbers = sum(p.numel() for p in trained)
    gradients, moments = 4 * numbers, 8 * numbers
    return PhasePlan(
        phase=phase,
        parameters=sum(p.numel() for p in _unique(model.parameters())),
        trained=numbers,
        weights=held - _saved_by_quantization(vlm, settings.base_precision),
        gradients=gradients,
        optimizer=moments // 4 if step.small_optimizer else moments,
        activations=counter.peak - gradients - moments,
        tokens=tokens,
    )


def plan_describe(
    config: CellPaintingVlmConfig, settings: LoraSettings, step: Step, answer: int | None = None
) -> PhasePlan:
    """Plan phase describe.

    Every further layer of a language model adds the same: two shallow models are counted in place
    of a deep one, unless its layers differ in kind.

    Parameters
    ----------
    config : CellPaintingVlmConfig
    settings : LoraSettings
    step : Step
    answer : int, optional
        Tokens of an answer: logits are made of these only. By default all that are not the well's.
    """
    text = config.text_config
    depth, (low, high) = text.num_hidden_layers, FEW_LAYERS
    if depth <= high or len(set(getattr(text, "layer_types", None) or ())) > 1:
        return count_describe(config, settings, step, answer)
    few, more = copy.deepcopy(config), copy.deepcopy(config)
    few.text_config, more.text_config = shallow(text, low), shallow(text, high)
    small, large = (asdict(count_describe(c, settings, step, answer)) for c in (few, more))
    del small["phase"], large["phase"]
    grown = {k: n + (large[k] - n) * (depth - low) // (high - low) for k, n in small.items()}
    return PhasePlan("describe", **grown)


def count_describe(
    config: CellPaintingVlmConfig, settings: LoraSettings, step: Step, answer: int | None = None
) -> PhasePlan:
    """Plan phase describe with every layer of the language model counted; see `plan_describe`."""
    wells = config.image_seq_length
    answer = step.length - wells - 1 if answer is None else answer
    with fake_model(config, settings, describe=True) as model:
        vlm = bare(model)

        def loss() -> torch.Tensor:
            ids = torch.zeros(step.batch, step.length - wells, dtype=torch.long)
            tokens = torch.zeros(step.batch, wells, config.vision_config.hidden_size)
            embedded = vlm.get_input_embeddings()(ids)
            projected = vlm.model.multi_modal_projector(tokens).to(embedded.dtype)
            hidden = vlm.model.language_model(
                inputs_embeds=torch.cat([projected, embedded], dim=1),
                attention_mask=torch.ones(step.batch, step.length, dtype=torch.long),
                use_cache=False,
            ).last_hidden_state
            logits = vlm.lm_head(hidden[:, -answer - 1 : -1].flatten(0, 1)).float()
            targets = torch.zeros(len(logits), dtype=torch.long)
            return F.cross_entropy(logits, targets, reduction="sum") / len(logits)

        return count_phase(model, "describe", loss, settings, step, step.batch * step.length)


def largest_batches(
    config: CellPaintingVlmConfig, settings: LoraSettings, step: Step
) -> list[dict[str, Any]]:
    """Find the largest batch of phase describe that fits each of `DEVICES`, in six ways.

    A line from one dialogue to many says it: few dialogues may hide in memory that the optimizer
    takes anyway, the others add the same each, so that memory never lies above the line.

    Returns
    -------
    list of dict
        `base_precision`, `gradient_checkpointing`, and a batch size (0: does not fit) a device.
    """
    rows = []
    for precision in ("float32", "bfloat16", "4bit"):
        for checkpointing in (False, True):
            held = replace(settings, base_precision=precision, lora_init="zero")
            here = replace(step, checkpointing=checkpointing)
            one, many = (
                plan_describe(config, held, replace(here, batch=batch)).needed
                for batch in (1, MANY)
            )
            each = (many - one) / (MANY - 1)
            fits = {
                f"{size} GB": int((size - one) / each) + 1 if size >= one else 0 for size in DEVICES
            }
            rows.append(
                {"base_precision": precision, "gradient_checkpointing": checkpointing, **fits}
            )
    return rows


def _saved_by_quantization(vlm: CellPaintingVlmForConditionalGeneration, precision: str) -> int:
    """Bytes that bitsandbytes saves on the bfloat16 layers of the language model."""
    if precision not in ("4bit", "8bit"):
        return 0
    saved = 0.0
    for layer in _quantised_layers(vlm):
        n, rows = layer.weight.numel(), layer.weight.shape[0]
        small = n * (1 / 2 + 1 / 64 + 4 / (64 * 256)) if precision == "4bit" else n + 4 * rows
        saved += 2 * n - small
    return int(saved)


def _unique(tensors: Any) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())
