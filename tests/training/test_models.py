"""Models and data that are not all alike neither hang a round nor change the mean wrongly."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from clusters import local_cluster
from torch.utils.data import TensorDataset

from pushpull.worker import Worker
from pushpull.worker.shards import ShardGroup

MODES = ("sync", "bounded", "async")


class Branches(torch.nn.Module):
    """Two experts; which of them gets a gradient depends on the call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts = torch.nn.ModuleList([torch.nn.Linear(8, 4) for _ in range(2)])

    def forward(self, inputs: torch.Tensor, expert: int) -> torch.Tensor:
        return self.experts[expert](inputs)


def models(make: Callable[[int], torch.nn.Module], count: int = 2) -> list[torch.nn.Module]:
    """One for each worker, made one after the other: threads share torch's random numbers."""
    return [make(number) for number in range(count)]


def sgd_step(worker: Worker, optimizer: torch.optim.Optimizer, loss: torch.Tensor, samples: int) -> None:
    loss.backward()
    optimizer.step(num_samples=samples)  # type: ignore[call-arg]
    optimizer.zero_grad()


def test_a_parameter_without_gradient_counts_as_zero_in_the_mean() -> None:
    """Worker 0 uses expert 0, worker 1 expert 1: each expert gets half the joint mean, as on the joined batch."""
    inputs = torch.ones(6, 8)

    made = models(lambda number: Branches())

    def body(worker: Worker) -> dict[str, torch.Tensor]:
        model = made[worker.id]
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
        mine = inputs[:4] if worker.id == 0 else inputs[4:]
        sgd_step(worker, optimizer, model(mine, worker.id).mean(), len(mine))
        return {name: value.clone() for name, value in model.state_dict().items()}

    plain = Branches()
    loss = torch.cat([plain(inputs[:4], 0), plain(inputs[4:], 1)]).mean()
    loss.backward()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    with local_cluster(expected_workers=2) as cluster:
        for state in cluster.train(body, body):
            for name, value in plain.state_dict().items():
                torch.testing.assert_close(state[name], value)


def test_a_parameter_absent_everywhere_is_not_touched() -> None:
    """No weight decay, no moment update, no version: what torch does when grad is None."""

    made = models(lambda number: Branches())

    def body(worker: Worker) -> tuple[torch.Tensor, torch.Tensor]:
        model = made[worker.id]
        before = model.experts[1].weight.detach().clone()
        optimizer = worker.optimizer(model, torch.optim.AdamW, lr=0.1, weight_decay=0.5)
        for _ in range(3):
            sgd_step(worker, optimizer, model(torch.ones(2, 8), 0).sum(), 2)
        return before, model.experts[1].weight.detach().clone()

    with local_cluster(expected_workers=2) as cluster:
        for before, after in cluster.train(body, body):
            assert torch.equal(before, after)


class Tied(torch.nn.Module):
    """An embedding whose weight is also the head, a frozen layer and a buffer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = torch.nn.Embedding(11, 6)
        self.frozen = torch.nn.Linear(6, 6).requires_grad_(False)
        self.head = torch.nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("offset", torch.randn(6))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.frozen(self.embedding(tokens)) + self.offset)


@pytest.mark.parametrize("mode", MODES)
def test_tied_and_frozen_parameters_and_buffers_come_from_the_first_worker(mode: str) -> None:
    tokens = torch.arange(11)

    made = models(Tied)

    def body(worker: Worker) -> dict[str, torch.Tensor]:
        model = made[worker.id]
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.01)
        assert model.head.weight is model.embedding.weight
        for _ in range(3):
            sgd_step(worker, optimizer, torch.nn.functional.cross_entropy(model(tokens), tokens), 11)
        return {name: value.clone() for name, value in model.state_dict().items()}

    first = Tied(seed=0)
    with local_cluster(mode=mode, expected_workers=2) as cluster:
        for state in cluster.train(body, body):
            assert torch.equal(state["frozen.weight"], first.frozen.weight)
            assert torch.equal(state["offset"], first.offset)
            assert torch.equal(state["head.weight"], state["embedding.weight"])
            assert not torch.equal(state["head.weight"], first.head.weight)


@pytest.mark.parametrize("mode", MODES)
def test_unequal_numbers_of_batches_do_not_hang(mode: str) -> None:
    """One worker has three steps more; it ends them alone."""

    made = models(lambda number: Branches())

    def body(worker: Worker) -> int:
        model = made[worker.id]
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.01)
        for _ in range(5 + 3 * worker.id):
            sgd_step(worker, optimizer, model(torch.ones(2, 8), 0).sum(), 2)
        return worker.id

    with local_cluster(mode=mode, expected_workers=2) as cluster:
        assert cluster.train(body, body) == [0, 1]
        applied = {status.worker_id: status.report.steps_applied for status in cluster.status().workers}
        assert applied == {0: 5, 1: 8}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_samples", [40, 41, 47])
def test_shared_data_are_used_once_an_epoch_by_whoever(mode: str, num_samples: int) -> None:
    data = TensorDataset(torch.arange(num_samples))

    made = models(lambda number: Branches())

    def body(worker: Worker) -> list[list[int]]:
        model = made[worker.id]
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.01)
        seen: list[list[int]] = []
        for _ in range(3):
            seen.append([])
            for (batch,) in worker.share(data, batch_size=4 + worker.id):
                seen[-1] += batch.tolist()
                model(torch.ones(len(batch), 8), 0).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        return seen

    with local_cluster(mode=mode, expected_workers=2) as cluster:
        first, second = cluster.train(body, body)
        if mode == "sync":
            for epoch in range(3):
                assert sorted(first[epoch] + second[epoch]) == list(range(num_samples))
        else:  # the gradient of a first step may be dropped; its samples then come again
            assert {sample for epoch in first + second for sample in epoch} == set(range(num_samples))
        samples = sum(status.report.num_samples for status in cluster.status().workers)
        assert samples == 3 * num_samples


def test_a_loss_scaler_skips_an_overflow_and_trains_on() -> None:
    """An infinite gradient is skipped on the servers, nothing hangs, the scale comes down."""

    made = models(lambda number: Branches())

    def body(worker: Worker) -> tuple[float, bool]:
        model = made[worker.id]
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        for step in range(6):
            loss = model(torch.ones(2, 8), 0).sum()
            overflow = float("inf") if step == 2 and worker.id == 1 else 1.0
            scaler.scale(loss * overflow).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        finite = all(bool(parameter.isfinite().all()) for parameter in model.parameters())
        return scaler.get_scale(), finite

    with local_cluster(expected_workers=2) as cluster:
        (scale, finite), (lower, also_finite) = cluster.train(body, body)
        assert (scale, lower) == (2.0**16, 2.0**15)
        assert finite
        assert also_finite
        assert {status.report.steps_skipped for status in cluster.status().workers} == {0, 1}


@pytest.mark.parametrize(
    "change",
    [
        {"model": lambda: torch.nn.Linear(8, 5)},
        {"kwargs": {"lr": 0.5}},
    ],
    ids=["model", "optimizer"],
)
def test_workers_that_differ_are_refused_by_name(change: dict[str, Any]) -> None:
    def body(worker: Worker) -> str:
        model = torch.nn.Linear(8, 4)
        kwargs = {"lr": 0.1}
        if worker.id == 1:
            model = change.get("model", lambda: model)()
            kwargs = change.get("kwargs", kwargs)
        try:
            worker.optimizer(model, torch.optim.SGD, **kwargs)
        except Exception as error:
            return str(error)
        return ""

    with local_cluster(expected_workers=2) as cluster:
        said = [text for text in cluster.train(body, body) if text]
        assert len(said) == 1
        assert "weight has shape" in said[0] or "lr of group 0" in said[0]


def test_a_step_that_was_interrupted_is_not_taken_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C inside step(), caught, and on with it: each update the servers hold is one that a step made."""
    made = models(lambda number: torch.nn.Linear(4, 1, bias=False), count=1)
    original = ShardGroup.wait
    waits: list[int] = []

    def wait(group: ShardGroup, shards: Iterable[int]) -> None:
        waits.append(1)
        if len(waits) == interrupted_wait:
            raise KeyboardInterrupt
        original(group, shards)

    def body(worker: Worker) -> torch.Tensor:
        nonlocal interrupted_wait
        optimizer = worker.optimizer(made[0], torch.optim.SGD, lr=1.0)
        with torch.no_grad():
            before = made[0].weight.clone()
        for step in range(4):
            made[0].weight.grad = torch.full_like(made[0].weight, 2.0**step)
            if step == 1:
                interrupted_wait = len(waits) + 1
            try:
                optimizer.step(num_samples=1)
            except KeyboardInterrupt:
                assert step == 1
        return before - made[0].weight.detach()

    interrupted_wait = 0
    monkeypatch.setattr(ShardGroup, "wait", wait)
    with local_cluster(mode="async") as cluster:
        (moved,) = cluster.train(body)
    # steps 0 and 3 count; step 1 may; step 2 is dropped on rejoining
    assert any(torch.allclose(moved, torch.full_like(moved, total)) for total in (9.0, 11.0))
