"""Learning rates follow the workers that make up a round."""

import pytest
import torch
from clusters import local_cluster
from torch import nn

from pushpull.protos.errors import SettingError
from pushpull.worker import LearningRateScaling, Worker

LEARNING_RATE = 0.05


def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def gradient_of_ones(layer: nn.Linear) -> None:
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)


def train(worker: Worker, num_steps: int, scaling: LearningRateScaling | None) -> tuple[list[float], list[float]]:
    """Factor of each step, and how far it moved the bias in learning rates."""
    layer = model()
    optimizer = worker.optimizer(layer, torch.optim.SGD, lr=LEARNING_RATE, lr_scaling=scaling)
    factors, moves = [], []
    for _ in range(num_steps):
        before = layer.bias.item()
        gradient_of_ones(layer)
        optimizer.step(num_samples=8)
        factors.append(optimizer.lr_factor)
        moves.append((before - layer.bias.item()) / LEARNING_RATE)
    return factors, moves


def test_two_workers_step_twice_as_far_as_the_one_that_the_rate_was_chosen_for() -> None:
    scaling = LearningRateScaling(rule="linear", base_samples=8, warmup_steps=2)
    with local_cluster(mode="sync", expected_workers=2) as cluster:
        (factors, moves), (theirs, _) = cluster.train(*[lambda worker: train(worker, 4, scaling)] * 2)
    assert factors == theirs == [1.5, 2.0, 2.0, 2.0]
    assert moves == pytest.approx(factors, rel=1e-4)


def test_a_worker_that_leaves_takes_its_part_of_the_rate_with_it() -> None:
    scaling = LearningRateScaling(rule="linear", base_workers=1)
    with local_cluster(mode="sync", expected_workers=2) as cluster:
        (factors, _), _ = cluster.train(
            lambda worker: train(worker, 6, scaling), lambda worker: train(worker, 2, scaling)
        )
    # What a round was made of is known behind it.
    assert factors[:3] == [2.0, 2.0, 2.0]
    assert factors[-2:] == [1.0, 1.0]


def test_a_worker_that_only_pushes_values_holds_no_rate_back() -> None:
    """Its numbers hold for the round, as those of the lowest id."""
    scaling = LearningRateScaling(rule="linear", base_workers=1)

    def push_values(worker: Worker) -> None:
        layer = model()
        optimizer = worker.optimizer(layer, torch.optim.SGD, lr=LEARNING_RATE, lr_scaling=scaling)
        gradient_of_ones(layer)
        optimizer.step(num_samples=8)
        with torch.no_grad():
            layer.weight.zero_()
        optimizer.push_values()

    with local_cluster(mode="sync", expected_workers=2) as cluster:
        _, (_, moves) = cluster.train(push_values, lambda worker: train(worker, 2, scaling))
    assert moves == pytest.approx([2.0, 2.0], rel=1e-4)


def test_without_rounds_there_is_no_joint_batch_to_follow() -> None:
    with local_cluster(mode="async") as cluster, pytest.raises(SettingError, match="mode=sync"):
        cluster.train(lambda worker: train(worker, 1, LearningRateScaling(base_workers=1)))
