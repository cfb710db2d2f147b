"""Numbers that scripts hand over, of whatever type: Python's, numpy's scalars, tensors of one element. Pure."""

import math
from typing import Any

import torch

from ..protos.errors import SettingError


def number_of(what: str, value: Any) -> float:
    """A number, perhaps not finite.

    Raises:
        SettingError: it is none, or a tensor on the meta device, which has no value; names it.
    """
    if isinstance(value, torch.Tensor):
        if value.is_meta:
            raise SettingError(
                f"{what} is a tensor on the meta device, which has no value; give it one on a real device"
            )
        value = value.detach()
    if not isinstance(value, str | bytes):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            pass
    raise SettingError(
        f"{what} is {_shown(value)}; it must be one number (of Python, of numpy, or a tensor of one element)"
    )


def finite_number_of(what: str, value: Any) -> float:
    """As `number_of`.

    Raises:
        SettingError: it is not a finite number, too.
    """
    number = number_of(what, value)
    if not math.isfinite(number):
        raise SettingError(f"{what} is {number}; it must be a finite number")
    return number


def positive_number_of(what: str, value: Any) -> float:
    """As `finite_number_of`.

    Raises:
        SettingError: it is not above 0, too.
    """
    number = finite_number_of(what, value)
    if number <= 0:
        raise SettingError(f"{what}={number:g} must be positive")
    return number


def count_of(what: str, value: Any, least: int) -> int:
    """A whole number of at least `least`.

    Raises:
        SettingError: it is not; names it.
    """
    number = finite_number_of(what, value)
    if number != int(number) or number < least:
        raise SettingError(f"{what}={number:g} must be a whole number of at least {least}")
    return int(number)


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor) or hasattr(value, "shape"):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    return f"{value!r} of type {type(value).__name__}"
