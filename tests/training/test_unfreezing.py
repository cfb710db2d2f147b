"""What is in a parameter group of the optimizer is trained from when it requires a gradient, and only then."""

import copy
from typing import Any

import pytest
import torch
from clusters import local_cluster
from torch import nn

from pushpull.worker import Worker

STEPS = 6
UNFROZEN_AT = 3


def net() -> nn.Sequential:
    """The first layer is frozen at first. The same one whatever other threads draw."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    model[0].requires_grad_(False)
    return model


def train(model: nn.Sequential, optimizer: Any, unfrozen_at: int | None = UNFROZEN_AT, frozen_at: int = STEPS) -> None:
    batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    for step in range(STEPS):
        if step == unfrozen_at:
            model[0].requires_grad_(True)
        if step == frozen_at:
            model[1].requires_grad_(False)
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()


def values(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def in_one_process(**when: Any) -> list[torch.Tensor]:
    model = net()
    train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **when)
    return values(model)


def assert_close(got: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("when", [{}, {"frozen_at": 4}, {"unfrozen_at": 0}], ids=["later", "and frozen", "at once"])
def test_trains_what_is_unfrozen_and_leaves_what_is_frozen_later_as_torch_does(when: dict[str, int]) -> None:
    def body(worker: Worker) -> list[torch.Tensor]:
        model = net()
        train(model, worker.optimizer(model, torch.optim.SGD, lr=0.1, momentum=0.9), **when)
        return values(model)

    with local_cluster(expected_workers=2) as cluster:
        first, second = cluster.train(body, body)
    assert_close(first, in_one_process(**when))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("mode", ["bounded", "async"])
def test_in_every_mode(mode: str) -> None:
    def body(worker: Worker) -> list[torch.Tensor]:
        model = net()
        train(model, worker.optimizer(model, torch.optim.SGD, lr=0.1, momentum=0.9))
        return values(model)

    with local_cluster(mode=mode) as cluster:
        assert_close(cluster.train(body)[0], in_one_process())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_of_what_was_unfrozen_leave_early_from_the_second_step_on(accumulate: int) -> None:
    def body(worker: Worker) -> tuple[set[int], set[int]]:
        model = net()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1, accumulate=accumulate)
        watched = []
        for _ in range(2):
            model[0].requires_grad_(True)
            for _ in range(accumulate):
                model(torch.ones(2, 4)).sum().backward()
            watched.append(set(optimizer._replica._stager._records))
            optimizer.step()
            optimizer.zero_grad()
        return watched[0], watched[1]

    with local_cluster() as cluster:
        ((_, second),) = cluster.train(body)
    assert second == {0, 1, 2, 3}


def test_workers_that_freeze_differently_train_one_model() -> None:
    """Who has it frozen adds nothing to its gradient, as samples that do not touch a parameter do."""

    def body(worker: Worker) -> list[torch.Tensor]:
        model = net()
        if worker.id == 1:
            model[0].requires_grad_(True)
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        return values(model)

    plain = net()
    plain[0].requires_grad_(True)
    before = plain[0].weight.detach().clone()
    plain(torch.ones(2, 4)).sum().backward()
    assert plain[0].weight.grad is not None
    with local_cluster(expected_workers=2) as cluster:
        first, second = cluster.train(body, body)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.testing.assert_close(first[0], before - 0.1 * plain[0].weight.grad / 2)


def test_parameters_in_no_group_are_left_alone_whatever_they_require() -> None:
    def body(worker: Worker) -> bool:
        model = net()
        optimizer = worker.optimizer(model, torch.optim.SGD, params=model[1].parameters(), lr=0.1)
        before = values(model[0])
        train(model, optimizer)
        return all(torch.equal(a, b) for a, b in zip(values(model[0]), before, strict=True))

    with local_cluster() as cluster:
        assert cluster.train(body) == [True]


class TestLocalUpdates:
    @staticmethod
    def body(worker: Worker) -> list[torch.Tensor]:
        model = net()
        inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        train(model, worker.local_updates(model, inner, every=2, outer_lr=1.0, outer_momentum=0.0))
        return values(model)

    def test_what_is_unfrozen_inside_a_window_is_trained_on_every_worker(self) -> None:
        with local_cluster(expected_workers=2) as cluster:
            first, second = cluster.train(self.body, self.body)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert_close(first, in_one_process())

    def test_what_stays_frozen_costs_no_copy(self) -> None:
        def body(worker: Worker) -> set[int]:
            model = net()
            inner = torch.optim.SGD(model.parameters(), lr=0.1)
            optimizer = worker.local_updates(model, inner, every=2)
            return set(optimizer._pulled._kept)

        with local_cluster() as cluster:
            assert cluster.train(body) == [{2, 3}]


def test_a_copy_of_the_model_is_not_the_model() -> None:
    """An averaged copy beside the model is the script's own, frozen or not."""

    def body(worker: Worker) -> None:
        model = net()
        average = copy.deepcopy(model)
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
        train(model, optimizer)
        for mine, theirs in zip(average.parameters(), model.parameters(), strict=True):
            mine.data.lerp_(theirs.data, 0.5)
        train(model, optimizer)

    with local_cluster() as cluster:
        cluster.train(body)
