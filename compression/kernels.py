"""What the CPU kernels of all families share.

No fast-math: it would remove the tests for NaN and infinity and fuse products into sums, so that the result
depended on the order of workers. Every product is rounded before it is added. Maxima are taken on integer bit
patterns, which order magnitudes as the floats do, put NaN above infinity, and vectorise. Integers are
narrowed after every operation (numba widens them), so that a vector holds as many lanes as for floats.

Kernels that go through blocks take whole arrays, and where a block starts and its size as unsigned integers:
a slice would count references, and a signed index would be tested for being negative; both cost more than
the arithmetic on a block (measured: 5 against 9 G elements/s for adding int8).
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.extending import intrinsic
from numpy.typing import NDArray

from .kernel_cache import KernelCache

Floats = NDArray[np.float32]
Kernel = TypeVar("Kernel", bound=Callable[..., Any])

FINITE, NOT_FINITE, MALFORMED = 0, 1, 2
"""Findings of the kernels that check a section."""

INFINITY = np.int32(0x7F800000)
MAGNITUDE = np.int32(0x7FFFFFFF)
LARGEST = np.float32(3.4028235e38)
"""The largest finite number."""


def _stamp_of_sources() -> str:
    """A digest of every module of this package that has kernels: they call each other across files."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        source = path.read_bytes()
        if b"@kernel\n" in source:
            digest.update(source)
    return digest.hexdigest()


_SOURCE_STAMP = _stamp_of_sources()


def kernel(function: Kernel) -> Kernel:
    """Compile without the GIL, cached on disk, with numpy's rules for division.

    A cached kernel is compiled again when any module with kernels changes. Numba itself looks at the one file of
    the kernel only, and would go on with stale code of what it calls.
    """
    compiled: Any = numba.njit(nogil=True, error_model="numpy")(function)
    compiled._cache = KernelCache(function, _SOURCE_STAMP)
    return cast(Kernel, compiled)


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
def largest_bits_of(values: Floats, start: np.uint64, size: np.uint64) -> np.int32:
    """`largest_bits` of a block."""
    found = np.int32(0)
    for i in range(size):
        found = max(found, np.int32(bits_of(values[start + i]) & MAGNITUDE))
    return found


@kernel
def add_block(values: Floats, committed: Floats, total: Floats, start: np.uint64, size: np.uint64) -> None:
    """total = values + committed in a block."""
    for i in range(size):
        total[start + i] = values[start + i] + committed[start + i]


@kernel
def size_of_block(start: np.uint64, block: np.uint64, count: int) -> np.uint64:
    """Elements of the block that starts there: fewer in the last one."""
    return min(block, np.uint64(count) - start)


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


GOLDEN = np.uint32(0x9E3779B9)


@kernel
def draw_bits(seed: np.uint32, index: np.uint32) -> np.uint32:
    """32 random bits from (seed, index)."""
    return mix(np.uint32(np.uint32(index * GOLDEN) ^ seed))


@kernel
def draw(seed: np.uint32, index: np.uint32) -> np.float32:
    """Uniform in [0, 1), in steps of 2^-24."""
    return np.float32(np.int32(np.uint32(draw_bits(seed, index) >> np.uint32(8)))) * np.float32(2.0**-24)


@kernel
def fold(values: Floats, size: np.uint64) -> np.float32:
    """Sum of the first `size` (a power of two) values, which are overwritten: the upper half is added to the
    lower, again and again. The one order of additions that kernels and references share."""
    while size > np.uint64(8):
        size >>= np.uint64(1)
        for i in range(size):
            values[i] += values[size + i]
    if size < np.uint64(8):
        while size > np.uint64(1):
            size >>= np.uint64(1)
            for i in range(size):
                values[i] += values[size + i]
        return np.float32(values[0])
    # The last three steps without their loops, which would take as long as all those before.
    even = np.float32(np.float32(values[0] + values[4]) + np.float32(values[2] + values[6]))
    odd = np.float32(np.float32(values[1] + values[5]) + np.float32(values[3] + values[7]))
    return np.float32(even + odd)


CACHE_FOLDER = Path(cast(Any, mix)._cache.cache_path)
"""Where this user's compiled kernels are kept: beside the sources, or in the user's cache folder if that may not be written."""
