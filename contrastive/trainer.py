"""Phase align: the training loop, on accelerate."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from contrastive.align_model import AlignModel
from contrastive.batches import TargetBatches
from contrastive.checkpoints import Checkpoints, cut_history
from contrastive.losses import rank_and_size
from contrastive.prompt_tokens import fit_prompts, read_prompts
from data.errors import InputError
from vlm.adapters import ALIGN, bare
from vlm.lora import merge_tower
from vlm.wells import WellBank


@dataclass
class AlignConfig:
    """Phase align: what wells are contrasted with, and how the tower learns to see."""

    align_steps: int = field(default=600, metadata={"help": "optimizer steps"})
    align_loss: str = field(default="clip", metadata={"help": "clip or siglip"})
    align_learning_rate: float = field(default=1e-3, metadata={"help": "of tower and heads"})
    align_lora_learning_rate: float = field(default=5e-4, metadata={"help": "of LoRA"})
    align_weight_decay: float = field(default=0.05, metadata={"help": "AdamW's, not on LoRA"})
    align_warmup_steps: int = field(default=30, metadata={"help": "linear warm-up"})
    align_num_targets: int = field(
        default=16, metadata={"help": "targets a batch and process; two reagents, four wells each"}
    )
    align_num_unlabelled: int = field(
        default=32, metadata={"help": "wells without a target a batch and process"}
    )
    align_label_column: str = field(
        default="Metadata_target_list", metadata={"help": "what reagents of one kind share"}
    )
    align_same_label_weight: float = field(default=1.0, metadata={"help": "of wells of one target"})
    align_effect_weight: float = field(
        default=1.0, metadata={"help": "of predicting the measured effects of all fact slots"}
    )
    align_temperature: float = field(default=0.1, metadata={"help": "of the same-target loss"})
    align_prompt_every: int = field(
        default=5,
        metadata={"help": "steps between prompt losses: the language model costs most of a step"},
    )
    align_prompt_targets: int = field(
        default=8, metadata={"help": "targets of a batch whose reagents' prompts are read"}
    )
    align_max_prompt_tokens: int = field(
        default=96, metadata={"help": "of longer prompts whole fields are left out"}
    )
    align_field_dropout: float = field(
        default=0.0,
        metadata={
            "help": "chance of each field of a prompt to be left out, drawn at every reading"
        },
    )
    align_optimizer: str = field(
        default="adamw", metadata={"help": "adamw, or adamw_8bit (bitsandbytes)"}
    )
    align_sites_per_well: int = field(
        default=1,
        metadata={"help": "sites of a well in a step, where LoRA sits in the tower's backbone"},
    )
    align_controls_per_plate: int = field(
        default=4, metadata={"help": "likewise, control sites of each plate"}
    )
    align_save_steps: int = field(default=200, metadata={"help": "steps between checkpoints"})

    def __post_init__(self) -> None:
        if self.align_loss not in ("clip", "siglip"):
            raise InputError(f"align_loss is {self.align_loss!r}; expected clip or siglip")
        if not 0 <= self.align_field_dropout <= 1:
            raise InputError(f"align_field_dropout is {self.align_field_dropout}; expected 0 to 1")
        if self.align_optimizer not in ("adamw", "adamw_8bit"):
            raise InputError(
                f"align_optimizer is {self.align_optimizer!r}; expected adamw or adamw_8bit"
            )


def align(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    bank: WellBank,
    prompts: pd.DataFrame,
    effects: np.ndarray,
    config: AlignConfig,
    out: Path,
    seed: int,
    accelerator: Accelerator,
) -> dict[str, torch.Tensor]:
    """Train tower, projection heads and the `align` adapter, in place.

    Parameters
    ----------
    model : PeftModel
        With the `align` adapter active.
    tokenizer
        What reads prompts: `CellPaintingProcessor.prompt_tokenizer`.
    bank : WellBank
        Training wells only; a `PixelBank` where the adapter sits in the tower's backbone too.
    prompts : DataFrame
        From `captions.prompts.build_prompts`.
    effects : (n_wells, K) float32 array
        Measured effects of the fact slots, in the order of the bank; NaN where not measured.
    config : AlignConfig
    out : Path
        Gets `align_history.jsonl` and `align_checkpoints/`: a run that was interrupted goes on
        from there and ends as if it had not been. The last step is kept too: who calls removes
        them when the model is written.
    seed : int
    accelerator : Accelerator

    Returns
    -------
    dict of Tensor
        The model's state, gathered from all processes.

    Raises
    ------
    InputError
        When a reagent has no prompt or one is too long even without optional fields; when the loss
        is not finite (the last checkpoint is kept).
    """
    trained = AlignModel(
        model,
        config.align_loss,
        config.align_same_label_weight,
        config.align_effect_weight,
        config.align_temperature,
    )
    train_tower_and_heads(model)
    optimizer = _optimizer(_parameter_groups(trained, config), config.align_optimizer)
    schedule = get_cosine_schedule_with_warmup(
        optimizer, config.align_warmup_steps, config.align_steps
    )
    if accelerator.state.deepspeed_plugin is not None:  # it sees no data loader to take this from
        per_rank = 4 * config.align_num_targets + config.align_num_unlabelled
        sizes = accelerator.state.deepspeed_plugin.deepspeed_config
        sizes["train_micro_batch_size_per_gpu"] = per_rank
    trained, optimizer = accelerator.prepare(trained, optimizer)
    checkpoints = Checkpoints(accelerator, schedule, out / "align_checkpoints")

    rank, size = rank_and_size()
    batches = TargetBatches(
        bank.wells,
        config.align_label_column,
        config.align_num_targets * size,
        config.align_num_unlabelled * size,
        seed,
    )
    labelled = {reagent for reagents in batches.reagents_of.values() for reagent in reagents}
    limit = config.align_max_prompt_tokens
    prompts, left_out = fit_prompts(prompts, labelled, tokenizer, limit)
    if left_out:
        shown = ", ".join(left_out[:3]) + (", ..." if len(left_out) > 3 else "")
        accelerator.print(
            f"notice: prompt_field_left_out ({len(left_out)}): {shown}: longer than "
            f"align_max_prompt_tokens = {limit}"
        )

    first = checkpoints.resume()
    history = out / "align_history.jsonl"
    if accelerator.is_main_process:
        cut_history(history, first)
    trained.train()
    bar = tqdm(
        range(first, config.align_steps),
        initial=first,
        total=config.align_steps,
        desc="phase align",
        disable=None if accelerator.is_main_process else True,
    )
    for step in bar:
        rows, labels, reagents = _share(*batches.draw(step), rank, size)
        generator = np.random.default_rng([seed, step, rank])
        wells = {k: v.to(accelerator.device) for k, v in bank.batch(rows, generator).items()}
        with_prompts = step % config.align_prompt_every == 0
        prompted = reagents[: 2 * config.align_prompt_targets]
        losses = trained(
            wells,
            torch.from_numpy(labels).to(accelerator.device),
            torch.from_numpy(effects[rows]).to(accelerator.device),
            read_prompts(prompts, prompted, tokenizer, config.align_field_dropout, generator).to(
                accelerator.device
            )
            if with_prompts
            else None,
        )
        if not torch.isfinite(losses["loss"]):
            raise InputError(
                f"phase align: the loss is {losses['loss'].item()} at step {step}: lower "
                "align_learning_rate; the last checkpoint is kept"
            )
        optimizer.zero_grad()
        accelerator.backward(losses["loss"])
        accelerator.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if with_prompts:
            means = {k: accelerator.reduce(v.detach(), "mean").item() for k, v in losses.items()}
            accelerator.log(means, step=step)
            if accelerator.is_main_process:
                record = {"step": step, **{k: round(v, 5) for k, v in means.items()}}
                bar.set_postfix({k: f"{v:.2f}" for k, v in means.items()})
                with history.open("a") as file:
                    file.write(json.dumps(record) + "\n")
        if (step + 1) % config.align_save_steps == 0 or step + 1 == config.align_steps:
            checkpoints.save(step + 1)
    model.eval()
    merge_tower(model, ALIGN)
    state = accelerator.get_state_dict(trained)
    inner = "vlm."
    return {name[len(inner) :]: value for name, value in state.items() if name.startswith(inner)}


def train_tower_and_heads(model: PeftModel) -> None:
    """Let the tower (without its backbone) and the projection heads be trained beside LoRA."""
    vlm = bare(model)
    for module in (vlm.model.vision_tower, vlm.well_projection, vlm.text_projection):
        module.requires_grad_(True)
    for name, parameter in vlm.model.vision_tower.named_parameters():
        through_lora = ".base_layer." in name  # LoRA learns in its place
        frozen = name.startswith("backbone.") and "lora_" not in name
        parameter.requires_grad_(not (through_lora or frozen))


def _optimizer(groups: list[dict], name: str) -> torch.optim.Optimizer:
    if name == "adamw":
        return torch.optim.AdamW(groups)
    try:
        from bitsandbytes.optim import AdamW8bit  # an extra
    except ImportError:
        raise InputError(
            f"align_optimizer {name} needs bitsandbytes: pip install morphoclip[quantized]"
        ) from None
    return AdamW8bit(groups)


def _parameter_groups(model: AlignModel, config: AlignConfig) -> list[dict]:
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    lora = [p for name, p in named if "lora_" in name]
    rest = [p for name, p in named if "lora_" not in name]
    return [
        {"params": lora, "lr": config.align_lora_learning_rate, "weight_decay": 0.0},
        {
            "params": rest,
            "lr": config.align_learning_rate,
            "weight_decay": config.align_weight_decay,
        },
    ]


def _share(
    rows: np.ndarray, labels: np.ndarray, reagents: list[str], rank: int, size: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Take a rank's part of a batch that all ranks drew alike: whole targets, equal sizes."""
    if size == 1:
        return rows, labels, reagents
    targets = len(reagents) // 2 // size
    if targets == 0:
        raise InputError(
            f"phase align: {size} processes share {len(reagents) // 2} target(s) in a batch: the "
            "training wells have too few targets for so many processes"
        )
    extra = (len(rows) - 2 * len(reagents)) // size
    own = np.arange(4 * targets * rank, 4 * targets * (rank + 1))
    own_extra = 2 * len(reagents) + np.arange(extra * rank, extra * (rank + 1))
    keep = np.concatenate([own, own_extra])
    return rows[keep], labels[keep], reagents[2 * targets * rank : 2 * targets * (rank + 1)]
