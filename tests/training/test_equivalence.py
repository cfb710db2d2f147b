"""Synchronous, fp32: the same as plain torch on the joined batch, and the same bits twice."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from clusters import local_cluster

from pushpull.worker import Worker

NUM_STEPS = 50
Batch = tuple[torch.Tensor, torch.Tensor]


def mlp() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.Tanh(), torch.nn.Linear(64, 5))


def cnn() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 4, 5)),
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(160, 5),
    )


def batches(worker: int, size: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(100 + worker)
    return [
        (torch.randn(size, 20, generator=generator), torch.randint(5, (size,), generator=generator))
        for _ in range(NUM_STEPS)
    ]


def train_plain(
    model: torch.nn.Module, sizes: tuple[int, ...], kind: type[torch.optim.Optimizer], schedule: bool, **kwargs: Any
) -> torch.Tensor:
    """One process on the joined batch."""
    optimizer = kind(model.parameters(), fused=True, **kwargs)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, NUM_STEPS) if schedule else None
    for parts in zip(*(batches(worker, size) for worker, size in enumerate(sizes)), strict=True):
        inputs, targets = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
    return flat(model)


def train_shared(
    make: Callable[[], torch.nn.Module],
    sizes: tuple[int, ...],
    kind: type[torch.optim.Optimizer],
    schedule: bool = False,
    **kwargs: Any,
) -> list[torch.Tensor]:
    """As many workers as sizes, each with its own batches."""

    def body(size: int) -> Callable[[Worker], torch.Tensor]:
        def run(worker: Worker) -> torch.Tensor:
            model = models[worker.id]
            optimizer = worker.optimizer(model, kind, **kwargs)
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, NUM_STEPS) if schedule else None
            for inputs, targets in batches(worker.id, size):
                torch.nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step(num_samples=size)
                optimizer.zero_grad()
                if scheduler is not None:
                    scheduler.step()
            return flat(model)

        return run

    models = [make() for _ in sizes]
    with local_cluster(mode="sync", expected_workers=len(sizes)) as cluster:
        return cluster.train(*(body(size) for size in sizes))


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


SGD = (torch.optim.SGD, {"lr": 1e-3, "momentum": 0.9}, 1e-5)
ADAMW = (torch.optim.AdamW, {"lr": 1e-3}, 1e-4)


@pytest.mark.parametrize("make", [mlp, cnn], ids=["mlp", "cnn"])
@pytest.mark.parametrize("sizes", [(16, 16), (24, 8)], ids=["equal batches", "unequal batches"])
@pytest.mark.parametrize(("kind", "kwargs", "tolerance"), [SGD, ADAMW], ids=["SGD", "AdamW"])
def test_two_workers_equal_plain_torch_on_the_joined_batch(
    make: Callable[[], torch.nn.Module],
    sizes: tuple[int, ...],
    kind: type[torch.optim.Optimizer],
    kwargs: dict[str, Any],
    tolerance: float,
) -> None:
    expected = train_plain(make(), sizes, kind, False, **kwargs)
    for parameters in train_shared(make, sizes, kind, **kwargs):
        assert (parameters - expected).abs().max() <= tolerance * expected.abs().max()


def test_a_scheduler_on_the_workers_drives_the_servers_optimizer() -> None:
    expected = train_plain(mlp(), (16, 16), torch.optim.AdamW, True, lr=1e-3)
    for parameters in train_shared(mlp, (16, 16), torch.optim.AdamW, True, lr=1e-3):
        assert (parameters - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_two_runs_agree_bit_for_bit_and_so_do_the_workers() -> None:
    first = train_shared(mlp, (24, 8, 16), torch.optim.AdamW, lr=1e-3)
    second = train_shared(mlp, (24, 8, 16), torch.optim.AdamW, lr=1e-3)
    for parameters in (*first, *second):
        assert torch.equal(parameters, first[0])
