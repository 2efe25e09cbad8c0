"""Phase describe: instruction tuning with TRL on the tokens of a frozen tower."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from peft import PeftModel
from trl import SFTConfig, SFTTrainer

from data.errors import InputError
from data.files import atomic_path
from vlm.adapters import bare
from vlm.checkpoints import last_checkpoint
from vlm.lora import Vlm
from vlm.processing import CellPaintingProcessor
from vlm.readouts import hold_against_controls, hold_against_replicates
from vlm.wells import WellBank

IGNORED = -100  # a label without a loss
KEY = ["Metadata_Plate", "Metadata_Well"]


def train_describe(
    model: PeftModel,
    processor: CellPaintingProcessor,
    tokens: torch.Tensor,
    dialogues: pd.DataFrame,
    args: SFTConfig,
) -> dict[str, torch.Tensor]:
    """Train the `describe` adapter (LoRA and projector), in place.

    The tower is frozen: its tokens were computed before, and a step costs what its text costs.
    A run that was interrupted goes on from the last whole checkpoint in `args.output_dir`; beside
    that folder, `describe_history.jsonl` gets what the Trainer logged.

    Parameters
    ----------
    model : PeftModel
        With the `describe` adapter active.
    processor : CellPaintingProcessor
    tokens : (n_wells, T, D) float Tensor
        The tower's tokens of training wells, and of drawn ones.
    dialogues : DataFrame
        well (row of `tokens`), question, answer.
    args : SFTConfig
        `max_length` is a limit that is checked, nothing is cut.

    Returns
    -------
    dict of Tensor
        The model's state, gathered from all processes; the first process has it for sure.

    Raises
    ------
    InputError
        When a dialogue is longer than `args.max_length`; when the loss is not finite (the last
        checkpoint is kept).
    """
    for name, parameter in model.named_parameters():
        if "vision_tower" in name or "_projection" in name:
            parameter.requires_grad_(False)
    examples = encode_dialogues(dialogues, processor, args.max_length)
    args.max_length = None  # checked above; TRL would cut
    args.remove_unused_columns = False
    args.dataset_kwargs = {"skip_prepare_dataset": True}
    trainer = DescribeTrainer(
        model=model,
        args=args,
        train_dataset=examples,
        processing_class=processor.tokenizer,
        data_collator=WellCollator(tokens, processor.tokenizer.pad_token_id),
    )
    last = last_checkpoint(Path(args.output_dir), args.world_size)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    if trainer.is_world_process_zero():
        records = [json.dumps(record) + "\n" for record in trainer.state.log_history]
        with atomic_path(Path(args.output_dir).parent / "describe_history.jsonl") as path:
            path.write_text("".join(records))
    model.eval()
    # ZeRO-3 gives None beside the first process.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}
    return {key.replace("_orig_mod.", ""): value for key, value in state.items()}  # torch.compile's


class DescribeTrainer(SFTTrainer):
    """SFTTrainer with the model's own loss, which scores answer tokens only.

    TRL's fused head scores every position on machines without Triton: on a CPU that doubles a
    step.
    """

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the mean loss over the answers' tokens."""
        with self.accelerator.autocast():  # prepared models do so themselves, but FSDP2's
            outputs = model(**inputs, num_items_in_batch=num_items_in_batch, use_cache=False)
        loss = outputs.loss
        if not torch.isfinite(loss):  # the Trainer would count it as 0 and go on
            raise InputError(
                f"phase describe: the loss is {loss.item()} at step {self.state.global_step}: "
                "lower learning_rate; the last checkpoint is kept"
            )
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss


@dataclass
class WellCollator:
    """Pad dialogues on the right and put their wells' tokens beside them.

    Attributes
    ----------
    tokens : (n_wells, T, D) float Tensor
    pad_token_id : int
    """

    tokens: torch.Tensor
    pad_token_id: int

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `attention_mask`, `labels` (B, L) and `well_tokens` (B, T, D)."""
        length = max(len(example["input_ids"]) for example in examples)

        def pad(name: str, value: int) -> torch.Tensor:
            rows = [example[name] + [value] * (length - len(example[name])) for example in examples]
            return torch.tensor(rows)

        input_ids = pad("input_ids", self.pad_token_id)
        lengths = torch.tensor([len(example["input_ids"]) for example in examples])
        return {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(length) < lengths[:, None]).long(),
            "labels": pad("labels", IGNORED),
            "well_tokens": self.tokens[[example["well"] for example in examples]],
        }


def rows_of_wells(dialogues: pd.DataFrame, wells: pd.DataFrame) -> pd.DataFrame:
    """Give each dialogue the row of its well, as `train_describe` wants it.

    Parameters
    ----------
    dialogues : DataFrame
        Metadata_Plate, Metadata_Well, question, answer.
    wells : DataFrame
        Metadata_Plate, Metadata_Well.

    Returns
    -------
    DataFrame
        well, question, answer.

    Raises
    ------
    InputError
        When a dialogue speaks of a well that is not given.
    """
    known = pd.MultiIndex.from_frame(wells[KEY])
    rows = known.get_indexer(pd.MultiIndex.from_frame(dialogues[KEY]))
    if (rows < 0).any():
        number = int(np.argmax(rows < 0))
        plate, well = dialogues[KEY].iloc[number]
        raise InputError(f"dialogues row {number}: well {well} of plate {plate} is not given")
    return dialogues[["question", "answer"]].assign(well=rows)


def encode_dialogues(
    dialogues: pd.DataFrame, processor: CellPaintingProcessor, max_length: int | None
) -> Dataset:
    """Tokenize dialogues; only the answer and its end token are labels.

    Parameters
    ----------
    dialogues : DataFrame
        well (a row of the wells' tokens), question, answer.
    processor : CellPaintingProcessor
    max_length : int, optional
        In tokens, with the well's.

    Returns
    -------
    Dataset
        `input_ids`, `labels` (lists of int), `well` (int) and `length` (int).

    Raises
    ------
    InputError
        When a dialogue is too long.
    """
    tokenizer = processor.tokenizer
    end = processor.end_of_answer
    examples = []
    for number, dialogue in enumerate(dialogues.to_dict("records")):
        asked = processor(text=processor.ask(dialogue["question"]))["input_ids"][0].tolist()
        answer = tokenizer(dialogue["answer"] + end, add_special_tokens=False)["input_ids"]
        length = len(asked) + len(answer)
        if max_length is not None and length > max_length:
            raise InputError(
                f"dialogues row {number} ({dialogue['question']!r}): {length} tokens, more than "
                f"max_length = {max_length}"
            )
        examples.append(
            {
                "input_ids": asked + answer,
                "labels": [IGNORED] * len(asked) + answer,
                "well": dialogue["well"],
                "length": length,
            }
        )
    return Dataset.from_list(examples)


@torch.no_grad()
def well_tokens(model: Vlm, bank: WellBank) -> torch.Tensor:
    """The tower's tokens of every well in a bank: (n_wells, T, D) float32 on the CPU.

    Their statements are held against what the tower reads out of the controls of the plate, or of
    the replicates where the reference is the data set's median (`vlm.readouts`).
    """
    said = list(_tower_outputs(model, bank))
    tokens = torch.cat([one.last_hidden_state.cpu() for one in said])
    if bank.controls is None:
        return tokens
    held = hold_readouts(model, bank, torch.cat([one.readout.cpu() for one in said]))
    return bare(model).model.vision_tower.with_readout(tokens, held)


def hold_readouts(model: Vlm, bank: WellBank, readouts: torch.Tensor) -> torch.Tensor:
    """Hold the readouts (n_wells, K) of a bank against those of its controls (`vlm.readouts`)."""
    controls = bank.controls
    assert controls is not None
    reference = torch.from_numpy(well_readouts(model, controls))
    if (controls.wells["Metadata_control_type"] == "negcon").all():
        plate_of, control_plate_of = map(torch.from_numpy, (bank.plate_of, controls.plate_of))
        return hold_against_controls(readouts, plate_of, reference, control_plate_of)
    treatment_of, _ = pd.factorize(controls.wells["Metadata_broad_sample"])
    return hold_against_replicates(readouts, reference, torch.from_numpy(treatment_of))


@torch.no_grad()
def well_readouts(model: Vlm, bank: WellBank) -> np.ndarray:
    """What the tower reads out of every well in a bank: (n_wells, K) float32, asinh(shift / 2)."""
    return torch.cat([said.readout.cpu() for said in _tower_outputs(model, bank)]).numpy()


def _tower_outputs(model: Vlm, bank: WellBank) -> Iterator[Any]:
    """What the tower says of a bank's wells, batch by batch (`vlm.vision_tower.WellTokens`)."""
    tower = bare(model).model.vision_tower.eval()
    device = next(tower.parameters()).device
    for batch in bank.batches():
        yield tower(**{name: value.to(device) for name, value in batch.items()})


@torch.no_grad()
def well_embeddings(model: Vlm, bank: WellBank) -> np.ndarray:
    """Unit embeddings of every well in a bank: (n_wells, projection_dim) float32."""
    vlm = bare(model)
    device = next(vlm.parameters()).device
    vlm.model.vision_tower.eval()
    parts = [
        vlm.embed_wells(**{name: value.to(device) for name, value in batch.items()}).cpu()
        for batch in bank.batches()
    ]
    return torch.cat(parts).numpy()


def backbone_features(model: Vlm, bank: WellBank) -> np.ndarray:
    """Frozen backbone features of every well, untouched by training: (n_wells, C * f) float32.

    Each site's features, all channels together, are scaled to length one and averaged; 0 of a
    channel that was not imaged. Statistics of cells are none of the backbone's.
    """
    cells = bare(model).model.vision_tower.cell_statistics
    features = bank.site_features[..., : bank.site_features.shape[-1] - cells]  # (N, C, f)
    flat = np.nan_to_num(features.reshape(len(features), -1))
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(1e-9)
    return np.stack([unit[sites].mean(axis=0) for sites in bank.sites_of])
