"""CPU kernels of int8: one float32 scale for each block of 256, codes in -127..127."""

import numpy as np
from numpy.typing import NDArray

from .kernels import (
    BLOCK,
    FINITE,
    INFINITY,
    MALFORMED,
    NOT_FINITE,
    add,
    bits_of,
    float_of,
    kernel,
    largest_bits,
    mix,
)

Floats = NDArray[np.float32]
Codes = NDArray[np.int8]

_SMALLEST_NORMAL = np.float32(2.0**-126)
_LARGEST = np.float32(3.4028235e38)
_LEVELS = np.float32(127)
_GOLDEN = np.uint32(0x9E3779B9)
_F = np.float32
_I = np.int32
_U = np.uint32


@kernel
def _scale_of(largest: np.int32) -> np.float32:
    scale = np.float32(float_of(largest)) / _LEVELS
    # Next to the largest float, rounding the scale up would decode code 127 to infinity.
    return scale if _F(_LEVELS * scale) <= _LARGEST else np.float32(float_of(_I(bits_of(scale) - 1)))


@kernel
def _nearest(values: Floats, codes: Codes, scale: np.float32) -> None:
    inverse = _F(1) / scale
    for i in range(values.size):
        codes[i] = np.int8(_I(np.rint(_F(values[i] * inverse))))


@kernel
def _nearest_tiny(values: Floats, codes: Codes, scale: np.float32) -> None:
    """A subnormal scale has no reciprocal, and is coarse: the quotient may leave the range."""
    for i in range(values.size):
        level = np.rint(_F(values[i] / scale))
        codes[i] = np.int8(_I(min(max(level, -_LEVELS), _LEVELS)))


@kernel
def _draw(seed: np.uint32, index: np.uint32) -> np.float32:
    """Uniform in [0, 1), in steps of 2^-24."""
    word = mix(_U(_U(index * _GOLDEN) ^ seed))
    return _F(_I(_U(word >> _U(8)))) * _F(2.0**-24)


@kernel
def _level(quotient: np.float32, drawn: np.float32) -> np.float32:
    below = _F(np.floor(quotient))
    level = below + _F(1) if drawn < _F(quotient - below) else below
    return min(max(level, -_LEVELS), _LEVELS)


@kernel
def _stochastic(values: Floats, codes: Codes, scale: np.float32, seed: np.uint32, first: np.uint32) -> None:
    inverse = _F(1) / scale
    for i in range(values.size):
        codes[i] = np.int8(_I(_level(_F(values[i] * inverse), _draw(seed, _U(first + _U(i))))))


@kernel
def _stochastic_tiny(values: Floats, codes: Codes, scale: np.float32, seed: np.uint32, first: np.uint32) -> None:
    for i in range(values.size):
        codes[i] = np.int8(_I(_level(_F(values[i] / scale), _draw(seed, _U(first + _U(i))))))


@kernel
def _nearest_residual(total: Floats, codes: Codes, scale: np.float32) -> None:
    """`_nearest` and `_leave` in one pass."""
    inverse = _F(1) / scale
    for i in range(total.size):
        # The receiver sees no minus zero: adding zero removes its sign.
        level = _F(np.rint(_F(total[i] * inverse)) + _F(0))
        codes[i] = np.int8(_I(level))
        total[i] -= level * scale


@kernel
def _quantise(values: Floats, codes: Codes, scale: np.float32) -> None:
    if scale >= _SMALLEST_NORMAL:
        _nearest(values, codes, scale)
    elif scale > _F(0):
        _nearest_tiny(values, codes, scale)
    else:
        codes[:] = np.int8(0)


@kernel
def _quantise_stochastic(values: Floats, codes: Codes, scale: np.float32, seed: np.uint32, first: np.uint32) -> None:
    if scale >= _SMALLEST_NORMAL:
        _stochastic(values, codes, scale, seed, first)
    elif scale > _F(0):
        _stochastic_tiny(values, codes, scale, seed, first)
    else:
        codes[:] = np.int8(0)


@kernel
def _leave(codes: Codes, pending: Floats, scale: np.float32) -> None:
    for i in range(pending.size):
        pending[i] -= _F(codes[i]) * scale


@kernel
def encode_int8(values: Floats, codes: Codes, scales: Floats) -> bool:
    for block in range(scales.size):
        start = block * BLOCK
        stop = min(start + BLOCK, values.size)
        largest = largest_bits(values[start:stop])
        if largest >= INFINITY:
            return False
        scales[block] = _scale_of(largest)
        _quantise(values[start:stop], codes[start:stop], scales[block])
    return True


@kernel
def encode_int8_residual(values: Floats, committed: Floats, pending: Floats, codes: Codes, scales: Floats) -> bool:
    for block in range(scales.size):
        start = block * BLOCK
        stop = min(start + BLOCK, values.size)
        total = pending[start:stop]
        add(values[start:stop], committed[start:stop], total)
        largest = largest_bits(total)
        if largest >= INFINITY:
            return False
        scale = _scale_of(largest)
        scales[block] = scale
        if scale >= _SMALLEST_NORMAL:
            _nearest_residual(total, codes[start:stop], scale)
        else:
            _quantise(total, codes[start:stop], scale)
            _leave(codes[start:stop], total, scale)
    return True


@kernel
def encode_stochastic(values: Floats, codes: Codes, scales: Floats, seed: np.uint32) -> bool:
    for block in range(scales.size):
        start = block * BLOCK
        stop = min(start + BLOCK, values.size)
        largest = largest_bits(values[start:stop])
        if largest >= INFINITY:
            return False
        scales[block] = _scale_of(largest)
        _quantise_stochastic(values[start:stop], codes[start:stop], scales[block], seed, _U(start))
    return True


@kernel
def encode_stochastic_residual(
    values: Floats, committed: Floats, pending: Floats, codes: Codes, scales: Floats, seed: np.uint32
) -> bool:
    for block in range(scales.size):
        start = block * BLOCK
        stop = min(start + BLOCK, values.size)
        total = pending[start:stop]
        add(values[start:stop], committed[start:stop], total)
        largest = largest_bits(total)
        if largest >= INFINITY:
            return False
        scales[block] = _scale_of(largest)
        _quantise_stochastic(total, codes[start:stop], scales[block], seed, _U(start))
        _leave(codes[start:stop], total, scales[block])
    return True


@kernel
def check_int8(codes: Codes, scales: Floats) -> int:
    found = _I(0)
    for block in range(scales.size):
        bits = bits_of(scales[block])
        if _I(bits & INFINITY) == INFINITY:
            return NOT_FINITE
        if bits < 0 or _F(_LEVELS * scales[block]) > _LARGEST:
            return MALFORMED
    for i in range(codes.size):
        found = min(found, _I(codes[i]))
    return MALFORMED if found < -127 else FINITE


@kernel
def _decode(codes: Codes, out: Floats, step: np.float32, scale: np.float32) -> None:
    for i in range(out.size):
        out[i] = scale * _F(_F(codes[i]) * step)


@kernel
def decode_int8(codes: Codes, scales: Floats, out: Floats, scale: np.float32) -> None:
    for block in range(scales.size):
        start = block * BLOCK
        stop = min(start + BLOCK, out.size)
        _decode(codes[start:stop], out[start:stop], scales[block], scale)


@kernel
def _add(codes: Codes, out: Floats, step: np.float32, scale: np.float32) -> None:
    for i in range(out.size):
        out[i] += scale * _F(_F(codes[i]) * step)


@kernel
def add_int8(codes: Codes, scales: Floats, out: Floats, scale: np.float32) -> None:
    for block in range(scales.size):
        start = block * BLOCK
        stop = min(start + BLOCK, out.size)
        _add(codes[start:stop], out[start:stop], scales[block], scale)
