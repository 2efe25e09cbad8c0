"""Two processes learn what one process learns from the same batch.

Run by torchrun (`torchrun --nproc_per_node 2 tests/test_distributed.py OUT`), this file is also
what the two processes do.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT
from test_align import effects_of, prompts_of, settings
from tiny import tiny_adapter, tiny_bank, tiny_model

from contrastive.batches import TargetBatches
from contrastive.losses import clip_loss, effect_loss, rank_and_size, same_label_loss, siglip_loss
from contrastive.trainer import _share, align
from vlm.adapters import ALIGN

WELLS, WIDTH = 12, 6
LOSSES = ("clip", "siglip", "same_label", "effect")
# Partners on either side, and none: five wells of the first half have one, three of the second.
LABELS = torch.tensor([0, 0, 1, 1, 2, 3, 0, 2, 1, 6, 4, 5])


def learn_features(loss: str) -> dict[str, torch.Tensor]:
    """Loss and gradients of one linear layer on each side, on this process's part of the wells.

    What DDP does to gradients (their mean over processes) is done to both.
    """
    rank, size = rank_and_size()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, WELLS, WIDTH, generator=generator, dtype=torch.float64)
    weights = torch.randn(2, WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    weights.requires_grad_()
    own = torch.arange(WELLS).chunk(size)[rank]
    wells, prompts = torch.nn.functional.normalize(inputs[:, own] @ weights, dim=-1)
    if loss == "clip":
        value = clip_loss(wells, prompts, scale)
    elif loss == "siglip":
        value = siglip_loss(wells, prompts, scale, bias)
    elif loss == "effect":
        effects = 5 * torch.randn(WELLS, WIDTH, generator=generator, dtype=torch.float64)
        effects[:2] = torch.nan  # the ranks hold different numbers of measured slots
        value = effect_loss(wells, effects[own])
    else:
        value = same_label_loss(wells, LABELS[own], 0.2)
    value.backward()
    found = {"loss": value.detach(), "weights": weights.grad}
    if loss in ("clip", "siglip"):
        found["scale"] = scale.grad
    if loss == "siglip":
        found["bias"] = bias.grad
    if size > 1:
        for tensor in found.values():
            dist.all_reduce(tensor)
            tensor /= size
    return found


def learn_model(out: Path, loss: str) -> dict[str, torch.Tensor]:
    """Weights after three steps of phase align on the same four targets and four more wells."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    _, size = rank_and_size()
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[ddp])
    bank = tiny_bank()
    bank.sites_of = [sites[:1] for sites in bank.sites_of]  # processes draw sites of their own
    model, processor = tiny_model()
    model = tiny_adapter(model, ALIGN)
    config = settings(
        align_steps=3,
        align_loss=loss,
        align_num_targets=4 // size,
        align_num_unlabelled=4 // size,
        align_learning_rate=1e-4,
    )
    torch.manual_seed(0)  # the effect head's
    tokenizer = processor.tokenizer
    effects = effects_of(bank)
    align(model, tokenizer, bank, prompts_of(bank), effects, config, out, 0, accelerator)
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def learn(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Everything that is compared."""
    found = {loss: learn_features(loss) for loss in LOSSES}
    found |= {f"align {loss}": learn_model(out / loss, loss) for loss in ("clip", "siglip")}
    return found


@pytest.fixture(scope="module")
def two_and_one(tmp_path_factory) -> tuple[dict, dict]:
    """What two processes found, and what this one finds."""
    out = tmp_path_factory.mktemp("two")
    command = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    finished = subprocess.run(
        [sys.executable, *command, __file__, out], capture_output=True, text=True, cwd=ROOT
    )
    assert finished.returncode == 0, finished.stderr[:3000]
    ranks = [torch.load(out / f"rank{rank}.pt") for rank in range(2)]
    assert [found.pop("world_size") for found in ranks] == [2, 2]
    for name, found in ranks[0].items():  # the two processes are of one mind
        for key, value in found.items():
            assert torch.equal(value, ranks[1][name][key]), (name, key)
    return ranks[0], learn(tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_are_those_of_one_process(two_and_one, loss):
    two, one = two_and_one
    assert two[loss].keys() == one[loss].keys()
    for name, value in one[loss].items():
        assert value.abs().max() > 1e-3
        assert torch.allclose(two[loss][name], value, rtol=1e-5, atol=1e-8), name


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_trained_weights_are_those_of_one_process(two_and_one, loss):
    two, one = (found[f"align {loss}"] for found in two_and_one)
    assert two.keys() == one.keys()
    start = dict(tiny_adapter(tiny_model()[0], ALIGN).named_parameters())
    moved = max((one[name] - start[name]).abs().max() for name in one)
    furthest = max((one[name] - two[name]).abs().max() for name in one)
    assert moved > 1e-4
    # Adam turns gradients that are rounding errors into steps: these are few and small.
    assert furthest < 0.2 * moved
    differ = sum(((one[name] - two[name]).abs() > 1e-5).sum() for name in one)
    assert differ < 0.01 * sum(value.numel() for value in one.values())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_shares_of_a_batch_make_up_the_batch(size):
    wells = tiny_bank().wells
    drawn = TargetBatches(wells, "Metadata_target_list", 4, 4, seed=0).draw(0)
    shares = [_share(*drawn, rank, size) for rank in range(size)]
    assert sorted(row for rows, _, _ in shares for row in rows) == sorted(drawn[0])
    assert [reagent for _, _, reagents in shares for reagent in reagents] == drawn[2]
    for rows, labels, reagents in shares:
        assert len(rows) == len(labels) == 20 // size
        names = wells["Metadata_broad_sample"].iloc[rows[: 2 * len(reagents)]]
        assert names.tolist() == [reagent for reagent in reagents for _ in range(2)]


def work(out: Path) -> None:
    """Be one of two processes."""
    dist.init_process_group("gloo")
    found = learn(out)
    torch.save({"world_size": dist.get_world_size(), **found}, out / f"rank{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
