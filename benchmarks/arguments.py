"""Values of options that the benchmarks share. argparse makes one sentence of each refusal, by the function's name."""

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

from ..protos.errors import SettingError

Value = TypeVar("Value")


def positive(text: str) -> int:
    """A whole number above 0; raises ValueError."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def positive_number(text: str) -> float:
    """A finite number above 0; raises ValueError."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError
    return number


positive.__name__ = "positive number"
positive_number.__name__ = "positive number"


def in_its_words(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """`parse` for argparse, which keeps the sentence of a SettingError to itself."""

    def parsed(text: str) -> Value:
        try:
            return parse(text)
        except SettingError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed
