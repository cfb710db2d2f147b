"""Local updates through real servers: what they equal, and that they train in every mode with every kind of codec."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from clusters import local_cluster
from torch.utils.data import TensorDataset

from pushpull.worker import Worker

NUM_STEPS = 24
RATE = 0.1
SIZES = (16, 8)
Batch = tuple[torch.Tensor, torch.Tensor]


def mlp() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.Tanh(), torch.nn.Linear(64, 5))


def batches(worker: int, size: int) -> list[Batch]:
    """Of one problem: the class is where the first five inputs are largest."""
    generator = torch.Generator().manual_seed(100 + worker)
    inputs = [torch.randn(size, 20, generator=generator) for _ in range(NUM_STEPS)]
    return [(each, each[:, :5].argmax(1)) for each in inputs]


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def one_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, **arguments: Any) -> float:
    loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step(**arguments)
    optimizer.zero_grad()
    return loss.item()


def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=RATE)


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


Inner = Callable[[torch.nn.Module], torch.optim.Optimizer]


@dataclass(frozen=True)
class Trained:
    """A worker's end."""

    parameters: torch.Tensor
    losses: list[float]


def train_shared(inner: Inner, sizes: Sequence[int], job: dict[str, Any], **local: Any) -> list[Trained]:
    """As many workers as sizes, each with its own batches; how each looks after it has left."""
    models = [mlp() for _ in sizes]

    def body(worker: Worker) -> list[float]:
        model, size = models[worker.id], sizes[worker.id]
        optimizer = worker.local_updates(model, inner(model), **local)
        return [one_step(model, optimizer, batch, num_samples=size) for batch in batches(worker.id, size)]

    with local_cluster(expected_workers=len(sizes), **job) as cluster:
        losses = cluster.train(*[body] * len(sizes))
    return [Trained(flat(model), own) for model, own in zip(models, losses, strict=True)]


def simulate(inner: Inner, sizes: Sequence[int], every: int, outer_lr: float, outer_momentum: float) -> torch.Tensor:
    """Local updates as the papers write them, in one process with torch's own optimizers."""
    central = mlp()
    outer = torch.optim.SGD(central.parameters(), outer_lr, outer_momentum, nesterov=outer_momentum > 0)
    replicas = [mlp() for _ in sizes]
    optimizers = [inner(replica) for replica in replicas]
    data = [batches(worker, size) for worker, size in enumerate(sizes)]
    for first in range(0, NUM_STEPS, every):
        for replica, optimizer, own in zip(replicas, optimizers, data, strict=True):
            for batch in own[first : first + every]:
                one_step(replica, optimizer, batch)
        for target, *local in zip(central.parameters(), *(r.parameters() for r in replicas), strict=True):
            ways = [size * (target - each).detach() for size, each in zip(sizes, local, strict=True)]
            target.grad = torch.stack(ways).sum(0) / sum(sizes)
        outer.step()
        for replica in replicas:
            replica.load_state_dict(central.state_dict())
    return flat(central)


@pytest.mark.parametrize(
    ("inner", "every", "outer_lr", "outer_momentum"),
    [(sgd, 4, 1.0, 0.0), (sgd, 5, 1.0, 0.0), (adamw, 4, 0.7, 0.9)],
    ids=["local SGD", "a short last window", "DiLoCo"],
)
def test_two_workers_equal_the_papers_algorithm_in_one_process(
    inner: Inner, every: int, outer_lr: float, outer_momentum: float
) -> None:
    settings = {"every": every, "outer_lr": outer_lr, "outer_momentum": outer_momentum}
    settings = {"every": every, "outer_lr": outer_lr, "outer_momentum": outer_momentum}
    expected = simulate(inner, SIZES, **settings)
    for worker in train_shared(inner, SIZES, {"mode": "sync"}, **settings):
        assert (worker.parameters - expected).abs().max() <= 1e-5


def test_one_local_step_with_averaging_is_plain_synchronous_sgd() -> None:
    plain = mlp()
    optimizer = sgd(plain)
    for parts in zip(*(batches(worker, size) for worker, size in enumerate(SIZES)), strict=True):
        inputs, targets = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        one_step(plain, optimizer, (inputs, targets))
    first, second = train_shared(sgd, SIZES, {"mode": "sync"}, every=1, outer_lr=1.0, outer_momentum=0.0)
    assert (first.parameters - flat(plain)).abs().max() <= 1e-5 * flat(plain).abs().max()
    assert torch.equal(first.parameters, second.parameters)


@pytest.mark.parametrize("mode", ["sync", "bounded", "async"])
@pytest.mark.parametrize("push_codec", ["int8", "topk:0.05+fp16"])
def test_trains_in_every_mode_with_compressed_pushes(mode: str, push_codec: str) -> None:
    job = {"mode": mode, "push_codec": push_codec, "pull_codec": "bf16"}
    for worker in train_shared(adamw, (16, 16), job, every=4, outer_lr=0.7, outer_momentum=0.5):
        assert sum(worker.losses[-4:]) < 0.8 * sum(worker.losses[:4])


def test_trains_with_compressed_differences_both_ways_and_workers_agree() -> None:
    job = {"mode": "sync", "push_codec": "int8", "pull_codec": "int8"}
    first, second = train_shared(adamw, (16, 16), job, every=4, outer_lr=0.7, outer_momentum=0.5)
    assert torch.equal(first.parameters, second.parameters)
    assert sum(first.losses[-4:]) < 0.8 * sum(first.losses[:4])


@pytest.mark.parametrize("mode", ["sync", "bounded", "async"])
def test_every_sample_of_every_epoch_counts_although_windows_do_not_fit(mode: str) -> None:
    data = TensorDataset(*(torch.cat(parts) for parts in zip(*batches(0, 3), strict=True)))
    num_epochs = 2

    def body(worker: Worker) -> float:
        model = mlp()
        optimizer = worker.local_updates(model, sgd(model), every=4, outer_lr=1.0, outer_momentum=0.0)
        for _ in range(num_epochs):
            for batch in worker.share(data, batch_size=5):
                one_step(model, optimizer, batch)
            assert optimizer.num_pending == 0
        return worker._recorder.report().num_samples

    with local_cluster(mode=mode, expected_workers=2) as cluster:
        assert sum(cluster.train(body, body)) == num_epochs * len(data)
