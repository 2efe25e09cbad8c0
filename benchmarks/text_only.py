"""What can be answered without looking: phase describe once more, with the same tokens for all.

python benchmarks/text_only.py --run runs/quickstart --data runs/quickstart/prepared

Trains the `describe` adapter of a run's aligned model as its configuration says, on the same
dialogues and lessons, but every well shows the mean of the training wells: what such a model
answers, it knows from the text. Asks it the questions that the store holds on held-out wells, and
scores it beside the run's own model, which looks, and the guess that was right most often in
training. An answer is right when it makes the measured claims, or says as rightly that nothing
changed or was imaged.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from trl import TrlParser

from captions.asking import understand
from captions.descriptions import read_claims
from captions.facts import Claim
from contrastive.configuration import AlignConfig
from data.store import load_manifest, load_wells
from eval.claims import score_claims
from vlm.adapters import DESCRIBE, bare, load_model
from vlm.describe import describe
from vlm.instruct import KEY, rows_of_wells, train_describe, well_tokens
from vlm.lora import LoraSettings, Vlm, add_adapter, lora_config
from vlm.processing import CellPaintingProcessor
from vlm.wells import open_wells

# scripts/ is no package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from _answers import answer_wells
from _train_config import RunningConfig, TrainConfig
from _train_data import captions_file, describe_examples

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Train, ask, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="runs/quickstart", help="run with both phases")
    parser.add_argument("--data", default="runs/quickstart/prepared", help="its prepared store")
    parser.add_argument("--config", default=str(ROOT / "configs" / "quickstart.yaml"))
    options = parser.parse_args()
    asked = pd.read_parquet(captions_file(options.data, "dialogues")).merge(
        load_wells(options.data)[[*KEY, "Metadata_split"]]
    )
    train, test = (asked[asked["Metadata_split"] == split] for split in ("train", "test"))

    looking, processor = load_model(options.run)
    bank = open_wells(options.data, bare(looking), processor)
    tokens = well_tokens(looking, bank)
    test = rows_of_wells(test, bank.wells).assign(kind=test["kind"].to_numpy())
    seen = (bank.wells["Metadata_split"] == "train").to_numpy()
    nothing = tokens[torch.from_numpy(seen)].mean(dim=0)
    imaged = load_manifest(options.data).channels
    blind, blind_processor = train_blind(options, nothing)

    def directly(question: str, rows: np.ndarray) -> list[str]:
        return [said.text for said in describe(looking, processor, tokens[rows], question)]

    def read_out(question: str, rows: np.ndarray) -> list[str]:
        asked = [understand(question, imaged)] * len(rows)
        replies = answer_wells(looking, processor, tokens[rows], [imaged] * len(rows), asked)
        return [reply.text for reply in replies]

    def unseen(question: str, rows: np.ndarray) -> list[str]:
        shown = nothing.expand(len(rows), *nothing.shape)
        return [said.text for said in describe(blind, blind_processor, shown, question)]

    answers = {
        "looking, asked directly": ask(test, directly),
        "looking": ask(test, read_out),
        "text only": ask(test, unseen),
    }
    usual = train.groupby("question")["answer"].agg(lambda own: own.mode()[0])
    answers["most frequent answer"] = test["question"].map(usual).fillna("").tolist()

    true = [claims(answer) for answer in test["answer"]]
    is_question = (test["kind"] == "question").to_numpy()
    print(f"{is_question.sum()} questions and {(~is_question).sum()} descriptions, held-out wells")
    for name, own in answers.items():
        said = [claims(answer) for answer in own]
        right = np.array([one == other for one, other in zip(said, true, strict=True)])
        told = np.flatnonzero(~is_question).tolist()
        known = [{c for c in true[row] if isinstance(c, Claim)} for row in told]
        score = score_claims(
            [{c for c in said[row] if isinstance(c, Claim)} for row in told], known
        )
        print(
            f"{name:24} questions right {right[is_question].mean():.3f}   descriptions: "
            f"precision {score['precision']:.3f} recall {score['recall']:.3f}"
        )


def claims(answer: str) -> set:
    """What an answer claims; what it says when it claims nothing."""
    return {said.claim for said in read_claims(answer)} or {answer}


def train_blind(
    options: argparse.Namespace, nothing: torch.Tensor
) -> tuple[Vlm, CellPaintingProcessor]:
    """Train a new `describe` adapter that is shown `nothing` (T, D) of every well."""
    parser = TrlParser((TrainConfig, LoraSettings, AlignConfig, RunningConfig))
    with tempfile.TemporaryDirectory() as scratch:
        words = ["--config", options.config, "--data", options.data, "--out", scratch]
        config, lora, _, sft = parser.parse_args_and_config(words)
        model, processor = load_model(options.run)
        bank = open_wells(options.data, bare(model), processor).query(config.train_query)
        shown, dialogues = describe_examples(config, sft.seed, model, bank)
        model.delete_adapter(DESCRIBE)
        model = add_adapter(model, DESCRIBE, lora_config(lora, describe=True))
        sft.output_dir = str(Path(scratch) / "checkpoints")
        train_describe(model, processor, nothing.expand_as(shown), dialogues, sft)
    return model, processor


def ask(asked: pd.DataFrame, answer: Callable[[str, np.ndarray], list[str]]) -> list[str]:
    """Ask each question of its wells (rows); answers in the order of `asked`."""
    answers = pd.Series("", index=asked.index)
    for question, rows in asked.groupby("question"):
        answers[rows.index] = answer(str(question), rows["well"].to_numpy())
    return answers.tolist()


if __name__ == "__main__":
    main()
