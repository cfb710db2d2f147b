"""Moments of an optimizer in 8 bits each: small floats whose range follows the largest magnitude of their group.

After Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (https://arxiv.org/abs/2110.02861): groups of
`GROUP` elements with one scale each, and codes that are dense near zero, since a step divides by the root of the second
moment: evenly spaced codes would take small moments for zero, and their elements would leap.

A code names one of the floats whose mantissa has three bits, at most 255 (unsigned: 31 octaves) or 127 (signed: 15
octaves) of them below the first that is not smaller than the group's largest magnitude. These floats are the same
whatever the scale, so a value that does not change is stored without error.

Rounding is stochastic. A second moment changes by a thousandth in a step, far less than the distance of two codes: rounding
to the nearest would let it stand still for ever.
"""

import numpy as np
from numpy.typing import NDArray

from .kernels import MAGNITUDE, Floats, bits_of, draw_bits, float_of, kernel, largest_bits_of, size_of_block

GROUP = 256
"""Elements that share a scale."""
_GROUP = np.uint64(GROUP)

SHIFT = np.int32(20)
"""Bits of a float32 below a code: all but sign, exponent and three bits of the mantissa."""

Codes = NDArray[np.uint8]
Tops = NDArray[np.int16]
"""Of each group: the upper bits of the float that its highest code names."""

SIGNED_CODES = np.int32(127)
UNSIGNED_CODES = np.int32(255)
SIGN = np.int32(128)


def num_groups(num_elements: int) -> int:
    """Scales of a block."""
    return -(-num_elements // GROUP)


@kernel
def _top_of(values: Floats, start: np.uint64, size: np.uint64) -> np.int32:
    largest = largest_bits_of(values, start, size)
    return np.int32(np.int32(largest + np.int32((1 << 20) - 1)) >> SHIFT)


@kernel
def _rounded(bits: np.int32, drawn: np.uint32) -> np.int32:
    """The upper bits of a magnitude, one higher with the probability of what was cut off."""
    return np.int32(np.int32(bits + np.int32(np.uint32(drawn >> np.uint32(12)))) >> SHIFT)


@kernel
def encode_unsigned(values: Floats, codes: Codes, tops: Tops, seed: np.uint32) -> None:
    """Values that are not negative. One too small for its group gets the lowest code that is not zero: zero stays zero,
    and nothing else becomes it."""
    for group in range(np.uint64(tops.size)):
        start = np.uint64(group * _GROUP)
        size = size_of_block(start, _GROUP, values.size)
        top = _top_of(values, start, size)
        tops[group] = top
        for offset in range(size):
            i = start + offset
            bits = np.int32(bits_of(values[i]) & MAGNITUDE)
            code = np.int32(_rounded(bits, draw_bits(seed, np.uint32(i))) - top + UNSIGNED_CODES)
            code = min(max(code, np.int32(1)), UNSIGNED_CODES)
            codes[i] = np.uint8(code) if bits > 0 else np.uint8(0)


@kernel
def decode_unsigned(codes: Codes, tops: Tops, values: Floats) -> None:
    for group in range(np.uint64(tops.size)):
        start = np.uint64(group * _GROUP)
        size = size_of_block(start, _GROUP, values.size)
        lowest = np.int32(np.int32(tops[group]) - UNSIGNED_CODES)
        for offset in range(size):
            i = start + offset
            upper = max(np.int32(lowest + np.int32(codes[i])), np.int32(0))
            values[i] = float_of(np.int32(upper << SHIFT)) if codes[i] > 0 else np.float32(0)


@kernel
def encode_signed(values: Floats, codes: Codes, tops: Tops, seed: np.uint32) -> None:
    """Values of any sign. One too small for its group becomes zero, or the smallest value there is with the probability
    that keeps the mean."""
    for group in range(np.uint64(tops.size)):
        start = np.uint64(group * _GROUP)
        size = size_of_block(start, _GROUP, values.size)
        top = _top_of(values, start, size)
        tops[group] = top
        lowest = max(np.int32(top - SIGNED_CODES + np.int32(1)), np.int32(1))
        lowest_code = np.int32(lowest - top + SIGNED_CODES)
        smallest = float_of(np.int32(lowest << SHIFT))
        unit = np.float32(smallest * np.float32(2.0**-24))
        for offset in range(size):
            i = start + offset
            bits = np.int32(bits_of(values[i]) & MAGNITUDE)
            drawn = draw_bits(seed, np.uint32(i))
            code = np.int32(_rounded(bits, drawn) - top + SIGNED_CODES)
            code = min(max(code, np.int32(1)), SIGNED_CODES)
            threshold = np.float32(np.int32(np.uint32(drawn >> np.uint32(8)))) * unit
            small = lowest_code if threshold < float_of(bits) else np.int32(0)
            code = small if float_of(bits) < smallest else code
            sign = SIGN if values[i] < 0 and code > 0 else np.int32(0)
            codes[i] = np.uint8(code + sign)


@kernel
def decode_signed(codes: Codes, tops: Tops, values: Floats) -> None:
    for group in range(np.uint64(tops.size)):
        start = np.uint64(group * _GROUP)
        size = size_of_block(start, _GROUP, values.size)
        lowest = np.int32(np.int32(tops[group]) - SIGNED_CODES)
        for offset in range(size):
            i = start + offset
            code = np.int32(np.int32(codes[i]) & SIGNED_CODES)
            upper = max(np.int32(lowest + code), np.int32(0))
            magnitude = float_of(np.int32(upper << SHIFT)) if code > 0 else np.float32(0)
            values[i] = -magnitude if codes[i] >= SIGN else magnitude
