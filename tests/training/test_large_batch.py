"""LARS and LAMB through real servers: parameters cut into blocks on three shards, trust ratios over whole parameters."""

import threading
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pytest
import torch
from clusters import Cluster, local_cluster

from pushpull.worker import LAMB, LARS, Worker

NUM_STEPS = 30
NUM_SHARDS = 3
Kind = type[torch.optim.Optimizer]


def make_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.Tanh(), torch.nn.Linear(64, 5))


def groups_of(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Biases without decay and trust ratio, as usual."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    return [{"params": matrices}, {"params": biases, "adapt": False, "weight_decay": 0.0}]


def batches(worker: int, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(100 + worker)
    inputs = [torch.randn(size, 20, generator=generator) for _ in range(NUM_STEPS)]
    return [(x, (x[:, :5] * 3).argmax(dim=1)) for x in inputs]


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def train_plain(kind: Kind, sizes: Sequence[int], **kwargs: Any) -> torch.Tensor:
    model = make_model()
    optimizer = kind(groups_of(model), **kwargs)
    for parts in zip(*(batches(worker, size) for worker, size in enumerate(sizes)), strict=True):
        inputs, targets = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return flat(model)


def train_shared(
    kind: Kind,
    sizes: Sequence[int],
    kwargs: dict[str, Any],
    disturb: Callable[[Cluster], None] = lambda cluster: None,
    **settings: Any,
) -> tuple[list[torch.Tensor], list[float]]:
    """Parameters of every worker at the end; losses of the first."""
    losses: list[float] = []
    models = [make_model() for _ in sizes]

    def body(size: int) -> Callable[[Worker], torch.Tensor]:
        def run(worker: Worker) -> torch.Tensor:
            model = models[worker.id]
            optimizer = worker.optimizer(model, kind, params=groups_of(model), **kwargs)
            for inputs, targets in batches(worker.id, size):
                loss = torch.nn.functional.cross_entropy(model(inputs), targets)
                loss.backward()
                optimizer.step(num_samples=size)
                optimizer.zero_grad()
                if worker.id == 0:
                    losses.append(loss.item())
                    disturb(cluster)
            return flat(model)

        return run

    defaults = {"expected_workers": len(sizes), "block_elements": 100}
    with local_cluster(num_shards=NUM_SHARDS, **{**defaults, **settings}) as cluster:
        parameters = cluster.train(*(body(size) for size in sizes))
    return parameters, losses


OPTIMIZERS: list[tuple[Kind, dict[str, Any]]] = [(LAMB, {"lr": 0.02}), (LARS, {"lr": 0.2, "trust_coefficient": 0.05})]


@pytest.mark.parametrize(("kind", "kwargs"), OPTIMIZERS, ids=["LAMB", "LARS"])
@pytest.mark.parametrize("sizes", [(32,), (24, 8)], ids=["one worker", "two workers"])
def test_the_servers_give_what_the_optimizer_gives_in_one_process(
    kind: Kind, kwargs: dict[str, Any], sizes: Sequence[int]
) -> None:
    expected = train_plain(kind, sizes, **kwargs)
    shared, _ = train_shared(kind, sizes, kwargs)
    for parameters in shared:
        assert (parameters - expected).abs().max() <= 1e-4 * expected.abs().max()


class CutLinks:
    """Shards 1 and 2 lose the registrar again and again, also between the two halves of an update."""

    def __init__(self, every_steps: int) -> None:
        self._every_steps = every_steps
        self._steps = count(1)

    def __call__(self, cluster: Cluster) -> None:
        for server in cluster.servers[1:] if next(self._steps) % self._every_steps == 0 else ():
            assert server._link is not None
            call = server._link._call
            if call is not None:
                threading.Timer(0.002, call.cancel).start()


def test_lost_links_between_servers_change_no_bit() -> None:
    undisturbed, _ = train_shared(LAMB, (24, 8), {"lr": 0.01})
    disturbed, _ = train_shared(LAMB, (24, 8), {"lr": 0.01}, disturb=CutLinks(5))
    for parameters in (*undisturbed, *disturbed):
        assert torch.equal(parameters, undisturbed[0])


@pytest.mark.parametrize("settings", [{"mode": "bounded", "staleness_bound": 2}, {"mode": "async"}], ids=str)
@pytest.mark.parametrize(("kind", "kwargs"), OPTIMIZERS, ids=["LAMB", "LARS"])
def test_without_rounds_the_loss_falls_also_when_links_are_lost(
    kind: Kind, kwargs: dict[str, Any], settings: dict[str, Any]
) -> None:
    _, losses = train_shared(kind, (16, 16), kwargs, CutLinks(10), **settings)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
