"""The most bytes that torch's allocator hands out in real steps of phase describe."""

import copy
import json
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from transformers.initialization import no_init_weights

from vlm import CellPaintingVlmConfig, CellPaintingVlmForConditionalGeneration
from vlm.lora import LoraSettings, add_adapter, lora_config, unquantized_modules
from vlm.plan import Step

STEPS = "two steps"


def measured_peak(
    config: CellPaintingVlmConfig, settings: LoraSettings, step: Step, answer: int, scratch: Path
) -> int:
    """Train two real steps on weights without a meaning, and see how much memory they took.

    This is what `torch.cuda.max_memory_allocated` says of a GPU. Resident memory also holds the
    libraries, their workspaces, and what the C allocator keeps: that depends on the machine.

    Parameters
    ----------
    config : CellPaintingVlmConfig
    settings : LoraSettings
        `base_precision` is float32 or bfloat16.
    step : Step
    answer : int
        Tokens of an answer.
    scratch : Path
        A folder for the profiler's trace.

    Returns
    -------
    int
        Bytes.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = add_adapter(
            _unlearnt(config, settings.base_precision),
            "measured",
            lora_config(settings, describe=True),
        ).train()
        if step.checkpointing:
            model.get_base_model().model.language_model.gradient_checkpointing_enable(
                {"use_reentrant": False}
            )
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, foreach=False)
        ids = torch.full((step.batch, step.length), 5)
        ids[:, : config.image_seq_length] = config.image_token_index
        labels = ids.clone()
        labels[:, :-answer] = -100
        tokens = torch.zeros(step.batch, config.image_seq_length, config.vision_config.hidden_size)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        with record_function(STEPS):
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16, enabled=step.bf16):
                    loss = model(**batch, well_tokens=tokens, use_cache=False).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                del loss
    profiler.export_chrome_trace(str(scratch / "trace.json"))
    events = json.loads((scratch / "trace.json").read_text())["traceEvents"]
    started = next(event["ts"] for event in events if event["name"] == STEPS)
    return max(
        event["args"]["Total Allocated"]
        for event in events
        if event["name"] == "[memory]" and event["ts"] >= started
    )


def _unlearnt(
    config: CellPaintingVlmConfig, precision: str
) -> CellPaintingVlmForConditionalGeneration:
    """Build a model as `vlm.adapters.load_base` loads one; to draw billions of weights is slow."""
    with no_init_weights():
        model = CellPaintingVlmForConditionalGeneration._from_config(
            copy.deepcopy(config), dtype=getattr(torch, precision)
        )
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    for name in unquantized_modules(model):
        if name != "lm_head":
            model.get_submodule(name).float()
    return model
