"""What the device kernels of all families share; the twins of kernels.py.

Bits must equal those of the CPU. So kernels are launched with `EXACT` (no fused multiply-adds), divide by `div_rn`,
round by `nearest`, and add in the order of `folded_sum`. Tests run them in Triton's interpreter and read the code
that the compiler makes of them; on a GPU they have not run yet.
"""

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

EXACT = {"enable_fp_fusion": False}
"""Launch options of every kernel: a product is rounded before it is added."""

INFINITY = tl.constexpr(0x7F800000)
MAGNITUDE = tl.constexpr(0x7FFFFFFF)
LARGEST = tl.constexpr(3.4028234663852886e38)
"""The largest float32."""

_ROUNDER = tl.constexpr(1.5 * 2.0**23)
_DRAW_STEP = tl.constexpr(2.0**-24)


def device_kernel(function: Callable[..., Any]) -> Any:
    """Compile when first launched, once for each set of constants."""
    return triton.jit(function)


def launchable(function: Callable[..., Any]) -> Any:
    """`device_kernel` for one that is launched. It is not compiled again for other counts and seeds; and 1, which would be
    made a constant, has none of the methods of a number."""
    return triton.jit(do_not_specialize=["count", "seed"])(function)


@device_kernel
def magnitude_bits(values: tl.tensor) -> tl.tensor:
    """Magnitudes as bit patterns, int32: NaN and infinity are at or above INFINITY."""
    return values.to(tl.int32, bitcast=True) & MAGNITUDE


@device_kernel
def float_of(bits: tl.tensor) -> tl.tensor:
    """int32 bit patterns as float32."""
    return bits.to(tl.float32, bitcast=True)


@device_kernel
def nearest(values: tl.tensor) -> tl.tensor:
    """Rounded half to even; exact for magnitudes up to 2^22. There is no minus zero among the results."""
    return (values + _ROUNDER) - _ROUNDER


@device_kernel
def floor_of(values: tl.tensor) -> tl.tensor:
    """Rounded down; exact for magnitudes up to 2^22. Triton's own takes subnormal numbers for zero."""
    near = nearest(values)
    return tl.where(near > values, near - 1.0, near)


@device_kernel
def report(finding: tl.tensor, largest: tl.tensor) -> tl.tensor:
    """Leave a mark if one of the largest magnitudes is not finite."""
    tl.store(finding, 1, mask=tl.max(largest, 0) >= INFINITY)


@device_kernel
def draw_bits(seed: tl.tensor, index: tl.tensor) -> tl.tensor:
    """32 random bits, uint32, from the seed and int32 or int64 indices."""
    word = (index.to(tl.uint32) * 0x9E3779B9) ^ seed.to(tl.uint32)
    word = word ^ (word >> 16)
    word = word * 0x7FEB352D
    word = word ^ (word >> 15)
    word = word * 0x846CA68B
    return word ^ (word >> 16)


@device_kernel
def draw(seed: tl.tensor, index: tl.tensor) -> tl.tensor:
    """Uniform in [0, 1), in steps of 2^-24."""
    return (draw_bits(seed, index) >> 8).to(tl.int32).to(tl.float32) * _DRAW_STEP


@device_kernel
def folded_sum(values: tl.tensor, ROWS: tl.constexpr, BLOCK: tl.constexpr) -> tl.tensor:
    """Sum of each row of [ROWS, BLOCK], a power of two: the upper half is added to the lower, again and again.

    A sum of two numbers has only one order, so the reduction cannot choose another.
    """
    if BLOCK == 1:
        return tl.reshape(values, (ROWS,))
    else:  # Without it, the recursion would have no end for the compiler.
        half: tl.constexpr = BLOCK // 2
        return folded_sum(tl.sum(tl.reshape(values, (ROWS, 2, half)), 1), ROWS, half)


@device_kernel
def total_of(
    values: tl.tensor, committed: tl.tensor, places: tl.tensor, mask: tl.tensor, RESIDUAL: tl.constexpr
) -> tl.tensor:
    """values (+ committed) at these places, zero where masked out."""
    total = tl.load(values + places, mask=mask, other=0.0)
    if RESIDUAL:
        total += tl.load(committed + places, mask=mask, other=0.0)
    return total
