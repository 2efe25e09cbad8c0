"""The settings of phase align."""

from dataclasses import dataclass, field

from contrastive.objective import LOSSES, PROMPT_LOSSES
from data.errors import InputError


@dataclass
class AlignConfig:
    """Phase align: what wells are contrasted with, and how the tower learns to see."""

    align_steps: int = field(default=600, metadata={"help": "optimizer steps"})
    align_learning_rate: float = field(default=1e-3, metadata={"help": "of tower and heads"})
    align_lora_learning_rate: float = field(default=5e-4, metadata={"help": "of LoRA"})
    align_weight_decay: float = field(default=0.05, metadata={"help": "AdamW's, not on LoRA"})
    align_warmup_steps: int = field(default=30, metadata={"help": "linear warm-up"})
    align_num_targets: int = field(default=16, metadata={"help": "targets a batch and process"})
    align_reagents_per_target: int = field(
        default=2,
        metadata={"help": "of different modalities where there are; two wells of each reagent"},
    )
    align_num_unlabelled: int = field(
        default=32, metadata={"help": "wells without a target a batch and process"}
    )
    align_num_same_plate: int = field(
        default=0,
        metadata={"help": "hard negatives: wells of other targets from the batch's plates"},
    )
    align_chunk_wells: int | None = field(
        default=None,
        metadata={"help": "wells encoded at once (gradient caching); by default the whole batch"},
    )
    align_label_column: str = field(
        default="Metadata_target_list", metadata={"help": "what reagents of one kind share"}
    )
    align_clip_weight: float = field(
        default=1.0, metadata={"help": "of wells against prompts, each of one well (CLIP)"}
    )
    align_siglip_weight: float = field(default=0.0, metadata={"help": "likewise, pair by pair"})
    align_cwcl_weight: float = field(
        default=0.0, metadata={"help": "as CLIP, but wells that look alike share their prompts"}
    )
    align_soft_label_weight: float = field(
        default=0.0, metadata={"help": "as SigLIP, but reagents of a target share their prompts"}
    )
    align_same_label_weight: float = field(
        default=1.0, metadata={"help": "of wells of one target, of whatever modality"}
    )
    align_replicate_weight: float = field(
        default=0.0, metadata={"help": "of wells of one reagent on different plates"}
    )
    align_shift_weight: float = field(
        default=1.0, metadata={"help": "of predicting the measured shifts of all fact slots"}
    )
    align_temperature: float = field(default=0.1, metadata={"help": "of the losses between wells"})
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
    align_ema_decay: float = field(
        default=0.0,
        metadata={"help": "above 0 the model is a running average of its weights, e.g. 0.99"},
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
        for name in LOSSES:
            if not getattr(self, f"align_{name}_weight") >= 0:
                value = getattr(self, f"align_{name}_weight")
                raise InputError(f"align_{name}_weight is {value}; expected 0 or more")
        if not self.weights:
            raise InputError(
                f"no loss has a weight: set one of align_*_weight for {', '.join(LOSSES)}"
            )
        at_least = {
            "align_num_targets": 1,
            "align_reagents_per_target": 1,
            "align_num_unlabelled": 0,
            "align_num_same_plate": 0,
            "align_chunk_wells": 1,
            "align_prompt_every": 1,
            "align_prompt_targets": 1,
        }
        for name, least in at_least.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise InputError(f"{name} is {value}; expected {least} or more")
        if self.align_prompt_every > 1 and self.weights.keys() <= set(PROMPT_LOSSES):
            raise InputError(
                f"align_prompt_every is {self.align_prompt_every}, and steps without prompts have "
                "no loss: set it to 1"
            )
        if not self.align_temperature > 0:
            raise InputError(f"align_temperature is {self.align_temperature}; expected above 0")
        if not 0 <= self.align_ema_decay < 1:
            raise InputError(f"align_ema_decay is {self.align_ema_decay}; expected 0 to below 1")
        if not 0 <= self.align_field_dropout <= 1:
            raise InputError(f"align_field_dropout is {self.align_field_dropout}; expected 0 to 1")
        if self.align_optimizer not in ("adamw", "adamw_8bit"):
            raise InputError(
                f"align_optimizer is {self.align_optimizer!r}; expected adamw or adamw_8bit"
            )

    @property
    def weights(self) -> dict[str, float]:
        """Losses that count, by name."""
        found = {name: getattr(self, f"align_{name}_weight") for name in LOSSES}
        return {name: weight for name, weight in found.items() if weight}

    @property
    def wells(self) -> int:
        """Wells of a full batch, a process."""
        pulled = 2 * self.align_reagents_per_target * self.align_num_targets
        return pulled + self.align_num_unlabelled + self.align_num_same_plate
