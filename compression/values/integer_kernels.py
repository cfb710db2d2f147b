"""CPU kernels of int8, int4 and int2: signed codes of 8, 4 or 2 bits, one float32 scale for each block.

The codes of a block are made as bytes: those of int8 where they belong, the others in scratch, from which they
are packed while they are in the first cache. `first` is where the codes of a block start in their array.
"""

import numpy as np
from numpy.typing import NDArray

from ..kernels import (
    FINITE,
    INFINITY,
    LARGEST,
    MALFORMED,
    NOT_FINITE,
    add_block,
    bits_of,
    draw,
    float_of,
    kernel,
    largest_bits_of,
    size_of_block,
)
from .packing import Codes, pack, scratch_size, unpack

Floats = NDArray[np.float32]

_SMALLEST_NORMAL = np.float32(2.0**-126)
_F = np.float32
_I = np.int32
_L = np.uint64
_U = np.uint32


@kernel
def levels_of(bits: int) -> np.float32:
    """Steps from zero to the largest code: 127, 7 or 1."""
    return _F(_I((1 << (bits - 1)) - 1))


@kernel
def scale_of(largest: np.int32, levels: np.float32) -> np.float32:
    scale = np.float32(float_of(largest)) / levels
    # Next to the largest float, rounding the scale up would decode the largest code to infinity.
    return scale if _F(levels * scale) <= LARGEST else np.float32(float_of(_I(bits_of(scale) - 1)))


@kernel
def _nearest(
    values: Floats,
    start: np.uint64,
    size: np.uint64,
    codes: Codes,
    first: np.uint64,
    scale: np.float32,
    levels: np.float32,
) -> None:
    if scale >= _SMALLEST_NORMAL:
        inverse = _F(1) / scale
        for i in range(size):
            codes[first + i] = np.int8(_I(np.rint(_F(values[start + i] * inverse))))
    elif scale > _F(0):
        # A subnormal scale has no reciprocal, and is coarse: the quotient may leave the range.
        for i in range(size):
            level = np.rint(_F(values[start + i] / scale))
            codes[first + i] = np.int8(_I(min(max(level, -levels), levels)))
    else:
        for i in range(size):
            codes[first + i] = np.int8(0)


@kernel
def _level(quotient: np.float32, drawn: np.float32, levels: np.float32) -> np.float32:
    below = _F(np.floor(quotient))
    level = below + _F(1) if drawn < _F(quotient - below) else below
    return min(max(level, -levels), levels)


@kernel
def _stochastic(
    values: Floats,
    start: np.uint64,
    size: np.uint64,
    codes: Codes,
    first: np.uint64,
    scale: np.float32,
    levels: np.float32,
    seed: np.uint32,
) -> None:
    index = _U(start)
    if scale >= _SMALLEST_NORMAL:
        inverse = _F(1) / scale
        for i in range(size):
            drawn = draw(seed, _U(index + _U(i)))
            codes[first + i] = np.int8(_I(_level(_F(values[start + i] * inverse), drawn, levels)))
    elif scale > _F(0):
        for i in range(size):
            drawn = draw(seed, _U(index + _U(i)))
            codes[first + i] = np.int8(_I(_level(_F(values[start + i] / scale), drawn, levels)))
    else:
        for i in range(size):
            codes[first + i] = np.int8(0)


@kernel
def _leave(codes: Codes, first: np.uint64, total: Floats, start: np.uint64, size: np.uint64, scale: np.float32) -> None:
    """What the codes leave out of `total`, in place."""
    for i in range(size):
        total[start + i] -= _F(codes[first + i]) * scale


@kernel
def _nearest_residual(
    total: Floats,
    start: np.uint64,
    size: np.uint64,
    codes: Codes,
    first: np.uint64,
    scale: np.float32,
    levels: np.float32,
) -> None:
    """`_nearest` and `_leave`, in one pass where the scale is normal."""
    if scale >= _SMALLEST_NORMAL:
        inverse = _F(1) / scale
        for i in range(size):
            # The receiver sees no minus zero: adding zero removes its sign.
            level = _F(np.rint(_F(total[start + i] * inverse)) + _F(0))
            codes[first + i] = np.int8(_I(level))
            total[start + i] -= level * scale
    else:
        _nearest(total, start, size, codes, first, scale, levels)
        _leave(codes, first, total, start, size, scale)


@kernel
def encode(values: Floats, packed: Codes, scales: Floats, block: int, bits: int) -> bool:
    """Nearest level; False if a value is not finite."""
    levels, scratch = levels_of(bits), np.empty(scratch_size(block, values.size), np.int8)
    for index in range(scales.size):
        start = _L(index) * _L(block)
        size = size_of_block(start, _L(block), values.size)
        largest = largest_bits_of(values, start, size)
        if largest >= INFINITY:
            return False
        scale = scale_of(largest, levels)
        scales[index] = scale
        if bits == 8:
            _nearest(values, start, size, packed, start, scale, levels)
        else:
            _nearest(values, start, size, scratch, _L(0), scale, levels)
            pack(scratch, size, packed, start, bits)
    return True


@kernel
def encode_residual(
    values: Floats, committed: Floats, pending: Floats, packed: Codes, scales: Floats, block: int, bits: int
) -> bool:
    """`encode` of values + committed; pending becomes what is left out."""
    levels, scratch = levels_of(bits), np.empty(scratch_size(block, values.size), np.int8)
    for index in range(scales.size):
        start = _L(index) * _L(block)
        size = size_of_block(start, _L(block), values.size)
        add_block(values, committed, pending, start, size)
        largest = largest_bits_of(pending, start, size)
        if largest >= INFINITY:
            return False
        scale = scale_of(largest, levels)
        scales[index] = scale
        if bits == 8:
            _nearest_residual(pending, start, size, packed, start, scale, levels)
        else:
            _nearest_residual(pending, start, size, scratch, _L(0), scale, levels)
            pack(scratch, size, packed, start, bits)
    return True


@kernel
def encode_stochastic(values: Floats, packed: Codes, scales: Floats, block: int, bits: int, seed: np.uint32) -> bool:
    """One of the two nearest levels, drawn so that the mean is exact; False if a value is not finite."""
    levels, scratch = levels_of(bits), np.empty(scratch_size(block, values.size), np.int8)
    for index in range(scales.size):
        start = _L(index) * _L(block)
        size = size_of_block(start, _L(block), values.size)
        largest = largest_bits_of(values, start, size)
        if largest >= INFINITY:
            return False
        scale = scale_of(largest, levels)
        scales[index] = scale
        if bits == 8:
            _stochastic(values, start, size, packed, start, scale, levels, seed)
        else:
            _stochastic(values, start, size, scratch, _L(0), scale, levels, seed)
            pack(scratch, size, packed, start, bits)
    return True


@kernel
def encode_stochastic_residual(
    values: Floats,
    committed: Floats,
    pending: Floats,
    packed: Codes,
    scales: Floats,
    block: int,
    bits: int,
    seed: np.uint32,
) -> bool:
    """`encode_stochastic` of values + committed; pending becomes what is left out."""
    levels, scratch = levels_of(bits), np.empty(scratch_size(block, values.size), np.int8)
    for index in range(scales.size):
        start = _L(index) * _L(block)
        size = size_of_block(start, _L(block), values.size)
        add_block(values, committed, pending, start, size)
        largest = largest_bits_of(pending, start, size)
        if largest >= INFINITY:
            return False
        scale = scale_of(largest, levels)
        scales[index] = scale
        if bits == 8:
            _stochastic(pending, start, size, packed, start, scale, levels, seed)
            _leave(packed, start, pending, start, size, scale)
        else:
            _stochastic(pending, start, size, scratch, _L(0), scale, levels, seed)
            _leave(scratch, _L(0), pending, start, size, scale)
            pack(scratch, size, packed, start, bits)
    return True


@kernel
def _smallest(codes: Codes, first: np.uint64, size: np.uint64) -> np.int32:
    found = np.int8(0)
    for i in range(size):
        found = min(found, codes[first + i])
    return _I(found)


@kernel
def check(packed: Codes, scales: Floats, count: int, block: int, bits: int) -> int:
    """Scales are finite, not negative and small enough; codes in range; zeros behind the last code."""
    levels, scratch = levels_of(bits), np.empty(scratch_size(block, count), np.int8)
    for index in range(scales.size):
        pattern = bits_of(scales[index])
        if _I(pattern & INFINITY) == INFINITY:
            return NOT_FINITE
        if pattern < 0 or _F(levels * scales[index]) > LARGEST:
            return MALFORMED
        start = _L(index) * _L(block)
        size = size_of_block(start, _L(block), count)
        if bits == 8:
            smallest = _smallest(packed, start, size)
        else:
            unpack(packed, start, size, scratch, bits)
            smallest = _smallest(scratch, _L(0), size)
            for i in range(size, ((size * _L(bits) + _L(7)) >> _L(3)) * _L(8 // bits)):
                if scratch[i] != 0:
                    return MALFORMED
        if smallest < -_I(levels):
            return MALFORMED
    return FINITE


@kernel
def _decode(
    codes: Codes,
    first: np.uint64,
    out: Floats,
    start: np.uint64,
    size: np.uint64,
    step: np.float32,
    scale: np.float32,
) -> None:
    for i in range(size):
        out[start + i] = scale * _F(_F(codes[first + i]) * step)


@kernel
def decode(packed: Codes, scales: Floats, out: Floats, scale: np.float32, block: int, bits: int) -> None:
    """out = fl(scale * D)."""
    scratch = np.empty(scratch_size(block, out.size), np.int8)
    for index in range(scales.size):
        start = _L(index) * _L(block)
        size = size_of_block(start, _L(block), out.size)
        if bits == 8:
            _decode(packed, start, out, start, size, scales[index], scale)
        else:
            unpack(packed, start, size, scratch, bits)
            _decode(scratch, _L(0), out, start, size, scales[index], scale)


@kernel
def _add(
    codes: Codes,
    first: np.uint64,
    out: Floats,
    start: np.uint64,
    size: np.uint64,
    step: np.float32,
    scale: np.float32,
) -> None:
    for i in range(size):
        out[start + i] += scale * _F(_F(codes[first + i]) * step)


@kernel
def add_to(packed: Codes, scales: Floats, out: Floats, scale: np.float32, block: int, bits: int) -> None:
    """out = fl(out + fl(scale * D))."""
    scratch = np.empty(scratch_size(block, out.size), np.int8)
    for index in range(scales.size):
        start = _L(index) * _L(block)
        size = size_of_block(start, _L(block), out.size)
        if bits == 8:
            _add(packed, start, out, start, size, scales[index], scale)
        else:
            unpack(packed, start, size, scratch, bits)
            _add(scratch, _L(0), out, start, size, scales[index], scale)
