"""What `train_lora.py --plan` says of a phase at real sizes, and what a real step takes.

    python benchmarks/planned_memory.py llava-1.5-7b
    python benchmarks/planned_memory.py FOLDER --batch 2 --length 128
    python benchmarks/planned_memory.py llama-3.2-1b --phase align
    python benchmarks/planned_memory.py llama-3.2-1b --base_precision 4bit

A base's configuration is enough: its sizes are written below, or lie in FOLDER/config.json. The
weights mean nothing, but lie in memory as in training: language model in bfloat16, 8 or 4 bits,
the rest in float32, LoRA and its optimizer on top. Phase align has its default batch (96 wells of 4
sites, 16 prompts of 96 tokens). Measured on a CPU with torch's profiler (tests/measured.py), for
which the machine must have the memory that is planned; a base of few bits is made of one in
bfloat16, in memory and in a file.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from transformers import AutoConfig, LlamaConfig, LlavaConfig, PreTrainedConfig, Qwen2_5_VLConfig

from contrastive.configuration import AlignConfig
from contrastive.plan import plan_align
from data.channels import CHANNELS
from vlm.lora import LoraSettings
from vlm.model_config import model_config
from vlm.plan import GB, Step, plan_describe
from vlm.pretrained import BASE_BACKBONE, PACKAGED_BACKBONE

# The tests measure small models the same way; tests/ is no package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from measured import measured_align, measured_describe

SIZES: dict[str, PreTrainedConfig] = {
    "llama-3.2-1b": LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
    ),
    "smollm2-1.7b": LlamaConfig(
        vocab_size=49152, hidden_size=2048, intermediate_size=8192, num_hidden_layers=24,
        num_attention_heads=32, num_key_value_heads=32, tie_word_embeddings=True,
    ),
    "qwen2.5-vl-3b": Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008,
            "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24],
            },
        },
        vision_config={
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
            "out_hidden_size": 2048,
        },
        tie_word_embeddings=True,
    ),
    "llava-1.5-7b": LlavaConfig(text_config=LlamaConfig(vocab_size=32064)),  # both default sizes
}  # fmt: skip
READOUTS = 10


def main() -> None:
    """Plan, measure, print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help=f"{', '.join(SIZES)}, or a folder with a config.json")
    parser.add_argument("--phase", choices=("describe", "align"), default="describe")
    parser.add_argument(
        "--base_precision", choices=("bfloat16", "8bit", "4bit"), default="bfloat16"
    )
    parser.add_argument("--batch", type=int, default=1, help="dialogues, of phase describe")
    parser.add_argument("--length", type=int, default=256, help="tokens a dialogue, likewise")
    parser.add_argument("--plan_only", action="store_true")
    options = parser.parse_args()
    step = Step(options.batch, options.length, checkpointing=True, bf16=True)
    settings = LoraSettings(base_precision=options.base_precision)
    align = AlignConfig()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.base
        if folder in SIZES:
            SIZES[folder].save_pretrained(scratch)
            folder = scratch
        sees = hasattr(AutoConfig.from_pretrained(folder), "vision_config")
        config = model_config(
            folder,
            BASE_BACKBONE if sees else PACKAGED_BACKBONE,
            CHANNELS,
            readout_groups=list(range(READOUTS)),
        )
        started = time.process_time()
        if options.phase == "align":
            plan = plan_align(config, settings, align, step)
        else:
            plan = plan_describe(config, settings, step)
        print(f"planned in {time.process_time() - started:.0f} s of one core")
        print(f"{plan.parameters / 1e9:.2f} B parameters, {plan.trained / 1e6:.1f} M trained")
        print(f"planned peak {plan.peak / GB:.3f} GB, of it weights {plan.weights / GB:.3f} GB")
        if options.plan_only:
            return
        started = time.process_time()
        if options.phase == "align":
            measured = measured_align(config, settings, align, step, Path(scratch))
        else:
            answer = options.length - config.image_seq_length - 1
            measured = measured_describe(config, settings, step, answer, Path(scratch))
        seconds = time.process_time() - started
    print(
        f"measured peak {measured.peak / GB:.3f} GB, of it weights {measured.weights / GB:.3f} GB "
        f"(two steps, building included: {seconds:.0f} s)"
    )
    print(
        f"planned / measured = {plan.peak / measured.peak:.3f}, "
        f"of weights {plan.weights / measured.weights:.3f}"
    )


if __name__ == "__main__":
    main()
