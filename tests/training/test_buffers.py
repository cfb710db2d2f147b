"""Buffers and parameters in no group: whatever they hold is legal, goes to joiners bit for bit, and is the script's then."""

import threading
from collections.abc import Callable

import pytest
import torch
from clusters import local_cluster
from torch import nn

from pushpull.protos.errors import NonFiniteError
from pushpull.worker import Worker

KINDS: dict[str, Callable[[], torch.Tensor]] = {
    "minus infinity": lambda: torch.full((4, 4), float("-inf")).triu(1),
    "not a number": lambda: torch.full((3,), float("nan")),
    "a payload in a NaN": lambda: torch.tensor([0x7F800001, -1, 0x7FC12345], dtype=torch.int32).view(torch.float32),
    "both zeros": lambda: torch.tensor([0.0, -0.0]),
    "denormal": lambda: torch.tensor([1e-42]),
    "integers": lambda: torch.arange(-5, 6),
    "one integer": lambda: torch.tensor(123456789012345),
    "bytes": lambda: torch.arange(7, dtype=torch.uint8),
    "truth": lambda: torch.ones(5, 3, dtype=torch.bool).tril(),
    "complex": lambda: torch.tensor([1 + 2j, complex("inf"), complex("nan")]),
    "float64": lambda: torch.tensor([1 / 3, 1e300], dtype=torch.float64),
    "bfloat16": lambda: torch.tensor([1.0, float("inf"), 3.0], dtype=torch.bfloat16),
    "a scalar": lambda: torch.tensor(float("inf")),
    "empty": lambda: torch.empty(0, 3),
    "empty integers": lambda: torch.empty(0, dtype=torch.int64),
    "transposed": lambda: torch.arange(6, dtype=torch.int32).view(2, 3).t(),
    "more than one block": lambda: torch.arange(3000, dtype=torch.int64),
}


class Net(nn.Module):
    def __init__(self, buffer: torch.Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("held", buffer.clone(memory_format=torch.preserve_format))
        self.register_buffer("own", torch.full((2,), float("nan")), persistent=False)
        self.frozen = nn.Parameter(torch.tensor([1.0, float("inf")]), requires_grad=False)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.linear(batch)
        return output


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pull_codec", ["fp32", "bf16", "int8"])
def test_trains_keeps_its_values_and_hands_them_on_by_bits(kind: str, pull_codec: str) -> None:
    held = KINDS[kind]()
    joined, trained = threading.Event(), threading.Event()

    def optimizer_of(worker: Worker, model: Net) -> torch.optim.Optimizer:
        return worker.optimizer(model, torch.optim.SGD, params=model.linear.parameters(), lr=0.1)

    def first(worker: Worker) -> bytes:
        model = Net(held)
        optimizer = optimizer_of(worker, model)
        before = model.linear.weight.detach().clone()
        for _ in range(2):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
        assert not torch.equal(model.linear.weight, before)
        assert bool(torch.isinf(model.frozen[1]))
        with worker.pause():
            trained.set()
            assert joined.wait(60)
        return bits(model.held)

    def second(worker: Worker) -> bytes:
        assert trained.wait(60)
        model = Net(torch.zeros_like(held))
        model.frozen.data.zero_()
        optimizer_of(worker, model)
        joined.set()
        assert model.frozen.tolist() == [1.0, float("inf")]
        return bits(model.held)

    with local_cluster(pull_codec=pull_codec, block_elements=1000) as cluster:
        one, other = cluster.train(first, second)
    assert one == other == bits(held)


def test_a_parameter_in_a_group_still_has_to_be_finite_and_is_named() -> None:
    def body(worker: Worker) -> None:
        model = Net(torch.zeros(2))
        model.linear.bias.data[1] = float("inf")
        worker.optimizer(model, torch.optim.SGD, params=model.linear.parameters(), lr=0.1)

    with local_cluster() as cluster, pytest.raises(NonFiniteError, match=r"linear\.bias is not finite"):
        cluster.train(body)


def test_what_the_script_moves_survives_a_rejoin() -> None:
    """A teacher that follows the student, and statistics, are not those that were sent at the start."""

    def body(worker: Worker) -> None:
        student, teacher, norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        model = nn.ModuleList([student, teacher, norm])
        trained = [*student.parameters(), *norm.parameters()]
        optimizer = worker.optimizer(model, torch.optim.SGD, params=trained, lr=0.1)
        for _ in range(3):
            norm(student(torch.randn(8, 4))).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.data.lerp_(theirs.data, 0.1)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer.rejoin()
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert int(norm.num_batches_tracked) == 3

    with local_cluster() as cluster:
        cluster.train(body)


# ---- the newest, for who joins later ----


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("local_updates", [False, True])
def test_a_late_joiner_gets_the_newest_running_statistics_and_teacher(mode: str, local_updates: bool) -> None:
    joined, trained = threading.Event(), threading.Event()
    batch = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) * 3 + 5

    def body(worker: Worker, num_steps: int) -> dict[str, torch.Tensor]:
        model = nn.ModuleDict({"student": net(), "teacher": nn.Linear(2, 2)})
        student = model["student"]
        if local_updates:
            inner = torch.optim.SGD(student.parameters(), lr=0.01)
            optimizer: torch.optim.Optimizer = worker.local_updates(model, inner, every=5)
        else:
            optimizer = worker.optimizer(model, torch.optim.SGD, params=student.parameters(), lr=0.01)
        for _ in range(num_steps):
            optimizer.zero_grad()
            student(batch).square().mean().backward()
            model["teacher"].weight.data.add_(1.0)
            optimizer.step()
        return {name: value.clone() for name, value in model.state_dict().items()}

    def first(worker: Worker) -> dict[str, torch.Tensor]:
        state = body(worker, 20)
        with worker.pause():
            trained.set()
            assert joined.wait(60)
        return state

    def second(worker: Worker) -> dict[str, torch.Tensor]:
        assert trained.wait(60)
        state = body(worker, 0)
        joined.set()
        return state

    with local_cluster(mode=mode) as cluster:
        expected, got = cluster.train(first, second)
    for name, value in expected.items():
        assert torch.equal(got[name], value), name
    assert int(got["student.1.num_batches_tracked"]) == 20


def test_only_one_worker_sends_them_and_everybody_keeps_its_own() -> None:
    def body(worker: Worker) -> tuple[torch.Tensor, torch.Tensor]:
        model = net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.01)
        for step in range(4):
            generator = torch.Generator().manual_seed(10 * worker.id + step)
            model(torch.randn(16, 8, generator=generator) + worker.id).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return model[1].running_mean.clone(), model[0].weight.detach().clone()

    with local_cluster(expected_workers=2) as cluster:
        (one, weight), (other, other_weight) = cluster.train(body, body)
        assert torch.equal(weight, other_weight)
        assert not torch.equal(one, other)
        sent = [shard.values for shard in (server._engine._loaded().store for server in cluster.servers)]
        held = torch.cat(sent)
    assert all(bool((held == value).any()) for value in one)


WHOLE = 400_000
"""Bytes of a buffer far larger than the model's parameters."""


def test_large_state_is_sent_rarely_and_all_of_it_in_turn() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.register_buffer("large", torch.zeros(WHOLE // 4))

    def body(worker: Worker) -> int:
        model = Small()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.01)
        before = optimizer._replica.traffic()[0]
        for _ in range(60):
            model.large.add_(1.0)
            model.linear(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        return optimizer._replica.traffic()[0] - before

    with local_cluster() as cluster:
        (num_bytes,) = cluster.train(body)
        values = torch.cat([server._engine._loaded().store.values for server in cluster.servers])
    assert 2 * WHOLE < num_bytes < 12 * WHOLE
    assert int((values >= 20.0).sum()) >= 100_000  # all of it, in turn


class Assigned(nn.Module):
    """Gives its buffers new tensors, as many scripts do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("average", torch.zeros(2))
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.average = 0.5 * self.average + batch.mean(0)
        self.count = self.count + 1
        output: torch.Tensor = self.linear(batch)
        return output


def test_a_buffer_that_the_script_assigns_anew_is_the_one_that_counts() -> None:
    joined, trained = threading.Event(), threading.Event()

    def train(worker: Worker, model: Assigned, scale: float) -> None:
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.full((2, 2), scale)).sum().backward()
            optimizer.step()

    def first(worker: Worker) -> tuple[list[float], int]:
        model = Assigned()
        train(worker, model, 4.0)
        with worker.pause():
            trained.set()
            assert joined.wait(60)
        return model.average.tolist(), int(model.count)

    def second(worker: Worker) -> tuple[list[float], int]:
        assert trained.wait(60)
        model = Assigned()
        worker.optimizer(model, torch.optim.SGD, lr=0.01)
        joined.set()
        return model.average.tolist(), int(model.count)

    with local_cluster() as cluster:
        one, other = cluster.train(first, second)
    assert one == other == ([7.0, 7.0], 3)


def test_of_a_buffer_that_the_script_assigns_anew_the_mean_is_taken_and_kept() -> None:
    def body(worker: Worker) -> tuple[list[float], list[float]]:
        model = Assigned()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.01)
        model(torch.full((2, 2), 1.0 + 2 * worker.id)).sum().backward()
        optimizer.step()
        optimizer.average_buffers()
        mean = model.average.tolist()
        optimizer.rejoin()
        return mean, model.average.tolist()

    with local_cluster(expected_workers=2) as cluster:
        assert cluster.train(body, body) == [([2.0, 2.0], [2.0, 2.0])] * 2


@pytest.mark.parametrize(
    ("assigned", "told"),
    [
        (torch.ones(5), "has another size or type"),
        (None, "is gone"),
        (torch.ones(1).expand(2), "has elements that share their memory"),
        (torch.ones(2).to_sparse(), "is no dense tensor"),
    ],
    ids=["another size", "none", "expanded", "sparse"],
)
def test_a_buffer_that_no_longer_fits_is_left_to_the_script_and_people_are_told(
    assigned: torch.Tensor | None, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    def body(worker: Worker) -> None:
        model = Assigned()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            model.linear(torch.ones(2, 2)).sum().backward()
            model.average = assigned
            optimizer.step()
        assert model.average is assigned

    with local_cluster() as cluster:
        cluster.train(body)
    assert caplog.text.count(f"the buffer average of a Assigned {told}") == 1
