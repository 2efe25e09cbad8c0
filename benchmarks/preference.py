"""What a preference step adds to phase describe: DPO against descriptions with wrong facts.

python benchmarks/preference.py --model runs/quickstart --data runs/quickstart/prepared

Goes on training a run's `describe` adapter with TRL's DPOTrainer. Preferred are the descriptions of
newly drawn lessons (`captions.lessons`), rejected the same ones with one or two facts made wrong
(`captions.corruption`); the reference is the adapter as it was. Beside it stand the model as it
was, as many more steps of phase describe on the same lessons, and what the tower reads, put into
words by rule. Scores are of active wells of held-out targets and of all control wells, seeds
together; 95 % intervals are over perturbations, those of differences with the same draws for both.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import NDArray
from peft import PeftModel
from trl import DPOConfig, DPOTrainer, SFTConfig, TrlParser
from trl.trainer.dpo_trainer import DataCollatorForPreference

from captions.corruption import corrupt
from captions.descriptions import describe_facts, parse_description
from captions.facts import FACT_SLOTS, MAX_FACTS, Claim, facts_by_well, read_facts
from captions.lessons import TOLD_EFFECT
from captions.questions import DESCRIBE as QUESTION
from captions.questions import NOTHING_IMAGED
from captions.slots import Slot, needed_stains
from data.store import load_manifest
from eval.claims import resample_reagents, score_claims, score_intervals
from vlm.adapters import DESCRIBE, bare, load_model, merge_adapter, use_adapter
from vlm.describe import describe
from vlm.instruct import KEY, hold_readouts, train_describe, well_readouts, well_tokens
from vlm.lora import Vlm
from vlm.processing import CellPaintingProcessor
from vlm.wells import WellBank, open_wells

# scripts/ is no package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from _train_config import TrainConfig
from _train_data import captions_file, describe_examples

AS_IT_WAS = "as it was"


@dataclass
class PreferenceConfig:
    """What to go on training, how long, how often."""

    model: str = field(metadata={"help": "run with both phases"})
    data: str = field(metadata={"help": "its prepared store"})
    seeds: list[int] = field(
        default_factory=lambda: [1, 2],
        metadata={"help": "of lessons, corruption and training; not the run's own"},
    )
    steps: int = field(default=40, metadata={"help": "of either training"})
    batch: int = field(default=4, metadata={"help": "lessons a step"})
    learning_rate: float = field(default=1e-4, metadata={"help": "of either training"})
    beta: float = field(default=0.1, metadata={"help": "DPO's hold on the reference"})


@dataclass
class Truth:
    """What was measured in the scored wells, row by row."""

    measured: list[set[Claim]]
    to_say: list[set[Claim]]
    reagents: NDArray[np.str_]
    is_control: NDArray[np.bool_]


@dataclass(kw_only=True)
class PairCollator(DataCollatorForPreference):
    """TRL's collator with the wells' tokens (n_wells, T, D) beside the texts."""

    tokens: torch.Tensor

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Add `well_tokens` (2 B, T, D): the right descriptions come first, then the wrong."""
        wells = [example["well"] for example in examples]
        return super().torch_call(examples) | {"well_tokens": self.tokens[wells + wells]}


def main() -> None:
    """Train, describe, score, print."""
    (config,) = TrlParser((PreferenceConfig,)).parse_args_and_config()
    model, processor = load_model(config.model)
    bank = open_wells(config.data, bare(model), processor)
    scored = scored_wells(bank)
    truth = read_truth(config.data, scored.wells)
    tokens = well_tokens(model, scored)
    answers = {name: [] for name in ("tower, by rule", AS_IT_WAS, "more SFT", "DPO")}
    by_rule, before = say_readouts(model, scored), say(model, processor, tokens)
    for seed in config.seeds:
        shown, lessons = draw(config, model, bank, seed)
        answers["tower, by rule"].append(by_rule)
        answers[AS_IT_WAS].append(before)
        for name, train in (("more SFT", train_sft), ("DPO", train_dpo)):
            trained = load_model(config.model)[0]
            use_adapter(trained, DESCRIBE)
            train(config, trained, processor, shown, lessons, seed)
            answers[name].append(say(trained, processor, tokens))
        print(f"{config.steps} steps of {config.batch} lessons, seeds to {seed}")
        print(score_table(answers, truth).to_markdown(floatfmt=".3f"))
        for other in (AS_IT_WAS, "more SFT"):
            print(f"DPO less {other}: {differences(answers['DPO'], answers[other], truth)}")


def scored_wells(bank: WellBank) -> WellBank:
    """Active wells of held-out targets, and all negative controls."""
    wells = bank.wells
    test = (wells["Metadata_split"] == "test") & (wells["Metadata_target_list"] != "")
    if "Metadata_simulated_active" in wells:
        test &= wells["Metadata_simulated_active"].astype(bool)
    return bank.select((test | (wells["Metadata_control_type"] == "negcon")).to_numpy())


def read_truth(data: str, wells: pd.DataFrame) -> Truth:
    """Look up the measured facts of some wells."""
    facts = facts_by_well(pd.read_parquet(captions_file(data, "facts")))
    own = [facts.get(key, []) for key in wells[KEY].itertuples(index=False, name=None)]
    return Truth(
        measured=[{fact.claim for fact in said} for said in own],
        to_say=[{fact.claim for fact in said[:MAX_FACTS]} for said in own],
        reagents=wells["Metadata_broad_sample"].to_numpy(str),
        is_control=(wells["Metadata_control_type"] == "negcon").to_numpy(),
    )


def say(model: Vlm, processor: CellPaintingProcessor, tokens: torch.Tensor) -> list[str]:
    """Describe wells by their tokens."""
    return [said.text for said in describe(model, processor, tokens, QUESTION)]


def say_readouts(model: Vlm, bank: WellBank) -> list[str]:
    """Describe wells by rule from what the tower reads, as the lessons do."""
    held = hold_readouts(model, bank, torch.from_numpy(well_readouts(model, bank)))
    effects = 2 * np.sinh(held.numpy())
    return [describe_facts(read_facts(own, TOLD_EFFECT)[:MAX_FACTS]) for own in effects]


def draw(
    config: PreferenceConfig, model: Vlm, bank: WellBank, seed: int
) -> tuple[torch.Tensor, pd.DataFrame]:
    """Draw lessons that describe, as phase describe does, as many as training takes.

    Returns
    -------
    tokens : (n_wells, T, D) float Tensor
    lessons : DataFrame
        well (row of `tokens`), question, answer.
    """
    needed = config.steps * config.batch
    settings = TrainConfig(data=config.data, out="", lessons=2 * needed + 20, measured_dialogues=0)
    train = bank.query(settings.train_query)
    tokens, lessons = describe_examples(settings, seed, model, train)
    return tokens, lessons[lessons["question"] == QUESTION].head(needed)


def train_sft(
    config: PreferenceConfig,
    model: PeftModel,
    processor: CellPaintingProcessor,
    tokens: torch.Tensor,
    lessons: pd.DataFrame,
    seed: int,
) -> None:
    """Go on with phase describe, in place."""
    with tempfile.TemporaryDirectory() as scratch:
        args = SFTConfig(**settings_of(config, scratch, seed))
        train_describe(model, processor, tokens, lessons, args)


def train_dpo(
    config: PreferenceConfig,
    model: PeftModel,
    processor: CellPaintingProcessor,
    tokens: torch.Tensor,
    lessons: pd.DataFrame,
    seed: int,
) -> None:
    """Prefer lessons' descriptions to corrupted ones, in place."""
    pad = processor.tokenizer.pad_token_id
    with tempfile.TemporaryDirectory() as scratch:
        DPOTrainer(
            model=model,
            ref_model=merge_adapter(config.model, DESCRIBE)[0],
            args=DPOConfig(
                **settings_of(config, scratch, seed), beta=config.beta, remove_unused_columns=False
            ),
            data_collator=PairCollator(pad_token_id=pad, tokens=tokens),
            train_dataset=pairs(processor, lessons, imaged_slots(config.data), seed),
            processing_class=processor.tokenizer,
        ).train()
    model.eval()


def settings_of(config: PreferenceConfig, scratch: str, seed: int) -> dict[str, Any]:
    """What both trainings have in common."""
    return {
        "output_dir": f"{scratch}/trainer",
        "max_steps": config.steps,
        "per_device_train_batch_size": config.batch,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": config.steps // 10,
        "max_length": None,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "seed": seed,
    }


def imaged_slots(data: str) -> list[Slot]:
    """What a false fact may be about: a stain that a store has no channel of is told at once."""
    channels = set(load_manifest(data).channels)
    return [slot for slot in FACT_SLOTS if channels.issuperset(needed_stains(slot))]


def pairs(
    processor: CellPaintingProcessor,
    lessons: pd.DataFrame,
    slots: Sequence[Slot],
    seed: int,
) -> Dataset:
    """Lessons as TRL's preference data: prompt, chosen, rejected (text), and well (row of tokens).

    The texts are phase describe's, token by token.
    """
    well = processor.image_token * processor.image_seq_length
    end = processor.end_of_answer
    return Dataset.from_list(
        [
            {
                "prompt": processor.ask(lesson["question"]).replace(processor.image_token, well),
                "chosen": lesson["answer"] + end,
                "rejected": corrupt(lesson["answer"], slots, (seed, number)) + end,
                "well": lesson["well"],
            }
            for number, lesson in enumerate(lessons.to_dict("records"))
        ]
    )


def score_table(answers: dict[str, list[list[str]]], truth: Truth) -> pd.DataFrame:
    """Score each way to describe; its seeds are wells of the same perturbations.

    Parameters
    ----------
    answers : dict
        Name to one list of descriptions a seed.
    truth : Truth
    """
    rows = {}
    for name, by_seed in answers.items():
        said, own = pooled(by_seed, truth)
        counts = count(said, own)
        test = np.flatnonzero(~own.is_control).tolist()
        claims = [[values[row] for row in test] for values in (said, own.measured, own.to_say)]
        scores = score_claims(*claims[:2], to_say=claims[2])
        reagents = own.reagents[test].tolist()
        intervals = score_intervals(*claims[:2], reagents, to_say=claims[2])
        false = counts[test, 0].mean(), *interval(ratios(counts[test], reagents)[0])
        rows[name] = {
            "precision": shown(scores["precision"], *intervals["precision"]),
            "recall": shown(scores["recall"], *intervals["recall"]),
            "direction": scores["direction_accuracy"],
            "false a well": shown(*false),
            "false a control well": counts[own.is_control, 0].mean(),
            NOTHING_IMAGED: np.mean([text == NOTHING_IMAGED for s in by_seed for text in s]),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def differences(one: list[list[str]], other: list[list[str]], truth: Truth) -> str:
    """What one way to describe has more of than another, on held-out wells."""
    drawn, plain = [], []
    for by_seed in (one, other):
        said, own = pooled(by_seed, truth)
        test = ~own.is_control
        counts = count(said, own)[test]
        plain.append(counts.sum(axis=0))
        drawn.append(ratios(counts, own.reagents[test].tolist()))
    parts = []
    for i, name, top, bottom in ((0, "false claims a well", 0, 3), (1, "recall", 1, 2)):
        more = plain[0][top] / plain[0][bottom] - plain[1][top] / plain[1][bottom]
        low, high = interval(drawn[0][i] - drawn[1][i])
        parts.append(f"{name} {more:+.3f} ({low:+.3f} to {high:+.3f})")
    return ", ".join(parts)


def pooled(by_seed: list[list[str]], truth: Truth) -> tuple[list[set[Claim]], Truth]:
    """Claims of all seeds in one list, and the truth as often."""
    times = len(by_seed)
    return [parse_description(text) for texts in by_seed for text in texts], Truth(
        truth.measured * times,
        truth.to_say * times,
        np.tile(truth.reagents, times),
        np.tile(truth.is_control, times),
    )


def count(said: list[set[Claim]], truth: Truth) -> NDArray[np.int64]:
    """Of each well: false claims, facts found, facts to say, 1."""
    rows = zip(said, truth.measured, truth.to_say, strict=True)
    return np.array([[len(s - m), len(s & t), len(t), 1] for s, m, t in rows])


def ratios(counts: NDArray[np.int64], reagents: list[str]) -> NDArray[np.float64]:
    """False claims a well and recall, (2, draws), resampled over perturbations."""
    drawn = resample_reagents(counts, reagents)
    return np.stack([drawn[:, 0] / drawn[:, 3], drawn[:, 1] / np.maximum(drawn[:, 2], 1)])


def interval(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """Give the middle 95 % of draws."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def shown(value: float, low: float, high: float) -> str:
    """Write a number with its interval."""
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
