"""What may not change in an optimizer's parameter groups is noticed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pushpull.protos.errors import SettingError
from pushpull.worker.group_reader import GroupReader


def optimizer(kind: type[torch.optim.Optimizer] = torch.optim.SGD, **settings: Any) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]} for _ in range(2)]
    return kind(groups, lr=0.1, **settings)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("kind", "flag"),
    [
        (torch.optim.SGD, "nesterov"),
        (torch.optim.SGD, "maximize"),
        (torch.optim.Adam, "amsgrad"),
        (torch.optim.AdamW, "maximize"),
        (torch.optim.RMSprop, "centered"),
    ],
)
def test_what_is_on_or_off_stays_so(kind: type[torch.optim.Optimizer], flag: str) -> None:
    changed = optimizer(kind, momentum=0.9) if kind is torch.optim.SGD else optimizer(kind)
    reader = GroupReader(changed)
    reader.numbers(changed.param_groups)
    changed.param_groups[1][flag] = True
    with pytest.raises(SettingError, match=rf"parameter group 1: {flag} is True, and was False"):
        reader.numbers(changed.param_groups)
    changed.param_groups[1][flag] = False
    reader.numbers(changed.param_groups)


def test_the_same_flag_of_another_type_is_no_change() -> None:
    same = optimizer(nesterov=True, momentum=0.9)
    reader = GroupReader(same)
    same.param_groups[0]["nesterov"] = 1
    same.param_groups[0]["foreach"] = True  # how torch computes here
    reader.numbers(same.param_groups)


def test_flags_that_a_saved_state_brings_are_noticed() -> None:
    now, saved = optimizer(), optimizer(maximize=True)
    reader = GroupReader(now)
    now.load_state_dict(saved.state_dict())
    with pytest.raises(SettingError, match=r"maximize is True.*load_state_dict"):
        reader.numbers(now.param_groups)


def test_numbers_may_change_and_saved_ones_may_be_loaded() -> None:
    now, saved = optimizer(), optimizer()
    reader = GroupReader(now)
    saved.param_groups[1]["lr"] = 0.5
    now.load_state_dict(saved.state_dict())
    assert [group.numbers["lr"] for group in reader.numbers(now.param_groups)] == [0.1, 0.5]


def drop_one(groups: list[dict[str, Any]]) -> None:
    del groups[0]["params"][0]


def put_another(groups: list[dict[str, Any]]) -> None:
    groups[0]["params"][0] = torch.nn.Parameter(torch.zeros(2))


def add_one(groups: list[dict[str, Any]]) -> None:
    groups[0]["params"].append(torch.nn.Parameter(torch.zeros(2)))


@pytest.mark.parametrize("change", [drop_one, put_another, add_one])
def test_other_parameters_in_a_group_are_noticed(change: Callable[[list[dict[str, Any]]], None]) -> None:
    changed = optimizer()
    reader = GroupReader(changed)
    change(changed.param_groups)
    with pytest.raises(SettingError, match="parameter group 0 has other parameters"):
        reader.numbers(changed.param_groups)


def test_another_number_of_groups_is_noticed() -> None:
    changed = optimizer()
    reader = GroupReader(changed)
    changed.param_groups.append(dict(changed.param_groups[0], params=[]))
    with pytest.raises(SettingError, match="3 parameter groups, and had 2"):
        reader.numbers(changed.param_groups)


@pytest.mark.parametrize("value", [None, [0.1], torch.full((2,), 0.1)])
def test_a_number_that_is_none_any_more_is_named(value: object) -> None:
    """Servers would only find that one is missing."""
    changed = optimizer()
    reader = GroupReader(changed)
    changed.param_groups[1]["lr"] = value
    with pytest.raises(SettingError, match=r"parameter group 1: lr "):
        reader.numbers(changed.param_groups)


def test_a_pair_of_numbers_stays_one() -> None:
    changed = optimizer(torch.optim.Adam)
    reader = GroupReader(changed)
    changed.param_groups[0]["betas"] = (0.5,)
    with pytest.raises(SettingError, match=r"parameter group 0: betas\.1 was a number .* has \(0\.5,\) there"):
        reader.numbers(changed.param_groups)


@pytest.mark.parametrize("name", ["momentum", "lr", "nesterov"])
def test_a_value_that_was_deleted_is_named(name: str) -> None:
    changed = optimizer()
    reader = GroupReader(changed)
    del changed.param_groups[1][name]
    with pytest.raises(SettingError, match=f"parameter group 1 has no '{name}' any more"):
        reader.numbers(changed.param_groups)
