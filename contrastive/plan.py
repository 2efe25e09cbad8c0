"""What both phases of a training need, as a text: `train_lora.py --plan true`."""

from dataclasses import replace

import pandas as pd
import torch

from contrastive.align_model import AlignModel
from contrastive.configuration import AlignConfig
from contrastive.objective import Truth, align_losses
from contrastive.trainer import train_tower_and_heads
from vlm.adapters import bare
from vlm.configuration import CellPaintingVlmConfig
from vlm.lora import LoraSettings
from vlm.plan import (
    DEVICES,
    GB,
    RUNTIME,
    WASTE,
    PhasePlan,
    Step,
    count_phase,
    fake_model,
    largest_batches,
    plan_describe,
)


def plan_align(
    config: CellPaintingVlmConfig,
    settings: LoraSettings,
    align: AlignConfig,
    step: Step,
    sites: int = 4,
) -> PhasePlan:
    """Plan phase align, a step with prompts.

    Parameters
    ----------
    config : CellPaintingVlmConfig
    settings : LoraSettings
    align : AlignConfig
    step : Step
        Batch and length do not matter here.
    sites : int
        Of a well.
    """
    N, P = align.wells, align.align_reagents_per_target
    R = P * min(align.align_prompt_targets, align.align_num_targets)
    chunked = align.align_chunk_wells is not None and align.align_chunk_wells < N
    if align.align_chunk_wells is not None:  # what is held at once
        R = P * -(-min(R, R * align.align_chunk_wells // N) // P)
        N = max(min(N, align.align_chunk_wells), 2 * R)
    L, C = align.align_max_prompt_tokens, len(config.vision_config.channels)
    K = len(config.vision_config.readout_groups)
    with fake_model(config, settings, describe=False) as model:
        train_tower_and_heads(model, align.weights)
        trained = AlignModel(model, align.weights)
        F = bare(model).model.vision_tower.reference_center.shape[1]

        def loss() -> torch.Tensor:
            wells = {
                "channel_features": torch.zeros(N, sites, C, F),
                "control_features": torch.zeros(N, 1, C, F),
                "channel_mask": torch.ones(N, C, dtype=torch.bool),
            }
            ids = torch.ones(R, L, dtype=torch.long)
            prompts = {"input_ids": ids, "attention_mask": ids}
            number = torch.zeros(N, dtype=torch.long)
            truth = Truth(torch.ones(N, 1), number, number, torch.zeros(N, K), P)
            encoded = trained(wells, prompts)
            return align_losses(encoded, truth, align.weights, align.align_temperature)["loss"]

        small = align.align_optimizer != "adamw"
        here = replace(step, small_optimizer=small, accumulates=chunked)
        plan = count_phase(model, "align", loss, settings, here, R * L)
        average = 4 * plan.trained if align.align_ema_decay else 0
        return replace(plan, weights=plan.weights + average)


def plan_text(
    config: CellPaintingVlmConfig, settings: LoraSettings, align: AlignConfig, step: Step
) -> str:
    """Say what a training needs on each device, and what fits which GPU.

    Parameters
    ----------
    config : CellPaintingVlmConfig
    settings : LoraSettings
    align : AlignConfig
    step : Step
        Of phase describe.
    """
    phases = [plan_align(config, settings, align, step), plan_describe(config, settings, step)]
    table = pd.DataFrame(
        {
            "phase": [p.phase for p in phases],
            "parameters": [f"{p.parameters:,}" for p in phases],
            "trained": [f"{p.trained:,} ({p.trained / p.parameters:.1%})" for p in phases],
            **{
                f"{part} GB": [f"{getattr(p, part) / GB:.2f}" for p in phases]
                for part in ("weights", "gradients", "optimizer", "activations", "peak")
            },
            "device GB": [f"{p.needed:.1f}" for p in phases],
            "tokens a step": [f"{p.tokens:,}" for p in phases],
        }
    )
    needed = max(p.needed for p in phases)
    fits = ", ".join(f"{size} GB {'yes' if needed <= size else 'no'}" for size in DEVICES)
    batches = pd.DataFrame(largest_batches(config, settings, step))
    return (
        f"{table.to_string(index=False)}\n\n"
        f"device = {WASTE} x peak + {RUNTIME:g} GB; weights as held while training; answers taken "
        f"to be as long as max_length {step.length} allows\n"
        f"fits: {fits}\n\n"
        f"largest per_device_train_batch_size of phase describe (0: does not fit):\n"
        f"{batches.to_string(index=False)}"
    )
