"""Reads an optimizer's parameter groups ahead of each step, and notices what may not change in them. Pure."""

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any

import torch

from ..protos.common_pb2 import ParameterGroup
from ..protos.errors import SettingError
from .optimizer_values import flag_values, group_numbers


class GroupReader:
    """What steps say of an optimizer's parameter groups.

    Numbers are read anew for each step. Groups, their parameters and what is on or off in them hold for the whole job: the
    servers were told at the start, so a change would do nothing, and is refused.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._defaults = optimizer.defaults
        self._flags = flag_values(optimizer.param_groups, self._defaults)
        self._names = [frozenset(group.numbers) for group in group_numbers(optimizer.param_groups, self._defaults)]
        """Of the numbers in each group."""
        self._parameters = [list(group["params"]) for group in optimizer.param_groups]

    def numbers(self, param_groups: Sequence[Mapping[str, Any]]) -> list[ParameterGroup]:
        """The numbers of every group at this moment.

        Raises:
            SettingError: a value is no finite number, or gone; or groups, parameters or flags are not those of the start.
        """
        self._check_parameters(param_groups)
        self._check_present(param_groups)
        for index, (now, first) in enumerate(zip(flag_values(param_groups, self._defaults), self._flags, strict=True)):
            changed = next((name for name in first if now[name] != first[name]), None)
            if changed is not None:
                raise SettingError(
                    f"parameter group {index}: {changed} is {now[changed]}, and was {first[changed]} when the optimizer was "
                    "made; what is on or off is fixed for the whole job: set it where the optimizer is made, on every worker "
                    "(load_state_dict brings it, too)"
                )
        groups = group_numbers(param_groups, self._defaults)
        for index, (group, names) in enumerate(zip(groups, self._names, strict=True)):
            lost = min(names - set(group.numbers), default="")
            if lost:
                value = param_groups[index][lost.partition(".")[0]]
                raise SettingError(
                    f"parameter group {index}: {lost} was a number when the optimizer was made, and is gone: the group has "
                    f"{value!r} there; give it one number, or as many as at first"
                )
        return groups

    def _check_present(self, param_groups: Sequence[Mapping[str, Any]]) -> None:
        for index, group in enumerate(param_groups):
            missing = next((name for name in self._defaults if name not in group), None)
            if missing is not None:
                raise SettingError(
                    f"parameter group {index} has no {missing!r} any more, and had one when the optimizer was made; put it back"
                )

    def _check_parameters(self, param_groups: Sequence[Mapping[str, Any]]) -> None:
        if len(param_groups) != len(self._parameters):
            raise SettingError(
                f"the optimizer has {len(param_groups)} parameter groups, and had {len(self._parameters)} when it was made; "
                "groups are fixed for the whole job: pass all of them where it is made"
            )
        for index, (group, first) in enumerate(zip(param_groups, self._parameters, strict=True)):
            now = group["params"]
            if len(now) != len(first) or not all(map(is_, now, first)):
                raise SettingError(
                    f"parameter group {index} has other parameters than when the optimizer was made; they are fixed for the "
                    "whole job: pass all that are ever trained where it is made (those that do not require a gradient yet "
                    "are trained once they do)"
                )
