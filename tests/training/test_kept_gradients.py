"""Scripts that do not clear gradients between steps: what plain torch makes of it is what the servers make of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from clusters import local_cluster
from torch import nn

from pushpull.worker import Worker

NUM_STEPS = 4


def net() -> nn.Sequential:
    """The same one in every thread."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def backward(model: nn.Module, seed: int) -> None:
    batch = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
    model(batch).square().mean().backward()


def never_cleared(model: nn.Module, optimizer: Any) -> None:
    """Every step pushes the sum of all gradients so far."""
    for step in range(NUM_STEPS):
        backward(model, step)
        optimizer.step()


def cleared_now_and_then(model: nn.Module, optimizer: Any) -> None:
    for step in range(NUM_STEPS):
        backward(model, step)
        optimizer.step()
        if step == 1:
            optimizer.zero_grad()


def several_passes_for_a_step(model: nn.Module, optimizer: Any) -> None:
    """By hand, without accumulate=2: what was sent early is sent again."""
    for step in range(NUM_STEPS):
        backward(model, step)
        backward(model, step + 100)
        optimizer.step()
        optimizer.zero_grad()


def steps_without_backward(model: nn.Module, optimizer: Any) -> None:
    """The same gradients count again."""
    backward(model, 0)
    for _ in range(NUM_STEPS):
        optimizer.step()


def zeroed_in_place(model: nn.Module, optimizer: Any) -> None:
    for step in range(NUM_STEPS):
        backward(model, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


LOOPS = [never_cleared, cleared_now_and_then, several_passes_for_a_step, steps_without_backward, zeroed_in_place]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_that_are_not_cleared_count_as_in_torch(
    loop: Callable[[nn.Module, Any], None], accumulate: int
) -> None:
    """Also where `accumulate` does not say what the loop does: it is about when gradients leave, not what they are."""
    wanted = net()
    loop(wanted, torch.optim.SGD(wanted.parameters(), lr=0.1, momentum=0.9))

    def body(worker: Worker) -> nn.Module:
        model = net()
        loop(model, worker.optimizer(model, torch.optim.SGD, lr=0.1, momentum=0.9, accumulate=accumulate))
        return model

    with local_cluster() as cluster:
        (model,) = cluster.train(body)
    for mine, right in zip(model.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-6, atol=1e-7)
