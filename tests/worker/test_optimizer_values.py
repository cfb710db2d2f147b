"""What of a torch optimizer travels."""

import functools
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from pushpull.compression.parameter_encoders import parse_parameter_encoders
from pushpull.protos.common_pb2 import OptimizerSpecification, ParameterGroup
from pushpull.protos.errors import SettingError
from pushpull.worker.optimizer_values import check_supported, group_numbers, optimizer_specification, warn_of_bursts


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(2))]


@pytest.mark.parametrize("optimizer_class", [SGD, Adam, AdamW, Adagrad, RMSprop])
def test_torch_optimizers_with_a_server_side_are_supported(optimizer_class: type[Optimizer]) -> None:
    check_supported(optimizer_class)


class OwnSGD(SGD):
    pass


class SGDNamesake(SGD):
    pass


SGDNamesake.__name__ = "SGD"


@pytest.mark.parametrize("optimizer_class", [torch.optim.LBFGS, OwnSGD, SGDNamesake])
def test_others_are_refused_with_the_choices(optimizer_class: type[Optimizer]) -> None:
    with pytest.raises(SettingError, match=r"torch\.optim\.AdamW"):
        check_supported(optimizer_class)


@pytest.mark.parametrize("given", [SGD(parameters(), lr=0.1), functools.partial(SGD, lr=0.1), "SGD", None])
def test_what_is_no_class_is_refused_with_what_to_write(given: Any) -> None:
    with pytest.raises(SettingError, match=rf"type {type(given).__name__} where .* torch\.optim\.SGD, lr="):
        check_supported(given)


def test_numbers_are_flat_and_flags_of_this_machine_stay_here() -> None:
    optimizer = AdamW(parameters(), lr=1e-3, betas=(0.8, 0.95), fused=True)
    specification = optimizer_specification(AdamW, optimizer.param_groups, optimizer.defaults)
    (group,) = specification.groups
    assert specification.name == "AdamW"
    assert dict(group.numbers) == {
        "lr": 1e-3, "betas.0": 0.8, "betas.1": 0.95, "eps": 1e-8, "weight_decay": 0.01,
    }  # fmt: skip
    assert dict(group.flags) == {"amsgrad": False, "maximize": False, "decoupled_weight_decay": True}


def test_a_learning_rate_may_be_a_tensor() -> None:
    optimizer = SGD(parameters(), lr=torch.tensor(0.5))
    assert group_numbers(optimizer.param_groups, optimizer.defaults)[0].numbers["lr"] == 0.5


def test_what_a_scheduler_cycles_is_read_and_what_it_adds_for_itself_is_not() -> None:
    optimizer = AdamW(parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    before = group_numbers(optimizer.param_groups, optimizer.defaults)[0].numbers
    optimizer.step()
    scheduler.step()
    after = group_numbers(optimizer.param_groups, optimizer.defaults)[0].numbers
    assert after["lr"] > before["lr"]
    assert after["betas.0"] < before["betas.0"]
    assert set(after) == {"lr", "betas.0", "betas.1", "eps", "weight_decay"}


def test_a_value_that_is_no_number_names_its_group() -> None:
    optimizer = SGD([{"params": parameters()}, {"params": parameters()}], lr=0.1)
    optimizer.param_groups[1]["lr"] = float("nan")
    with pytest.raises(SettingError, match="group 1: lr is nan"):
        group_numbers(optimizer.param_groups, optimizer.defaults)


@pytest.mark.parametrize(
    ("push_codec", "name", "momentum", "is_warned"),
    [
        ("topk:0.01+int8", "AdamW", 0.0, True),
        ("sign", "Adam", 0.0, True),
        ("topk:0.01+int8", "SGD", 0.9, True),
        ("topk:0.01+int8", "SGD", 0.0, False),
        ("int4", "AdamW", 0.0, False),
        ("sign:stochastic", "AdamW", 0.0, False),
        ("none+topk:0.01+int8", "AdamW", 0.0, False),
    ],
)
def test_bursts_of_error_feedback_into_moments_are_warned_of(
    push_codec: str, name: str, momentum: float, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    specification = OptimizerSpecification(name=name, groups=[ParameterGroup(numbers={"momentum": momentum})])
    warn_of_bursts(specification, parse_parameter_encoders(push_codec))
    assert ("burst" in caplog.text) == is_warned
