"""Reading the arguments behind a family's name in a specification, e.g. `stochastic` and `512` of
`int4:stochastic:512`."""

import re

from ..protos.errors import CodecError

DEFAULT_BLOCK_LOG2 = 8
SMALLEST_BLOCK_LOG2, LARGEST_BLOCK_LOG2 = 5, 15

_STOCHASTIC = "stochastic"
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MOST_DIGITS = 9


def no_arguments(name: str, arguments: list[str]) -> None:
    """Raise CodecError if there are any."""
    if arguments:
        raise CodecError(f"{name} takes no argument, got {':'.join(arguments)!r}")


def rounding(name: str, arguments: list[str]) -> bool:
    """Whether `stochastic` is given, the only argument."""
    if arguments not in ([], [_STOCHASTIC]):
        raise CodecError(f"{name} takes no argument but 'stochastic', got {':'.join(arguments)!r}")
    return bool(arguments)


def rounding_and_block(name: str, arguments: list[str]) -> tuple[bool, int]:
    """`[stochastic][:block]` as (stochastic, log2 of the block)."""
    rest = list(arguments)
    stochastic = rest[:1] == [_STOCHASTIC]
    if stochastic:
        rest.pop(0)
    if not rest:
        return stochastic, DEFAULT_BLOCK_LOG2
    sizes = {str(1 << log2): log2 for log2 in range(SMALLEST_BLOCK_LOG2, LARGEST_BLOCK_LOG2 + 1)}
    if len(rest) > 1 or rest[0] not in sizes:
        raise CodecError(
            f"{name} takes 'stochastic' and the elements that share a scale, a power of two from "
            f"{1 << SMALLEST_BLOCK_LOG2} to {1 << LARGEST_BLOCK_LOG2}, got {':'.join(arguments)!r}"
        )
    return stochastic, sizes[rest[0]]


def rounding_and_block_spec(name: str, stochastic: bool, block_log2: int) -> str:
    """The specification that `rounding_and_block` reads."""
    parts = [name]
    if stochastic:
        parts.append(_STOCHASTIC)
    if block_log2 != DEFAULT_BLOCK_LOG2:
        parts.append(str(1 << block_log2))
    return ":".join(parts)


def number(name: str, what: str, text: str) -> float:
    """A finite decimal number in ASCII; minus zero is zero."""
    value = float(text) if _NUMBER.fullmatch(text) else float("nan")
    if not abs(value) < float("inf"):
        raise CodecError(f"{name} takes {what}, not {text!r}")
    return value or 0.0


def whole_number(name: str, what: str, text: str) -> int:
    """A whole number of at least 0 that has at most nine digits."""
    if not re.fullmatch(rf"[0-9]{{1,{_MOST_DIGITS}}}", text):
        raise CodecError(f"{name} takes {what}, of at most {_MOST_DIGITS} digits, not {text!r}")
    return int(text)


def density(name: str, text: str) -> float:
    """A share of elements, above 0 and at most 1."""
    share = number(name, "the share of elements to send", text)
    if not 0.0 < share <= 1.0:
        raise CodecError(f"{name} sends a share of the elements above 0 and at most 1, not {text}")
    return share


def decimal(value: float) -> str:
    """The shortest text that reads back as the same number; without a plus, which joins the parts of a
    specification."""
    return repr(value).replace("e+", "e").removesuffix(".0")
