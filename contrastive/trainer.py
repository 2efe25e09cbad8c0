"""Phase align: the training loop, on accelerate."""

import json
import math
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from peft import PeftModel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from transformers import BatchEncoding, PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from contrastive.align_model import AlignModel
from contrastive.batches import Batch, TargetBatches
from contrastive.checkpoints import Checkpoints, cut_history
from contrastive.configuration import AlignConfig
from contrastive.gradient_cache import backward_in_chunks, split_rows
from contrastive.objective import PROMPT_LOSSES, Truth, align_losses
from contrastive.prompt_tokens import fit_prompts, read_prompts
from contrastive.ranks import rank_and_size
from data.errors import InputError
from vlm.adapters import ALIGN, bare
from vlm.lora import merge_tower
from vlm.wells import WellBank

Wells = dict[str, torch.Tensor]


def align(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    bank: WellBank,
    prompts: pd.DataFrame,
    shifts: np.ndarray,
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
    shifts : (n_wells, K) float32 array
        Measured shifts of the fact slots (`captions.shifts`), in the order of the bank; NaN
        where not measured.
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
        The model's state, gathered from all processes; the first process has it for sure.

    Raises
    ------
    InputError
        When a reagent has no prompt or one is too long even without optional fields; when the loss
        is not finite (the last checkpoint is kept).
    """
    trained = AlignModel(model, config.weights)
    train_tower_and_heads(model, config.weights)
    optimizer = _optimizer(_parameter_groups(trained, config), config.align_optimizer)
    schedule = get_cosine_schedule_with_warmup(
        optimizer, config.align_warmup_steps, config.align_steps
    )
    if accelerator.state.deepspeed_plugin is not None:  # it sees no data loader to take this from
        sizes = accelerator.state.deepspeed_plugin.deepspeed_config
        sizes["train_micro_batch_size_per_gpu"] = config.wells
        if config.align_chunk_wells is not None:
            raise InputError("align_chunk_wells: DeepSpeed takes a batch as a whole; use DDP")
        if config.align_prompt_every > 1 and config.weights.keys() & PROMPT_LOSSES:
            raise InputError(  # DeepSpeed 0.19.8, which says nothing
                f"align_prompt_every is {config.align_prompt_every}: in steps without prompts "
                "DeepSpeed repeats the gradients of the last one with prompts; set it to 1"
            )
    trained, optimizer = accelerator.prepare(trained, optimizer)
    checkpoints = Checkpoints(accelerator, schedule, out / "align_checkpoints")
    learnt = torch.nn.ParameterList(p for p in trained.parameters() if p.requires_grad)
    average = None
    if config.align_ema_decay:
        decay = get_ema_multi_avg_fn(config.align_ema_decay)
        average = AveragedModel(learnt, multi_avg_fn=decay)
        accelerator.register_for_checkpointing(average)

    rank, size = rank_and_size()
    device = accelerator.device
    batches = TargetBatches(
        bank.wells,
        config.align_label_column,
        config.align_num_targets * size,
        config.align_num_unlabelled * size,
        seed,
        config.align_reagents_per_target,
        config.align_num_same_plate * size,
        size,
    )
    if batches.num_targets < config.align_num_targets * size:
        accelerator.print(
            f"notice: {batches.num_targets} targets a batch, for {config.align_num_targets} a "
            f"process: there are {len(batches.names)}, for {size} process(es)"
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
        batch = batches.share(batches.draw(step), rank)
        told = batch.reagents[: config.align_reagents_per_target * config.align_prompt_targets]
        to_record = step % config.align_prompt_every == 0
        tokens = None
        if to_record and config.weights.keys() & PROMPT_LOSSES:
            drop = np.random.default_rng([seed, step, rank, 1])
            tokens = read_prompts(prompts, told, tokenizer, config.align_field_dropout, drop)
        optimizer.zero_grad()
        losses = backward_in_chunks(
            trained,
            partial(_read_chunks, bank, batch, tokens, config, [seed, step, rank], device),
            _count_chunks(batch, config),
            partial(
                align_losses,
                truth=_truth(batches, batch, shifts, device),
                weights=config.weights,
                temperature=config.align_temperature,
            ),
            accelerator,
        )
        if not torch.isfinite(losses["loss"]):
            raise InputError(
                f"phase align: the loss is {losses['loss'].item()} at step {step}: lower "
                "align_learning_rate; the last checkpoint is kept"
            )
        accelerator.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update_parameters(learnt)
        if to_record:
            means = {k: accelerator.reduce(v.detach(), "mean").item() for k, v in losses.items()}
            accelerator.log(means, step=step)
            if accelerator.is_main_process:
                record = {"step": step, **{k: round(v, 5) for k, v in means.items()}}
                bar.set_postfix({k: f"{v:.2f}" for k, v in means.items()})
                with history.open("a") as file:
                    file.write(json.dumps(record) + "\n")
        if (step + 1) % config.align_save_steps == 0 or step + 1 == config.align_steps:
            checkpoints.save(step + 1)
    if average is not None:
        with torch.no_grad():
            for parameter, mean in zip(learnt, average.module.parameters(), strict=True):
                parameter.copy_(mean)
    model.eval()
    merge_tower(model, ALIGN)
    state = accelerator.get_state_dict(trained) or {}  # ZeRO-3 gives None beside the first process
    inner = "vlm."
    return {name[len(inner) :]: value for name, value in state.items() if name.startswith(inner)}


def train_tower_and_heads(model: PeftModel, losses: Collection[str]) -> None:
    """Let the tower (without its backbone) and the projection heads be trained beside LoRA.

    What no loss reaches is frozen: DeepSpeed would let it decay, and FSDP2 does not load the
    optimizer of a parameter that never had a gradient.

    Parameters
    ----------
    model : PeftModel
    losses : collection of str
        Which losses have a weight (`objective.LOSSES`).
    """
    vlm = bare(model)
    tower = vlm.model.vision_tower
    reads_prompts = any(name in losses for name in PROMPT_LOSSES)
    vlm.well_projection.requires_grad_(set(losses) != {"shift"})
    vlm.text_projection.requires_grad_(reads_prompts)
    if not reads_prompts or vlm.text_encoder is not None:
        vlm.model.language_model.requires_grad_(False)
    for name, parameter in tower.named_parameters():
        through_lora = ".base_layer." in name  # LoRA learns in its place
        in_backbone = name.startswith("backbone.")
        learns = "lora_" in name if in_backbone else "shift" in losses and not through_lora
        parameter.requires_grad_(learns)
    tower.linear_maps.requires_grad_(True)  # the change, by itself
    tower.channel_mlp.requires_grad_(False)  # only in tokens, as are codes
    for code in tower.codes():
        code.requires_grad_(False)


def _read_chunks(
    bank: WellBank,
    batch: Batch,
    tokens: BatchEncoding | None,
    config: AlignConfig,
    seed: list[int],
    device: torch.device,
) -> Iterator[tuple[Wells, Wells | None]]:
    """Read a batch chunk by chunk, with the same sites of each well at every reading."""
    generator = np.random.default_rng(seed)
    count = _count_chunks(batch, config)
    prompts = 0 if tokens is None else len(tokens["input_ids"])
    for rows, told in zip(
        split_rows(len(batch.rows), count), split_rows(prompts, count), strict=True
    ):
        wells = bank.batch(batch.rows[rows], generator)
        yield (
            {name: value.to(device) for name, value in wells.items()},
            None
            if tokens is None
            else {name: value[told].to(device) for name, value in tokens.items()},
        )


def _count_chunks(batch: Batch, config: AlignConfig) -> int:
    return math.ceil(len(batch.rows) / (config.align_chunk_wells or len(batch.rows)))


def _truth(batches: TargetBatches, batch: Batch, shifts: np.ndarray, device: torch.device) -> Truth:
    reagents = batches.reagent_of[batch.rows]

    def on_device(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(device)

    return Truth(
        labels=on_device(batches.labels[reagents]),
        reagents=on_device(reagents),
        plates=on_device(batches.plate_of[batch.rows]),
        shifts=on_device(shifts[batch.rows]),
        reagents_per_label=batches.reagents_per_target,
    )


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
