"""Moments in 8 bits on the servers: how much memory they take, and that training hardly notices."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from raw_worker import plan_for

from pushpull.protos.common_pb2 import OptimizerSpecification, ParameterGroup
from pushpull.protos.errors import OverBudgetError
from pushpull.protos.registrar_pb2 import EnrolRequest
from pushpull.ps_server.config import JobSettings
from pushpull.ps_server.enrolment import check_budget
from pushpull.ps_server.optimizers import GroupValues, optimizer_for

BETAS = {"betas.0": 0.9, "betas.1": 0.999, "eps": 1e-8, "weight_decay": 0.01}
CASES: list[tuple[str, dict[str, float], dict[str, bool], float, float]] = [
    ("SGD", {}, {}, 0, 0),
    ("SGD", {"momentum": 0.9}, {}, 4, 1),
    ("Adam", BETAS, {}, 8, 2),
    ("AdamW", BETAS, {}, 8, 2),
    ("AdamW", BETAS, {"amsgrad": True}, 12, 6),
    ("Adagrad", {"lr_decay": 0.0, "eps": 1e-10, "weight_decay": 0.0}, {}, 4, 4),
    ("RMSprop", {"alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.5}, {}, 8, 2),
    ("RMSprop", {"alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0}, {"centered": True}, 8, 8),
    ("LAMB", BETAS, {}, 8 + 4, 2 + 4),
    ("LARS", {"momentum": 0.9, "weight_decay": 0.0, "trust_coefficient": 0.1, "eps": 1e-8}, {}, 4 + 4, 1 + 4),
]
SCALE_BYTES = 2 / 256


@pytest.fixture(autouse=True)
def one_thread_per_call() -> Iterator[None]:
    """As servers do: for a few hundred elements several threads only wait for each other."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def specification_of(name: str, numbers: dict[str, float], flags: dict[str, bool]) -> OptimizerSpecification:
    return OptimizerSpecification(name=name, groups=[ParameterGroup(numbers={"lr": 0.05, **numbers}, flags=flags)])


@pytest.mark.parametrize(("name", "numbers", "flags", "fp32", "int8"), CASES, ids=lambda value: str(value))
def test_bytes_beside_a_parameter(
    name: str, numbers: dict[str, float], flags: dict[str, bool], fp32: float, int8: float
) -> None:
    """The 8-bit kinds have one scale of two bytes for each 256 numbers; LARS and LAMB hold an update of 4 bytes."""
    specification = specification_of(name, numbers, flags)
    assert optimizer_for(specification, [], 0).bytes_per_element == fp32
    coded = optimizer_for(specification, [], 0, "int8").bytes_per_element
    assert int8 <= coded <= int8 + 2 * SCALE_BYTES


@pytest.mark.parametrize(("name", "numbers", "flags"), [case[:3] for case in CASES], ids=lambda value: str(value))
def test_a_quadratic_is_solved_about_as_well_as_with_fp32(
    name: str, numbers: dict[str, float], flags: dict[str, bool]
) -> None:
    ends = {state: distance(name, numbers, flags, state) for state in ("fp32", "int8")}
    start = float(torch.linspace(-1, 1, 600).norm())
    assert abs(ends["int8"] - ends["fp32"]) <= 0.05 * start, ends
    assert ends["int8"] < 0.8 * start


def distance(name: str, numbers: dict[str, float], flags: dict[str, bool], state: str) -> float:
    """From the solution after 60 steps with noisy gradients of unlike sizes."""
    torch.manual_seed(0)
    goal = torch.linspace(-1, 1, 600)
    value = torch.zeros(600)
    scale = torch.logspace(-2, 0, 600)
    specification = specification_of(name, numbers, flags)
    ranges = [(0, 7), (7, 500), (500, 600)]
    optimizer = optimizer_for(specification, ranges, 600, state)
    group = GroupValues(dict(specification.groups[0].numbers), dict(specification.groups[0].flags))
    for _ in range(60):
        gradient = scale * (value - goal + 0.1 * torch.randn(600))
        views = [[tensor[start:stop] for start, stop in ranges] for tensor in (value, gradient)]
        optimizer.update([0, 1, 2], *views, group)
    return float((value - goal).norm())


def test_the_same_updates_give_the_same_bits() -> None:
    ends = {distance("AdamW", BETAS, {}, "int8") for _ in range(2)}
    assert len(ends) == 1


def test_the_budget_knows_how_moments_are_kept() -> None:
    request = EnrolRequest(plan=plan_for(1, (1000, 24)), optimizer=specification_of("AdamW", BETAS, {}))
    check_budget(request, JobSettings(memory_bytes=6200, optimizer_state="int8"), 1, 1)
    settings: dict[str, Any] = {"memory_bytes": 6200}
    with pytest.raises(OverBudgetError, match="optimizer_state=int8"):
        check_budget(request, JobSettings(**settings), 1, 1)
