"""The processes that train together: what accelerate, FSDP2 and DeepSpeed have to be told."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers.integrations import unset_hf_deepspeed_config
from transformers.training_args import OptimizerNames
from trl import SFTConfig

from contrastive.configuration import AlignConfig
from data.errors import InputError


def join_processes(align_config: AlignConfig, sft: SFTConfig) -> AcceleratorState:
    """Meet the other processes as `accelerate launch` says; each phase's accelerator follows it.

    Raises
    ------
    InputError
        When the settings do not work with FSDP2.
    """
    # bf16 of the YAML, or accelerate's.
    accelerator = Accelerator(cpu=sft.use_cpu, mixed_precision=sft.mixed_precision)
    if accelerator.is_fsdp2:
        _fit_fsdp2(accelerator.state, align_config, sft)
    unset_hf_deepspeed_config()  # ZeRO-3 spreads what was built; zero3_init_flag is not heeded
    sft.deepspeed_plugin = None  # the state has it, and a second one is refused
    return accelerator.state


def _fit_fsdp2(processes: AcceleratorState, align_config: AlignConfig, sft: SFTConfig) -> None:
    """Let FSDP2 compute as processes with whole models do: in bf16 where autocast says so.

    Its own policy would round tower, embeddings and the sums of gradients to bf16.

    Raises
    ------
    InputError
        When an optimizer is of 8 bits: bitsandbytes does not know spread parameters.
    """
    processes.fsdp_plugin.mixed_precision_policy = None
    for name, optimizer, other in (
        ("align_optimizer", align_config.align_optimizer, "adamw"),
        ("optim", OptimizerNames(sft.optim).value, "adamw_torch"),
    ):
        if "8bit" in optimizer:
            raise InputError(f"{optimizer} does not work with FSDP2: set {name}: {other}")


@contextmanager
def own_deepspeed_settings(processes: AcceleratorState) -> Iterator[None]:
    """Let a phase fill in DeepSpeed's settings, and leave them as the user gave them."""
    plugin = processes.deepspeed_plugin
    if plugin is None:
        yield
        return
    given = copy.deepcopy(plugin.deepspeed_config)
    yield
    plugin.deepspeed_config.clear()
    plugin.deepspeed_config.update(given)
