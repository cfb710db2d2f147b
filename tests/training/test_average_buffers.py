"""`average_buffers`: running statistics become the mean over the workers at the end of an epoch, and training goes on."""

import threading
from typing import Any

import pytest
import torch
from clusters import local_cluster
from torch import nn
from torch.utils.data import TensorDataset

from pushpull.protos.errors import SettingError
from pushpull.worker import Worker

NUM_SAMPLES = 64


class Net(nn.Module):
    def __init__(self, buffer: torch.Tensor | None = None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, momentum=0.5)
        self.linear = nn.Linear(3, 1)
        if buffer is not None:
            self.register_buffer("held", buffer.clone())
        generator = torch.Generator().manual_seed(0)
        for parameter in self.linear.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.linear(self.norm(batch))
        return output


def buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


def statistics(model: Net) -> torch.Tensor:
    assert model.norm.running_mean is not None
    assert model.norm.running_var is not None
    return torch.stack([model.norm.running_mean, model.norm.running_var]).clone()


def step(model: Net, optimizer: Any, batch: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()


def own_batch(worker: Worker, number: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * worker.id + number)
    return torch.randn(8, 3, generator=generator) * (worker.id + 1) + 5 * worker.id


def mean_of(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(values).double().mean(0).float()


# ---- at the end of an epoch ----


@pytest.mark.parametrize("local_updates", [False, True])
@pytest.mark.parametrize("average", [False, True])
def test_after_every_epoch_all_workers_hold_the_mean_and_training_goes_on(average: bool, local_updates: bool) -> None:
    samples = torch.randn(NUM_SAMPLES, 3, generator=torch.Generator().manual_seed(1)) * torch.arange(1.0, 4.0) + 2

    def body(worker: Worker) -> list[tuple[torch.Tensor, dict[str, torch.Tensor], int]]:
        model, seen = Net(), list[tuple[torch.Tensor, dict[str, torch.Tensor], int]]()
        if local_updates:
            inner = torch.optim.SGD(model.parameters(), lr=0.05)
            optimizer: Any = worker.local_updates(model, inner, every=3)
        else:
            optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.05)
        data = worker.share(TensorDataset(samples), batch_size=4, shuffle=True)
        steps = 0
        for _ in range(2):
            before = statistics(model)
            for (batch,) in data:
                step(model, optimizer, batch + 10 * worker.id)
                before, steps = statistics(model), steps + 1
            seen.append((before, buffers(model), steps))
        return seen

    with local_cluster(expected_workers=2, average_buffers=average) as cluster:
        workers = cluster.train(body, body)
    for (one, state, mine), (other, others_state, theirs) in zip(*workers, strict=True):
        assert mine
        assert theirs
        assert not torch.equal(one, other)
        assert int(state["norm.num_batches_tracked"]) == mine  # of each worker, its own
        assert int(others_state["norm.num_batches_tracked"]) == theirs
        got = [torch.stack([s["norm.running_mean"], s["norm.running_var"]]) for s in (state, others_state)]
        expected = [mean_of([one, other])] * 2 if average else [one, other]
        for mean, right in zip(got, expected, strict=True):
            assert torch.equal(mean, right)
    assert sum(seen[-1][2] for seen in workers) == 2 * NUM_SAMPLES // 4


def test_a_worker_that_leaves_the_epoch_and_the_job_is_not_waited_for() -> None:
    samples = torch.randn(NUM_SAMPLES, 3)

    def stays(worker: Worker) -> tuple[torch.Tensor, torch.Tensor]:
        model = Net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.05)
        before = statistics(model)
        for (batch,) in worker.share(TensorDataset(samples), batch_size=4):
            step(model, optimizer, batch)
            before = statistics(model)
        return before, statistics(model)

    def leaves(worker: Worker) -> None:
        model = Net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.05)
        for number, (batch,) in enumerate(worker.share(TensorDataset(samples), batch_size=4)):
            step(model, optimizer, batch)
            if number == 1:
                break

    with local_cluster(expected_workers=2, average_buffers=True) as cluster:
        (before, after), _ = cluster.train(stays, leaves)
    assert torch.equal(before, after)  # the mean of one, by bits


def test_who_joins_late_gets_the_mean_and_takes_part_in_the_next() -> None:
    samples, joined, trained = torch.randn(NUM_SAMPLES, 3), threading.Event(), threading.Event()

    def first(worker: Worker) -> tuple[torch.Tensor, torch.Tensor]:
        model = Net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.05)
        data = worker.share(TensorDataset(samples), batch_size=4)
        for (batch,) in data:
            step(model, optimizer, batch)
        at_join = statistics(model)
        with worker.pause():
            trained.set()
            assert joined.wait(60)
        for (batch,) in data:
            step(model, optimizer, batch)
        return at_join, statistics(model)

    def second(worker: Worker) -> tuple[torch.Tensor, torch.Tensor]:
        assert trained.wait(60)
        model = Net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.05)
        at_join = statistics(model)
        step(model, optimizer, samples[:4] + 1)
        joined.set()
        data = worker.share(TensorDataset(samples), batch_size=4)
        for _ in range(2):  # the first epoch is over
            for (batch,) in data:
                step(model, optimizer, batch + 20)
        return at_join, statistics(model)

    with local_cluster(average_buffers=True) as cluster:
        (at_end, one), (at_join, other) = cluster.train(first, second)
    assert torch.equal(at_end, at_join)
    assert torch.equal(one, other)


def test_a_loop_that_only_looks_takes_no_mean() -> None:
    """A validation set, say: nothing has changed since the mean before, and nobody has to come."""
    samples = torch.randn(NUM_SAMPLES, 3)

    def body(worker: Worker) -> int:
        model = Net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.05)
        for (batch,) in worker.share(TensorDataset(samples), batch_size=8, name="train"):
            step(model, optimizer, batch)
        before = optimizer._replica.position.round
        with torch.no_grad():
            for (batch,) in worker.share(TensorDataset(samples), batch_size=8, name="valid"):
                model(batch)
        return int(optimizer._replica.position.round) - before

    with local_cluster(average_buffers=True) as cluster:
        assert cluster.train(body) == [0]


# ---- when the script asks ----


@pytest.mark.parametrize(("num_workers", "pull_codec"), [(1, "fp32"), (3, "fp32"), (2, "bf16"), (2, "int8")])
def test_a_loop_without_share_asks_for_it(num_workers: int, pull_codec: str) -> None:
    def body(worker: Worker) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        model = Net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.05)
        for number in range(3):
            step(model, optimizer, own_batch(worker, number))
        own = statistics(model)
        weight = model.linear.weight.detach().clone()
        optimizer.average_buffers()
        mean = statistics(model)
        assert torch.equal(model.linear.weight, weight)
        step(model, optimizer, own_batch(worker, 3))
        assert not torch.equal(model.linear.weight, weight)
        return own, mean, statistics(model), model.linear.weight.detach().clone()

    with local_cluster(pull_codec=pull_codec, expected_workers=num_workers) as cluster:
        workers = cluster.train(*[body] * num_workers)
    own, means, later, weights = zip(*workers, strict=True)
    for mean in means:
        assert torch.equal(mean, mean_of(list(own)))
    assert all(torch.equal(weight, weights[0]) for weight in weights)
    assert num_workers == 1 or not torch.equal(later[0], later[1])  # their own again


def test_who_trains_in_that_round_keeps_its_own_and_its_gradient_counts() -> None:
    def asks(worker: Worker) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        model = Net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.05)
        step(model, optimizer, own_batch(worker))
        own, weight = statistics(model), model.linear.weight.detach().clone()
        optimizer.average_buffers()
        assert not torch.equal(model.linear.weight, weight)  # by the other's gradient
        return own, statistics(model), model.linear.weight.detach().clone()

    def trains(worker: Worker) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        model = Net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.05)
        step(model, optimizer, own_batch(worker))
        optimizer.zero_grad()
        model(own_batch(worker, 1)).square().mean().backward()
        own = statistics(model)
        optimizer.step()
        return own, statistics(model), model.linear.weight.detach().clone()

    with local_cluster(expected_workers=2) as cluster:
        (one, after, weight), (other, others_after, others_weight) = cluster.train(asks, trains)
    assert torch.equal(one, after)
    assert torch.equal(other, others_after)
    assert torch.equal(weight, others_weight)


MASK = torch.full((4, 4), float("-inf")).triu(1)
UNLIKE: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = [
    (MASK, MASK, MASK),
    (torch.tensor([0.1, -0.0]), torch.tensor([0.1, -0.0]), torch.tensor([0.1, -0.0])),
    (torch.tensor([1, 2]), torch.tensor([5, 6]), torch.tensor([1, 2])),
    (torch.tensor([True]), torch.tensor([False]), torch.tensor([True])),
    (torch.tensor([1.0, 3.0]).bfloat16(), torch.tensor([2.0, 5.0]).bfloat16(), torch.tensor([1.5, 4.0]).bfloat16()),
    (torch.tensor([3e38, 1.0]), torch.tensor([3e38, float("inf")]), torch.tensor([3e38, float("inf")])),
    (torch.zeros(100_000), torch.full((100_000,), 2.0), torch.ones(100_000)),  # more than a step has room for
    (torch.empty(0), torch.empty(0), torch.empty(0)),
]


@pytest.mark.parametrize(("one", "other", "expected"), UNLIKE)
def test_numbers_with_a_fraction_are_averaged_and_everything_else_stays(
    one: torch.Tensor, other: torch.Tensor, expected: torch.Tensor
) -> None:
    def body(worker: Worker) -> torch.Tensor:
        model = Net(one)
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.05)
        model.held.copy_(one if worker.id == 0 else other)
        optimizer.average_buffers()
        held: torch.Tensor = model.held.clone()
        return held

    with local_cluster(expected_workers=2, block_elements=10_000) as cluster:
        first, second = cluster.train(body, body)
    assert torch.equal(first, expected)
    assert torch.equal(torch.signbit(first), torch.signbit(expected))
    assert torch.equal(second, expected if one.is_floating_point() else other)


@pytest.mark.parametrize("mode", ["bounded", "async"])
def test_without_rounds_it_is_refused(mode: str) -> None:
    def body(worker: Worker) -> None:
        optimizer = worker.optimizer(Net(), torch.optim.SGD, lr=0.05)
        with pytest.raises(SettingError, match=f"needs mode=sync; this job has mode={mode}"):
            optimizer.average_buffers()

    with local_cluster(mode=mode) as cluster:
        cluster.train(body)


def test_a_buffer_that_has_no_mean_is_named_before_anything_is_trained() -> None:
    def body(worker: Worker) -> None:
        worker.optimizer(Net(torch.zeros(2, dtype=torch.float64)), torch.optim.SGD, lr=0.05)

    with (
        local_cluster(average_buffers=True) as cluster,
        pytest.raises(SettingError, match=r"the buffer held is .* 32 bits"),
    ):
        cluster.train(body)
