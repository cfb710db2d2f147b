"""Learning rates and other numbers of scripts, the whole way to the servers."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from clusters import local_cluster

from pushpull.protos.errors import SettingError
from pushpull.worker import LearningRateScaling, Worker

Change = Callable[[Worker, torch.optim.Optimizer], Callable[[int], None]]
"""What a worker does to its optimizer behind each of its steps, from 0."""


def test_a_rate_of_numpy_trains_as_in_torch() -> None:
    """The whole way: into the constructor, and from a schedule."""
    rates = np.linspace(0.1, 0.01, 4, dtype=np.float32)

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for rate in rates:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            model(torch.ones(2, 4)).mean().backward()
            optimizer.step()

    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Linear(4, 1, bias=False)

    def body(worker: Worker) -> torch.Tensor:
        own = model()
        train(own, worker.optimizer(own, torch.optim.SGD, lr=np.float32(0.5), momentum=np.float64(0.5)))
        worker.log(loss=np.float32(1.0), batch=np.int64(3), both=torch.tensor([2.0]))
        return own.weight.detach()  # type: ignore[union-attr,operator]

    plain = model()
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.5, momentum=0.5))
    with local_cluster(1) as cluster:
        (trained,) = cluster.train(body)
    torch.testing.assert_close(trained, plain.weight)  # type: ignore[arg-type]


def train_both(
    change: Change, caplog: pytest.LogCaptureFixture, **scaling: float
) -> tuple[list[list[float]], list[str]]:
    """Two workers take four steps with the gradient 1. How far their weights moved in each step, and
    what workers said of numbers that differ."""

    def body(worker: Worker) -> list[float]:
        model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(model.weight)
        rule = LearningRateScaling(base_samples=scaling["base_samples"], warmup_steps=2) if scaling else None
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5, lr_scaling=rule)
        behind, moves = change(worker, optimizer), []
        for step in range(4):
            before = model.weight.item()
            optimizer.zero_grad()
            model(torch.ones(1, 1)).mean().backward()
            optimizer.step(num_samples=1.0 + worker.id)
            moves.append(before - model.weight.item())
            behind(step)
        return moves

    with local_cluster(2, mode="sync", expected_workers=2) as cluster, caplog.at_level(logging.WARNING):
        moves = cluster.train(body, body)
    return moves, [r.getMessage() for r in caplog.records if "differs between workers" in r.getMessage()]


def plateau_on_own_loss(worker: Worker, optimizer: torch.optim.Optimizer) -> Callable[[int], None]:
    """Only worker 1's loss does not fall."""
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    return lambda step: scheduler.step(1.0 if worker.id == 1 else 1.0 - step)


def weight_decay_of_its_own(worker: Worker, optimizer: torch.optim.Optimizer) -> Callable[[int], None]:
    def decay(step: int) -> None:
        optimizer.param_groups[0]["weight_decay"] = 0.25 * worker.id

    return decay


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (plateau_on_own_loss, "lr of parameter group 0 differs between workers: 0.25 on worker 1, 0.5 on worker 0"),
        (
            weight_decay_of_its_own,
            "weight_decay of parameter group 0 differs between workers: 0.25 on worker 1, 0.0 on",
        ),
    ],
)
def test_a_worker_whose_numbers_do_not_count_is_told_once(
    change: Change, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    moves, warnings = train_both(change, caplog)
    assert moves == [[0.5] * 4] * 2, "the numbers of worker 0 hold for both"
    assert [warning.startswith(said) for warning in warnings] == [True]


@pytest.mark.parametrize("scaling", [{}, {"base_samples": 2.0}])
def test_a_schedule_that_all_have_in_common_is_not_warned_of(
    scaling: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is a first step whose `lr_scaling` knows only the worker's own batch."""

    def halved(worker: Worker, optimizer: torch.optim.Optimizer) -> Callable[[int], None]:
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return lambda step: scheduler.step()

    _, warnings = train_both(halved, caplog, **scaling)
    assert not warnings


def test_a_flag_that_is_switched_on_later_is_refused_before_anything_is_pushed() -> None:
    def body(worker: Worker) -> tuple[float, float]:
        model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(model.weight)
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5, momentum=0.5)

        def step() -> float:
            optimizer.zero_grad()
            model(torch.ones(1, 1)).mean().backward()
            optimizer.step()
            return model.weight.item()

        first = step()
        optimizer.param_groups[0]["nesterov"] = True
        with pytest.raises(SettingError, match="parameter group 0: nesterov is True, and was False"):
            step()
        optimizer.param_groups[0]["nesterov"] = False
        return first, step()

    with local_cluster(1) as cluster:
        assert cluster.train(body) == [(-0.5, -1.25)]
