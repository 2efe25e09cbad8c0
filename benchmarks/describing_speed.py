"""Descriptions a minute for a 384-well plate: as we write them, against a plain loop over wells.

    python benchmarks/describing_speed.py
    python benchmarks/describing_speed.py --model RUN --data PREPARED

"plain" is a call of generate for each well, which goes through the tower each time. Backbone
features are kept in both ways. Without a run the model is an untrained one of the quickstart's
size on random features, whose answers all have `--tokens` tokens; with one, answers are as long as
they are. Only some wells are described the plain way; both rates are of the same run. On a CPU,
seconds are those of the process on all its cores, so that other programs do not count.
"""

import argparse
import time

import numpy as np
import pandas as pd
import torch

from captions.questions import DESCRIBE
from data.channels import CHANNELS
from vlm.adapters import DESCRIBE as DESCRIBE_ADAPTER
from vlm.adapters import bare, load_model
from vlm.assembly import build_model
from vlm.describe import describe
from vlm.instruct import well_tokens
from vlm.lora import LoraSettings, Vlm, add_adapter, lora_config
from vlm.pretrained import PACKAGED_BACKBONE, PACKAGED_LANGUAGE_MODEL
from vlm.processing import CellPaintingProcessor
from vlm.wells import WellBank, open_wells

SITES = 4


def main() -> None:
    """Measure both ways, print the ratio."""
    options = parse()
    model, processor, bank = made_up(options) if options.model is None else opened(options)
    describe(model, processor, well_tokens(model, bank.select(np.arange(1))), DESCRIBE, 2)  # warm

    started = time.process_time()
    tokens = well_tokens(model, bank)
    tower = time.process_time() - started
    said = describe(model, processor, tokens, DESCRIBE, options.tokens, options.batch)
    ours = (time.process_time() - started) / len(bank)

    rows = np.linspace(0, len(bank) - 1, options.plain_wells).astype(int)
    started = time.process_time()
    for row in rows:
        alone = plain(model, processor, bank, row, options.tokens)
        assert alone == said[row].text or options.model is None, (alone, said[row].text)
    loop = (time.process_time() - started) / len(rows)

    lengths = [len(one.probabilities) for one in said]
    print(f"{len(bank)} wells, {np.mean(lengths):.1f} tokens an answer, tower {tower:.2f} s in all")
    print(f"{'':10}{'s a well':>10}{'a minute':>10}")
    for name, seconds in (("plain", loop), ("ours", ours)):
        print(f"{name:10}{seconds:10.3f}{60 / seconds:10.0f}")
    print(f"{loop / ours:.1f} times the throughput of the plain loop")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a run; an untrained model by default")
    parser.add_argument("--data", help="its prepared store")
    parser.add_argument("--wells", type=int, default=96, help="of the plate's 384")
    parser.add_argument("--plain_wells", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--num_text_layers", type=int, help="all by default")
    return parser.parse_args()


def made_up(options: argparse.Namespace) -> tuple[Vlm, CellPaintingProcessor, WellBank]:
    """Build an untrained model of the quickstart's size, and wells of random features."""
    torch.manual_seed(0)
    vlm, processor = build_model(
        PACKAGED_LANGUAGE_MODEL, PACKAGED_BACKBONE, num_text_layers=options.num_text_layers
    )
    model = add_adapter(vlm, DESCRIBE_ADAPTER, lora_config(LoraSettings(), describe=True)).eval()
    size = vlm.model.vision_tower.reference_center.shape[1]
    rng = np.random.default_rng(0)
    shape = (SITES * options.wells, len(CHANNELS), size)
    bank = WellBank(
        wells=pd.DataFrame({"Metadata_Well": range(options.wells)}),
        site_features=rng.normal(size=shape).astype(np.float32),
        sites_of=list(np.arange(SITES * options.wells).reshape(options.wells, SITES)),
        control_median=np.zeros((1, *shape[1:]), np.float32),
        plate_of=np.zeros(options.wells, int),
        channel_mask=np.ones((options.wells, len(CHANNELS)), bool),
    )
    return model, processor, bank


def opened(options: argparse.Namespace) -> tuple[Vlm, CellPaintingProcessor, WellBank]:
    """Open a run and wells of its store."""
    model, processor = load_model(options.model)
    bank = open_wells(options.data, bare(model), processor)
    return model, processor, bank.select(np.arange(min(options.wells, len(bank))))


@torch.inference_mode()
def plain(
    model: Vlm, processor: CellPaintingProcessor, bank: WellBank, row: int, tokens: int
) -> str:
    """Describe one well by itself, as one would with transformers alone."""
    prompt = processor(text=processor.ask(DESCRIBE))
    seen = well_tokens(model, bank.select(np.array([row])))
    out = model.generate(**prompt, well_tokens=seen, max_new_tokens=tokens, do_sample=False)
    new = out[0, prompt["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new, skip_special_tokens=True).strip()


if __name__ == "__main__":
    main()
