"""Encoding a batch in chunks gives the gradients of the whole batch."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from test_align import prompts_of, settings, shifts_of
from tiny import tiny_adapter, tiny_bank, tiny_model

from contrastive.align_model import AlignModel
from contrastive.batches import TargetBatches
from contrastive.gradient_cache import backward_in_chunks, split_rows
from contrastive.objective import LOSSES, align_losses
from contrastive.prompt_tokens import fit_prompts, read_prompts
from contrastive.trainer import _read_chunks, _truth, train_tower_and_heads
from vlm.adapters import ALIGN
from vlm.wells import fit_reference

WEIGHTS = dict.fromkeys(LOSSES, 1.0)
CPU = torch.device("cpu")


@given(total=st.integers(0, 60), count=st.integers(1, 9))
def test_parts_make_up_the_rows_evenly(total, count):
    parts = split_rows(total, count)
    assert [i for part in parts for i in range(total)[part]] == list(range(total))
    sizes = [part.stop - part.start for part in parts]
    assert len(parts) == count
    assert max(sizes) - min(sizes) <= 1
    assert sizes[-1] == max(sizes)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_are_those_of_the_whole_batch(dropout):
    """Without dropout of one pass; with it, of the same chunks all held in memory at once."""
    bank = tiny_bank()
    model, processor = tiny_model()
    fit_reference(model, bank)
    torch.manual_seed(0)
    model = tiny_adapter(model, ALIGN, dropout=dropout)
    train_tower_and_heads(model, WEIGHTS)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    accelerator = Accelerator(cpu=True)
    trained = accelerator.prepare(AlignModel(model, WEIGHTS)).train()
    with torch.no_grad():  # LoRA's B begins at zero, and A would have no gradient
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    batches = TargetBatches(bank.wells, "Metadata_target_list", 4, 3, seed=0)
    batch = batches.draw(0)
    prompts, _ = fit_prompts(prompts_of(bank), batch.reagents, processor.tokenizer, 96)
    generator = np.random.default_rng(0)
    told = batch.reagents[:6]
    tokens = read_prompts(prompts, told, processor.tokenizer, 0.0, generator)
    truth = _truth(batches, batch, shifts_of(bank), CPU)

    def gradients(size: int | None, cached: bool) -> tuple[dict, dict[str, torch.Tensor]]:
        config = settings(align_chunk_wells=size)
        trained.zero_grad()
        torch.manual_seed(1)
        count = 1 if size is None else -(-len(batch.rows) // size)
        sizes = []

        def chunks():
            for chunk in _read_chunks(bank, batch, tokens, config, [0], CPU):
                sizes.append(len(chunk[0]["channel_mask"]))
                yield chunk

        def losses_of(encoded):
            return align_losses(encoded, truth, WEIGHTS, 0.1)

        if cached:
            losses = backward_in_chunks(trained, chunks, count, losses_of, accelerator)
            assert max(sizes) <= (size or len(batch.rows))
        else:
            parts = [trained(*chunk) for chunk in chunks()]
            names = {name: [part[name] for part in parts if name in part] for name in parts[-1]}
            joined = {k: torch.cat(v) if v[0].dim() else v[0] for k, v in names.items()}
            losses = losses_of(joined)
            losses["loss"].backward()
        found = {
            name: p.grad.clone() for name, p in trained.named_parameters() if p.grad is not None
        }
        return {name: value.item() for name, value in losses.items()}, found

    for size in (2, 7):
        ours, mine = gradients(size, cached=True)
        random_after = torch.get_rng_state()
        theirs, yours = gradients(size if dropout else None, cached=False)
        if dropout:
            assert torch.equal(random_after, torch.get_rng_state())  # a resumed run goes on alike
        assert ours == pytest.approx(theirs, rel=1e-4)
        assert mine.keys() == yours.keys()
        largest = max(gradient.abs().max() for gradient in yours.values())
        for name, gradient in yours.items():
            assert (mine[name] - gradient).abs().max() < 1e-5 * largest, name
    assert any("lora_A" in name and gradient.any() for name, gradient in mine.items())
    assert {name for name in mine if name.startswith("scales")} == {
        "scales.logit_scale", "scales.sigmoid_scale", "scales.sigmoid_bias",
    }  # fmt: skip


def test_never_more_than_a_chunk_of_wells_is_held_for_the_way_back():
    """Peak memory, counted in what the autograd graph keeps: that of a chunk, not of a batch."""
    held = []

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 3)

        def forward(self, rows):
            held.append(len(rows) if torch.is_grad_enabled() else 0)
            return {"wells": self.layer(rows)}

    rows = torch.randn(1000, 4)
    encoder = Encoder()
    backward_in_chunks(
        encoder,
        lambda: ((rows[part],) for part in split_rows(1000, 10)),
        10,
        lambda encoded: {"loss": (encoded["wells"] @ encoded["wells"].T).square().mean()},
        Accelerator(cpu=True),
    )
    assert held == [0] * 10 + [100] * 10
