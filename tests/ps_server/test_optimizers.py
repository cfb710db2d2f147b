"""The servers' optimizers on lists of blocks give torch's own bits, whatever way a parameter is cut."""

from typing import Any

import pytest
import torch

from pushpull.protos.common_pb2 import OptimizerSpecification, ParameterGroup
from pushpull.protos.errors import SettingError
from pushpull.ps_server.optimizers import OPTIMIZERS, GroupValues, check_optimizer, optimizer_for

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.1, "maximize": True}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "betas": (0.8, 0.95), "maximize": True}),
    ("Adagrad", {"lr": 0.01, "initial_accumulator_value": 0.1, "lr_decay": 0.1}),
    ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.5}),
    ("RMSprop", {"lr": 0.01}),
]
SIZES = (7, 100, 33)
IGNORED = {"params", "foreach", "fused", "capturable", "differentiable"}


def values_of(group: dict[str, Any]) -> GroupValues:
    numbers: dict[str, float] = {}
    flags: dict[str, bool] = {}
    for name, value in group.items():
        if name in IGNORED or value is None:
            continue
        if isinstance(value, bool):
            flags[name] = value
        elif isinstance(value, tuple):
            numbers |= {f"{name}.{index}": part for index, part in enumerate(value)}
        else:
            numbers[name] = value
    return GroupValues(numbers, flags)


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=[f"{name} {kwargs}" for name, kwargs in CASES])
def test_same_bits_as_torch(name: str, kwargs: dict[str, Any]) -> None:
    """Also when a parameter has no gradient in some steps."""
    torch.manual_seed(0)
    parameters = [torch.randn(size, requires_grad=True) for size in SIZES]
    fastest = {"foreach": True} if name == "RMSprop" else {"fused": True}
    reference = getattr(torch.optim, name)(parameters, **kwargs, **fastest)
    values = values_of(reference.param_groups[0])
    flat = torch.cat([parameter.detach() for parameter in parameters]).clone()
    ranges, start = [], 0
    for size in SIZES:
        ranges.append((start, start + size))
        start += size
    group = ParameterGroup(numbers=dict(values.numbers), flags=dict(values.flags))
    ours = optimizer_for(OptimizerSpecification(name=name, groups=[group]), ranges, start)
    # torch's fused SGD cannot start a momentum later for one parameter than for another; ours can
    without_gradient = (2,) if name == "SGD" else (0, 2)
    for step in range(5):
        gradients = [torch.randn(size) for size in SIZES]
        present = [index for index in range(len(SIZES)) if index != 1 or step not in without_gradient]
        for index, parameter in enumerate(parameters):
            parameter.grad = gradients[index].clone() if index in present else None
        reference.step()
        views = [flat[slice(*ranges[index])] for index in present]
        ours.update(present, views, [gradients[index].clone() for index in present], values)
    assert torch.equal(torch.cat([parameter.detach() for parameter in parameters]), flat)


def test_a_momentum_that_starts_later_for_one_block() -> None:
    """What torch's plain loop gives when a parameter gets its first gradient in the second step."""
    parameters = [torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)]
    reference = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, dampening=0.5, fused=False, foreach=False)
    values = values_of(reference.param_groups[0])
    flat = torch.ones(6)
    specification = OptimizerSpecification(name="SGD", groups=[ParameterGroup(numbers=dict(values.numbers))])
    ours = optimizer_for(specification, [(0, 3), (3, 6)], 6)
    for step in range(3):
        present = [0] if step == 0 else [0, 1]
        for index in present:
            parameters[index].grad = torch.full((3,), 1.0 + index)
        reference.step()
        ours.update(
            present,
            [flat[3 * index : 3 * index + 3] for index in present],
            [torch.full((3,), 1.0 + index) for index in present],
            values,
        )
    torch.testing.assert_close(torch.cat([parameter.detach() for parameter in parameters]), flat, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "groups", "said"),
    [
        ("os.system", [ParameterGroup(numbers={"lr": 1.0})], "os.system"),
        ("SGD", [], "at least one parameter group"),
        ("SGD", [ParameterGroup()], "lr"),
    ],
)
def test_what_the_servers_do_not_have_is_refused(name: str, groups: list[ParameterGroup], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        check_optimizer(OptimizerSpecification(name=name, groups=groups))


def test_momentum_cannot_be_switched_on_later() -> None:
    group = ParameterGroup(numbers={"lr": 0.1, "momentum": 0.0})
    ours = optimizer_for(OptimizerSpecification(name="SGD", groups=[group]), [(0, 3)], 3)
    with pytest.raises(SettingError, match="momentum"):
        ours.update([0], [torch.ones(3)], [torch.ones(3)], GroupValues({"lr": 0.1, "momentum": 0.9}, {}))


def test_every_optimizer_of_the_table_is_covered() -> None:
    """LARS and LAMB are not torch's; `test_layerwise.py` has them."""
    assert {name for name, _ in CASES} | {"LARS", "LAMB"} == set(OPTIMIZERS)
