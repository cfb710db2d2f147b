"""What the CPU kernels of all families share.

No fast-math: it would remove the tests for NaN and infinity and fuse products into sums, so that the result
depended on the order of workers. Every product is rounded before it is added. Maxima are taken on integer bit
patterns, which order magnitudes as the floats do, put NaN above infinity, and vectorise. Integers are
narrowed after every operation (numba widens them), so that a vector holds as many lanes as for floats.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.extending import intrinsic
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Kernel = TypeVar("Kernel", bound=Callable[..., Any])

BLOCK_LOG2 = 8
BLOCK = 1 << BLOCK_LOG2
FINITE, NOT_FINITE, MALFORMED = 0, 1, 2
"""Findings of the kernels that check a section."""

INFINITY = np.int32(0x7F800000)
MAGNITUDE = np.int32(0x7FFFFFFF)


def kernel(function: Kernel) -> Kernel:
    """Compile without the GIL, cached on disk, with numpy's rules for division.

    The cache of a kernel is renewed when its own file changes, not when a file it calls into does: after a
    change here, delete `compression/__pycache__`.
    """
    return cast(Kernel, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


def _bit_cast(source: Any, target: Any) -> Callable[[Any], Any]:
    def typed(typing_context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(source), generate

    return cast(Callable[[Any], Any], intrinsic(typed))


bits_of = _bit_cast(numba.types.float32, numba.types.int32)
float_of = _bit_cast(numba.types.int32, numba.types.float32)


def _count_trailing_zeros(typing_context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero_is_undefined = context.get_constant(numba.types.boolean, True)
        return builder.cttz(arguments[0], zero_is_undefined)

    return numba.types.uint64(numba.types.uint64), generate


trailing_zeros = cast(Callable[[Any], Any], intrinsic(_count_trailing_zeros))
"""Zeros below the lowest set bit of a uint64 that is not zero."""


@kernel
def largest_bits(values: Floats) -> np.int32:
    """The largest magnitude, as a bit pattern; >= INFINITY if a value is not finite."""
    found = np.int32(0)
    for i in range(values.size):
        found = max(found, np.int32(bits_of(values[i]) & MAGNITUDE))
    return found


@kernel
def add(values: Floats, committed: Floats, total: Floats) -> None:
    """total = values + committed."""
    for i in range(values.size):
        total[i] = values[i] + committed[i]


@kernel
def sum_of_squares(values: Floats) -> float:
    """In float64, in order."""
    total = 0.0
    for i in range(values.size):
        total += np.float64(values[i]) * np.float64(values[i])
    return total


@kernel
def mix(word: np.uint32) -> np.uint32:
    """A 32-bit integer hash (lowbias32)."""
    word = np.uint32(word ^ np.uint32(word >> np.uint32(16)))
    word = np.uint32(word * np.uint32(0x7FEB352D))
    word = np.uint32(word ^ np.uint32(word >> np.uint32(15)))
    word = np.uint32(word * np.uint32(0x846CA68B))
    return np.uint32(word ^ np.uint32(word >> np.uint32(16)))
