"""What train_lora.py can be told about its data, its model and its running."""

from dataclasses import dataclass, field
from importlib.util import find_spec

from trl import SFTConfig

from data.errors import InputError
from vlm.pretrained import PACKAGED_BACKBONE, PACKAGED_LANGUAGE_MODEL, PACKAGED_TEXT_ENCODER


@dataclass
class RunningConfig(SFTConfig):
    """TRL's settings of phase describe; seed, precision and tracking are both phases'."""

    plan: bool = field(
        default=False, metadata={"help": "only print parameters, memory and tokens a step"}
    )
    report_to: None | str | list[str] = field(  # noqa: RUF036  # the order that TRL parses
        default=None,
        metadata={"help": "trackers of both phases; by default tensorboard where it is installed"},
    )

    def __post_init__(self) -> None:
        if self.report_to is None:
            self.report_to = "tensorboard" if find_spec("tensorboard") else "none"
        if self.plan:
            self.use_cpu = True  # without a GPU bf16 is refused, which only training has to be
        super().__post_init__()


@dataclass
class TrainConfig:
    """What to train, on what, and where it goes."""

    data: str = field(metadata={"help": "prepared store with captions"})
    out: str = field(metadata={"help": "run folder; the model goes to OUT/model"})
    phase: str = field(default="both", metadata={"help": "align, describe or both"})
    train_query: str = field(
        default="Metadata_split == 'train'",
        metadata={"help": "pandas query on wells: those that training sees, in both phases"},
    )
    language_model: str = field(
        default=PACKAGED_LANGUAGE_MODEL,
        metadata={"help": "a language model or a VLM: packaged:NAME, a folder or a hub id"},
    )
    backbone: str = field(
        default=PACKAGED_BACKBONE,
        metadata={
            "help": "base (the VLM's own vision tower), packaged:NAME, a timm model, a folder or "
            "a hub id"
        },
    )
    backbone_layers: list[int] | None = field(
        default=None, metadata={"help": "its feature maps; three of them by default"}
    )
    text_encoder: str | None = field(
        default=None,
        metadata={
            "help": "what reads prompts in place of the language model, itself frozen: "
            f"{PACKAGED_TEXT_ENCODER}, a folder or a hub id"
        },
    )
    stem: str = field(
        default="shared",
        metadata={"help": "shared: it sees every channel by itself; inflated: all together"},
    )
    num_text_layers: int | None = field(
        default=None,
        metadata={"help": "keep only so many layers of the language model, most of them upper"},
    )
    image_size: int = field(default=128, metadata={"help": "side of the fields the backbone sees"})
    hidden_size: int = field(default=192, metadata={"help": "width of the tower's tokens"})
    lessons: int = field(
        default=4000, metadata={"help": "drawn readouts that phase describe learns to put in words"}
    )
    measured_dialogues: int | None = field(
        default=None,
        metadata={
            "help": "so many dialogues about training wells are learned from; all by default"
        },
    )
    num_latents: int = field(
        default=4, metadata={"help": "queries of the cross-channel transformer"}
    )
    feature_dropout: float = field(default=0.3, metadata={"help": "on backbone features"})
    resume: bool = field(
        default=True, metadata={"help": "go on where an interrupted run stopped; false begins anew"}
    )

    def __post_init__(self) -> None:
        if self.phase not in ("align", "describe", "both"):
            raise InputError(f"phase is {self.phase!r}; expected align, describe or both")
        if self.stem not in ("shared", "inflated"):
            raise InputError(f"stem is {self.stem!r}; expected shared or inflated")
