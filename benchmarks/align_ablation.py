"""What each part of phase align is worth, on targets that training never saw.

    python benchmarks/align_ablation.py --data runs/quickstart/prepared --out runs/align_ablation
    python benchmarks/align_ablation.py --data runs/bbbc021/prepared --out runs/bbbc021_ablation
    python benchmarks/align_ablation.py --out runs/align_ablation --table

A row changes one thing of ours, which has the defaults of phase align: the losses, the prompts'
fields, the reference, where the embedding is read from, the batches. Every row is trained on the
same wells with the same seeds (all rows of the first seed, then of the second, ...), and writes one
JSON a seed: given again, the command goes on. The table has, over held-out targets, normalised mAP
of a fixed pool ((AP - chance) / (1 - chance), `eval.matching`) as mean over seeds with a 95 %
bootstrap interval over labels, the paired difference from ours, and retrieval between wells and
prompts. Of BBBC021's store what is held out is compounds, fold by fold as in
scripts/run_bbbc021.py, and labels are mechanisms, with the accuracies of the nearest neighbour
beside them.

To be affordable on one core, prompts are by default read by a frozen sentence encoder, each once
(`text_encoder: packaged:all-minilm-l6-v2` trains the same), and a well's sites are averaged before
the tower. `--language_model packaged:smollm2-135m-instruct` takes neither short cut.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from align_table import RANKS, draw, markdown
from transformers import AutoProcessor, set_seed

from captions.effects import EFFECT_COLUMNS
from captions.mentions import TermIndex, held_out_terms
from captions.prompts import build_prompts
from contrastive.configuration import AlignConfig
from contrastive.trainer import align
from data.files import atomic_path
from data.splits import unseen_targets
from data.store import load_manifest, load_wells
from eval.average_precision import unit_rows
from eval.matching import gene_compound_matching, mechanism_matching, replicate_matching
from eval.reagents import consensus
from eval.run_metrics import classical_profiles
from vlm.adapters import ALIGN, bare, load_base
from vlm.instruct import well_embeddings
from vlm.lora import LoraSettings, Vlm, add_adapter, lora_config
from vlm.pretrained import PACKAGED_TEXT_ENCODER
from vlm.processing import CellPaintingProcessor, prompt_ids
from vlm.wells import WellBank, open_wells

# tests/ and scripts/ are no packages.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from _train_config import TrainConfig
from run_bbbc021 import MECHANISM, compound_folds
from tiny import save_tiny_language_model
from train_lora import write_base

KEY = ["Metadata_Plate", "Metadata_Well"]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    says : str
        What differs from ours.
    config : dict
        Fields of `AlignConfig`.
    preset, mask : str, tuple of str
        Of the prompts, see `build_prompts`.
    own_controls : bool
        Whether a plate's own controls are its zero, or the reference fitted to all training plates.
    source : str
        Where the embedding is read from: "change", "tokens" (mean of all), "channels" (mean).
    trained : bool
    """

    says: str
    config: dict = field(default_factory=dict)
    preset: str = "enriched"
    mask: tuple[str, ...] = ()
    own_controls: bool = True
    source: str = "change"
    trained: bool = True


def instead_of_clip(loss: str) -> dict:
    """Another loss between wells and prompts."""
    return {"align_clip_weight": 0.0, f"align_{loss}_weight": 1.0}


ONLY_CLIP = {
    "align_same_label_weight": 0.0,
    "align_shift_weight": 0.0,
    "align_prompt_every": 1,
    "align_num_unlabelled": 0,
}
ROWS = {
    "classical": Row("classical features, no model", trained=False),
    "untrained": Row("untrained model", trained=False),
    "ours": Row("ours"),
    "no_same_label": Row("without wells of one target", {"align_same_label_weight": 0.0}),
    "no_prompts": Row("without prompts", {"align_clip_weight": 0.0}),
    "no_effects": Row("without measured effects", {"align_shift_weight": 0.0}),
    "replicate": Row("with cross-well alignment", {"align_replicate_weight": 1.0}),
    "only_replicate": Row(
        "cross-well alignment in place of wells of one target",
        {"align_replicate_weight": 1.0, "align_same_label_weight": 0.0},
    ),
    "three_reagents": Row("three reagents a target", {"align_reagents_per_target": 3}),
    "soft_label": Row("soft labels in place of CLIP", instead_of_clip("soft_label")),
    "cwcl": Row("CWCL in place of CLIP", instead_of_clip("cwcl")),
    "siglip": Row("SigLIP in place of CLIP", instead_of_clip("siglip")),
    "plain_clip": Row("plain CLIP, plain prompts, nothing else", ONLY_CLIP, preset="plain"),
    "average": Row("running average of weights, 0.98", {"align_ema_decay": 0.98}),
    "fitted_reference": Row("one reference for all plates", own_controls=False),
    "tokens": Row("read from all tokens", source="tokens"),
    "channels": Row("read from the channel tokens", source="channels"),
    "identity": Row("prompts: names only", mask=("structure", "mechanism", "function", "pathway")),
    "no_function": Row("prompts without function", mask=("function",)),
    "no_mechanism": Row("prompts without mechanism", mask=("mechanism",)),
    "half_batch": Row("8 targets a batch", {"align_num_targets": 8}),
    "same_plate": Row(
        "8 targets, 16 same-plate negatives for 16 of the controls",
        {"align_num_targets": 8, "align_num_same_plate": 16, "align_num_unlabelled": 16},
    ),
}


def main() -> None:
    """Train and score what is missing, print the table."""
    options = parse()
    out = Path(options.out)
    if not options.table:
        torch.set_num_threads(options.threads)
        for seed in options.seeds:
            for name in options.rows:
                path = out / "rows" / f"{name}-{seed}.json"
                if not path.is_file():
                    found = score_row(name, seed, options)
                    path.parent.mkdir(exist_ok=True, parents=True)
                    with atomic_path(path) as temporary:
                        temporary.write_text(json.dumps({"row": name, "seed": seed, **found}))
    found = [json.loads(path.read_text()) for path in sorted((out / "rows").glob("*.json"))]
    says = {name: row.says for name, row in ROWS.items()}
    print(markdown(found, says))
    if options.figure:
        draw(found, says).savefig(options.figure)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="runs/quickstart/prepared", help="prepared store")
    parser.add_argument("--out", default="runs/align_ablation", help="gets a JSON a row and seed")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--language_model", help="what reads prompts, with LoRA")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print what there is")
    parser.add_argument("--figure", help="SVG to draw")
    return parser.parse_args()


def score_row(name: str, seed: int, options: argparse.Namespace) -> dict:
    """Train a row's model with one seed; score it on what was held out."""
    started = time.process_time()
    score = score_mechanisms if is_bbbc021(options.data) else score_targets
    found = score(name, seed, options)
    return {**found, "cpu_seconds": round(time.process_time() - started, 1)}


def is_bbbc021(data: str) -> bool:
    """Whether a store holds BBBC021's images."""
    return load_manifest(data).source == "bbbc021"


def score_targets(name: str, seed: int, options: argparse.Namespace) -> dict:
    """Gene-compound and replicate matching of the held-out targets' wells."""
    data = Path(options.data)
    if name == "classical":
        return score_wells(*classical_profiles(data), seed)
    trained = train_row(name, seed, options, "Metadata_split == 'train'", {})
    wells = trained.wells
    found = score_wells(wells, trained.embedded, seed)
    compound = wells["Metadata_modality"] == "compound"
    # The other targets are inactive in the simulation.
    both = set(wells[compound]["Metadata_target_list"]) & set(
        wells[~compound]["Metadata_target_list"]
    )
    rows = (wells["Metadata_split"] == "test") & wells["Metadata_target_list"].isin(both - {""})
    return found | {"retrieval": score_retrieval(trained, rows.to_numpy())}


def score_mechanisms(name: str, seed: int, options: argparse.Namespace) -> dict:
    """Mechanism matching on BBBC021's replicate 2, every compound held out once."""
    data, settings = Path(options.data), {"align_label_column": MECHANISM, "align_num_targets": 6}
    settings["align_prompt_targets"] = 6
    scores, retrieved = [], []
    for number, (held_out, asking) in enumerate(compound_folds(load_wells(data))):
        if name == "classical":
            meta, features = classical_profiles(data)
        else:
            seen = f"Metadata_replicate == 1 and Metadata_broad_sample not in {held_out}"
            trained = train_row(name, seed, options, seen, settings, f"-{number}")
            meta, features = trained.wells, trained.embedded
        second = (meta["Metadata_replicate"].astype(int) == 2).to_numpy()
        asks = meta["Metadata_broad_sample"].isin(asking).to_numpy()
        meta = meta[second].reset_index(drop=True)
        score = mechanism_matching(meta, features[second], asks[second], 100, seed)
        scores.append(score)
        if name != "classical":
            retrieved.append(score_retrieval(trained, second & asks))
    weights = [score.n_treatments for score in scores]
    labels = {
        f"{row.label} {number}": row.normalized_map
        for number, score in enumerate(scores)
        for row in score.labels.itertuples()
    }
    found: dict = {
        "mechanism": {"labels": labels},
        "nearest": {
            kind: float(np.average([getattr(score, kind) for score in scores], weights=weights))
            for kind in ("nsc_accuracy", "nsc_week_accuracy")
        },
    }
    if retrieved:
        found["retrieval"] = {
            way: {str(k): float(np.mean([one[way][str(k)] for one in retrieved])) for k in RANKS}
            for way in ("text_to_well", "well_to_text", "chance")
        } | {"candidates": "/".join(str(one["candidates"]) for one in retrieved)}
    return found


@dataclass
class Trained:
    """A row's model and what it makes of all wells of the store."""

    model: Vlm
    processor: CellPaintingProcessor
    prompts: pd.DataFrame
    wells: pd.DataFrame
    embedded: np.ndarray


def train_row(
    name: str, seed: int, options: argparse.Namespace, query: str, settings: dict, part: str = ""
) -> Trained:
    """Train a row's model on the wells of a query."""
    row, data, out = ROWS[name], Path(options.data), Path(options.out)
    base = out / f"base-{seed}{part}"
    if not base.is_dir():
        make_base(data, base, seed, options, query)
    model: Vlm = load_base(base)
    processor = AutoProcessor.from_pretrained(base)
    bank = open_wells(data, bare(model), processor)
    if not row.own_controls:
        bank = replace(bank, control_median=None)
    read_from(model, row.source)
    prompts = write_prompts(data, row)
    if options.language_model is None:
        model.text_encoder = KnownTexts(model, processor, prompts)
        bank = MeanBank(**vars(bank))
    if row.trained:
        work = out / f"work-{name}-{seed}{part}"
        config = AlignConfig(
            align_steps=options.steps, align_save_steps=options.steps, **(settings | row.config)
        )
        training = bank.query(query)
        model = train(config, model, processor, training, prompts, data, work, seed)
    return Trained(model, processor, prompts, bank.wells, well_embeddings(model, bank))


@dataclass
class MeanBank(WellBank):
    """A bank that averages the sites of a batch: the embedding is linear in them."""

    def batch(self, rows, generator=None):
        """As `WellBank.batch`, with one site a well."""
        inputs = super().batch(rows, generator)
        sites = inputs.pop("channel_features")  # (B, S, C, F)
        even = torch.full(sites.shape[:2], 1 / sites.shape[1])
        weights = inputs.pop("site_weights", even)
        return inputs | {"channel_features": torch.einsum("bs,bscf->bcf", weights, sites)[:, None]}


class KnownTexts(torch.nn.Module):
    """A frozen text encoder that has read all prompts before."""

    def __init__(self, model: Vlm, processor: CellPaintingProcessor, prompts: pd.DataFrame):
        super().__init__()
        encoder, tokens = bare(model).text_encoder.eval(), processor.prompt_tokenizer
        self.read: dict[tuple[int, ...], torch.Tensor] = {}
        for text in set(prompts["prompt"]):
            ids = prompt_tokens(tokens, text)
            with torch.no_grad():
                hidden = encoder(**ids).last_hidden_state
            self.read[tuple(ids["input_ids"][0].tolist())] = hidden[0].mean(dim=0)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        """Give every token of a prompt the mean of all its tokens."""
        texts = [
            tuple(ids[mask.bool()].tolist())
            for ids, mask in zip(input_ids, attention_mask, strict=True)
        ]
        known = torch.stack([self.read[text] for text in texts])
        return SimpleNamespace(last_hidden_state=known[:, None].expand(-1, input_ids.shape[1], -1))


def make_base(data: Path, folder: Path, seed: int, options: argparse.Namespace, query: str) -> None:
    """Build the untrained model of configs/quickstart.yaml, or of configs/bbbc021.yaml."""
    language_model = options.language_model
    with tempfile.TemporaryDirectory() as scratch:
        # A text encoder reads: the language model takes no part, and may be tiny.
        config = TrainConfig(
            data=str(data),
            out=scratch,
            train_query=query,
            language_model=language_model or str(save_tiny_language_model(Path(scratch))),
            text_encoder=None if language_model else PACKAGED_TEXT_ENCODER,
            image_size=256 if is_bbbc021(options.data) else 128,
        )
        set_seed(seed)
        write_base(config, Accelerator(cpu=True), folder)


def read_from(model: Vlm, source: str) -> None:
    """Let the embedding be read from elsewhere than the change."""
    places = {
        "change": slice(0, 1),
        "tokens": slice(None),
        "channels": slice(-len(bare(model).config.vision_config.channels), None),
    }

    def reread(tower, inputs, seen):
        seen.pooler_output = seen.last_hidden_state[:, places[source]].mean(dim=1)
        return seen

    bare(model).model.vision_tower.register_forward_hook(reread)


def write_prompts(data: Path, row: Row) -> pd.DataFrame:
    """Write the store's prompts with a row's preset and fields, as build_captions.py does."""
    wells = load_wells(data)
    reagents, genes = (
        pd.read_parquet(data / "captions" / f"{name}.parquet") for name in ("reagents", "genes")
    )
    held_out = TermIndex(held_out_terms(unseen_targets(wells), reagents, genes))
    chosen = {"preset": row.preset, "mask": row.mask, "held_out": held_out}
    return build_prompts(wells, reagents, genes, **chosen).table


def train(
    config: AlignConfig,
    model: Vlm,
    processor: CellPaintingProcessor,
    training: WellBank,
    prompts: pd.DataFrame,
    data: Path,
    work: Path,
    seed: int,
) -> Vlm:
    """Train phase align."""
    shifts = pd.read_parquet(data / "captions" / "shifts.parquet")
    shifts = training.wells[KEY].merge(shifts, on=KEY, how="left")[list(EFFECT_COLUMNS)]
    set_seed(seed)
    model = add_adapter(model, ALIGN, lora_config(LoraSettings(), describe=False))
    if work.is_dir():  # an interrupted row is trained anew
        shutil.rmtree(work)
    align(
        model, processor.prompt_tokenizer, training, prompts, shifts.to_numpy(np.float32),
        config, work, seed, Accelerator(cpu=True),
    )  # fmt: skip
    shutil.rmtree(work)
    return model


def score_wells(meta: pd.DataFrame, features: np.ndarray, seed: int) -> dict:
    """Score gene-compound and replicate matching of the held-out targets' wells."""
    held_out = (meta["Metadata_split"] == "test") & (meta["Metadata_target_list"] != "")
    test = held_out.to_numpy()
    scores = {
        "gene_compound": gene_compound_matching(meta, features, null_size=100, seed=seed),
        "replicate": replicate_matching(meta[test], features[test], null_size=100, seed=seed),
    }
    return {
        task: {
            "normalized_map": score.normalized_map,
            "map": score.map,
            "chance": score.chance,
            "labels": score.labels.set_index("label")["normalized_map"].to_dict(),
        }
        for task, score in scores.items()
    }


def score_retrieval(trained: Trained, rows: np.ndarray) -> dict:
    """Recall between held-out reagents (the mean of their wells, a boolean mask) and their prompts.

    Reagents with one text (two guides of a gene) are one candidate, so that nothing is found
    twice.
    """
    prompts = trained.prompts[["Metadata_broad_sample", "prompt"]]
    meta = trained.wells[rows].merge(prompts)
    pool, unit = consensus(meta, trained.embedded[rows], ["prompt"], how="mean")
    with torch.no_grad():
        ids = [prompt_tokens(trained.processor.prompt_tokenizer, text) for text in pool["prompt"]]
        vlm = bare(trained.model)
        told = np.concatenate([vlm.embed_prompts(**one).numpy() for one in ids])
    cosine = unit_rows(told.astype(float)) @ unit.T
    n = len(pool)
    found: dict = {"candidates": n}
    for way, similarity in (("text_to_well", cosine), ("well_to_text", cosine.T)):
        rank = (similarity > np.diag(similarity)[:, None]).sum(axis=1)
        found[way] = {str(k): float((rank < k).mean()) for k in RANKS}
    found["chance"] = {str(k): min(k / n, 1.0) for k in RANKS}
    return found


def prompt_tokens(tokenizer, text: str) -> dict[str, torch.Tensor]:
    """Token ids of one prompt, as phase align reads it."""
    ids = torch.tensor([prompt_ids(tokenizer, text)])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


if __name__ == "__main__":
    main()
