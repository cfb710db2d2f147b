"""Values of options that the benchmarks share. argparse makes one sentence of each refusal, by the function's name."""

import math


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
