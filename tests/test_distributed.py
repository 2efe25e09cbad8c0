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
from test_align import prompts_of, settings, shifts_of
from tiny import tiny_adapter, tiny_bank, tiny_model

from contrastive.align_model import Encoded
from contrastive.objective import LOSSES, Truth, align_losses
from contrastive.ranks import rank_and_size
from contrastive.trainer import align
from vlm.adapters import ALIGN

WELLS, PROMPTS, WIDTH = 12, 4, 6
# Targets of two reagents of two wells, and wells that only push; one compound has two targets.
TARGETS = [[0], [0], [0], [0], [], [], [1], [1], [1, 0], [1, 0], [2], []]
REAGENTS = torch.tensor([0, 0, 1, 1, 7, 8, 2, 2, 3, 3, 9, 10])
PLATES = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1, 1])


def learn_features(loss: str) -> dict[str, torch.Tensor]:
    """Loss and gradients of one linear layer on each side, on this process's part of the wells.

    What DDP does to gradients (their mean over processes) is done to both. Half of the wells are
    of the first rank: two targets a batch, one a rank, and two more wells each.
    """
    rank, size = rank_and_size()
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs, told, weights = draw(WELLS, WIDTH), draw(PROMPTS, WIDTH), draw(2, WIDTH, WIDTH)
    looks = torch.nn.functional.normalize(draw(WELLS, 2, WIDTH), dim=-1)
    shifts = 5 * draw(WELLS, WIDTH)
    shifts[:2] = torch.nan  # the ranks hold different numbers of measured slots
    labels = torch.zeros(WELLS, 3, dtype=torch.float64)
    for well, targets in enumerate(TARGETS):
        labels[well, targets] = 1 / max(len(targets), 1)
    # One process has all wells of reagents first, then the others: as `TargetBatches` draws them.
    order = torch.tensor([0, 1, 2, 3, 6, 7, 8, 9, 4, 5, 10, 11])
    own = order if size == 1 else torch.arange(WELLS).chunk(size)[rank]
    mine = torch.arange(PROMPTS).chunk(size)[rank]
    scales = {
        name: torch.tensor(start, dtype=torch.float64, requires_grad=True)
        for name, start in (("logit_scale", 5.0), ("sigmoid_scale", 4.0), ("sigmoid_bias", -3.0))
    }
    weights.requires_grad_()
    wells = torch.nn.functional.normalize(inputs[own] @ weights[0], dim=-1)
    prompts = torch.nn.functional.normalize(told[mine] @ weights[1], dim=-1)
    encoded: Encoded = {"wells": wells, "prompts": prompts, "readout": wells, "looks": looks[own]}
    truth = Truth(labels[own], REAGENTS[own], PLATES[own], shifts[own], 2)
    value = align_losses(encoded | scales, truth, {loss: 1.0}, 0.2)["loss"]
    value.backward()
    found = {"loss": value.detach(), "weights": weights.grad}
    found |= {name: scale.grad for name, scale in scales.items() if scale.grad is not None}
    if size > 1:
        for tensor in found.values():
            dist.all_reduce(tensor)
            tensor /= size
    return found


def learn_model(out: Path, chunk: int | None, **weights: float) -> dict[str, torch.Tensor]:
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
        align_num_targets=4 // size,
        align_num_unlabelled=4 // size,
        align_chunk_wells=chunk,
        align_learning_rate=1e-4,
        **weights,
    )
    torch.manual_seed(0)  # the effect head's
    tokenizer = processor.tokenizer
    shifts = shifts_of(bank)
    align(model, tokenizer, bank, prompts_of(bank), shifts, config, out, 0, accelerator)
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def learn(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Everything that is compared."""
    found = {loss: learn_features(loss) for loss in LOSSES}
    found["whole"] = learn_model(out / "whole", None)
    found["chunks"] = learn_model(out / "chunks", 5, **SIGMOID)
    return found


SIGMOID = {"align_clip_weight": 0.0, "align_siglip_weight": 1.0, "align_replicate_weight": 1.0}


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
        assert value.abs().max() > 1e-4
        assert torch.allclose(two[loss][name], value, rtol=1e-5, atol=1e-8), name


@pytest.mark.parametrize("way", ["whole", "chunks"])
def test_trained_weights_are_those_of_one_process(two_and_one, way):
    """Also with gradient caching, where the processes meet in the last chunk only."""
    two, one = (found[way] for found in two_and_one)
    assert two.keys() == one.keys()
    start = dict(tiny_adapter(tiny_model()[0], ALIGN).named_parameters())
    moved = max((one[name] - start[name]).abs().max() for name in one)
    furthest = max((one[name] - two[name]).abs().max() for name in one)
    assert moved > 1e-4
    # Adam turns gradients that are rounding errors into steps: these are few and small.
    assert furthest < 0.2 * moved
    differ = sum(((one[name] - two[name]).abs() > 1e-5).sum() for name in one)
    assert differ < 0.01 * sum(value.numel() for value in one.values())


def work(out: Path) -> None:
    """Be one of two processes."""
    dist.init_process_group("gloo")
    found = learn(out)
    torch.save({"world_size": dist.get_world_size(), **found}, out / f"rank{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
