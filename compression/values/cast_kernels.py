"""CPU kernels of fp32, bf16 and fp16.

The conversions are integer arithmetic on bit patterns, exact and round-half-to-even, because numba has no
half precision on CPUs.
"""

import numpy as np
from numpy.typing import NDArray

from ..kernels import (
    FINITE,
    INFINITY,
    MAGNITUDE,
    MALFORMED,
    NOT_FINITE,
    add,
    add_block,
    bits_of,
    draw,
    draw_bits,
    float_of,
    kernel,
    largest_bits,
    largest_bits_of,
    size_of_block,
)

Floats = NDArray[np.float32]
Words = NDArray[np.uint16]
Exponents = NDArray[np.int8]

SMALLEST_EXPONENT = np.int32(-126)
LARGEST_EXPONENT = np.int32(113)

BLOCK = np.uint64(256)
"""Elements of an fp16 frame that share an exponent."""

_CHUNK = 4096
_LARGEST_BF16 = np.int32(0x7F7F)
_HALF_NORMAL = np.int32(0x38800000)
_HALF_REBIAS = np.int32(112 << 23)
_HALF_ULP = np.float32(2.0**-24)
_HALF_BITS = np.int32(0x3F000000)
_LARGEST_HALF = np.int32(0x7800)
_LARGEST_HALF_AT_TOP = np.int32(0x77FF)
_F = np.float32
_I = np.int32
_L = np.uint64
_U = np.uint32


@kernel
def encode_fp32(values: Floats, codes: Floats) -> bool:
    for start in range(0, values.size, _CHUNK):
        stop = min(start + _CHUNK, values.size)
        part = values[start:stop]
        if largest_bits(part) >= INFINITY:
            return False
        codes[start:stop] = part
    return True


@kernel
def encode_fp32_residual(values: Floats, committed: Floats, pending: Floats, codes: Floats) -> bool:
    for start in range(0, values.size, _CHUNK):
        stop = min(start + _CHUNK, values.size)
        part = codes[start:stop]
        add(values[start:stop], committed[start:stop], part)
        if largest_bits(part) >= INFINITY:
            return False
        pending[start:stop] = _F(0)
    return True


@kernel
def decode_fp32(codes: Floats, out: Floats, scale: np.float32) -> None:
    for i in range(out.size):
        out[i] = scale * codes[i]


@kernel
def add_fp32(codes: Floats, out: Floats, scale: np.float32) -> None:
    for i in range(out.size):
        out[i] += scale * codes[i]


@kernel
def _bf16_code(value: np.float32) -> np.uint16:
    bits = bits_of(value)
    size = _I(bits & MAGNITUDE)
    size = _I(_I(size + _I(0x7FFF) + _I(_I(size >> 16) & 1)) >> 16)
    # A finite number stays finite: the step beyond the largest would be infinity.
    size = min(size, _LARGEST_BF16)
    return np.uint16(size | _I(_I(bits >> 16) & 0x8000))


@kernel
def _bf16(code: np.uint16) -> np.float32:
    return np.float32(float_of(_I(np.uint32(code) << np.uint32(16))))


@kernel
def _round_bf16(values: Floats, codes: Words) -> None:
    for i in range(values.size):
        codes[i] = _bf16_code(values[i])


@kernel
def _round_bf16_residual(total: Floats, codes: Words) -> None:
    for i in range(total.size):
        code = _bf16_code(total[i])
        codes[i] = code
        total[i] -= _bf16(code)


@kernel
def encode_bf16(values: Floats, codes: Words) -> bool:
    for start in range(0, values.size, _CHUNK):
        stop = min(start + _CHUNK, values.size)
        if largest_bits(values[start:stop]) >= INFINITY:
            return False
        _round_bf16(values[start:stop], codes[start:stop])
    return True


@kernel
def encode_bf16_residual(values: Floats, committed: Floats, pending: Floats, codes: Words) -> bool:
    for start in range(0, values.size, _CHUNK):
        stop = min(start + _CHUNK, values.size)
        total = pending[start:stop]
        add(values[start:stop], committed[start:stop], total)
        if largest_bits(total) >= INFINITY:
            return False
        _round_bf16_residual(total, codes[start:stop])
    return True


@kernel
def encode_bf16_stochastic(values: Floats, codes: Words, seed: np.uint32) -> bool:
    """Adds 16 random bits below the last one that is kept."""
    if largest_bits(values) >= INFINITY:
        return False
    for i in range(values.size):
        bits = bits_of(values[i])
        added = _I(_U(draw_bits(seed, _U(i)) >> _U(16)))
        size = min(_I(_I(_I(bits & MAGNITUDE) + added) >> 16), _LARGEST_BF16)
        codes[i] = np.uint16(size | _I(_I(bits >> 16) & 0x8000))
    return True


@kernel
def _largest_word(codes: Words) -> np.int32:
    found = np.uint16(0)
    for i in range(codes.size):
        found = max(found, np.uint16(codes[i] & np.uint16(0x7FFF)))
    return _I(found)


@kernel
def check_bf16(codes: Words) -> int:
    return FINITE if _largest_word(codes) <= _LARGEST_BF16 else NOT_FINITE


@kernel
def decode_bf16(codes: Words, out: Floats, scale: np.float32) -> None:
    for i in range(out.size):
        out[i] = scale * _bf16(codes[i])


@kernel
def add_bf16(codes: Words, out: Floats, scale: np.float32) -> None:
    for i in range(out.size):
        out[i] += scale * _bf16(codes[i])


@kernel
def _power_of_two(exponent: np.int32) -> np.float32:
    return np.float32(float_of(_I(_I(exponent + 127) << 23)))


@kernel
def _largest_half(exponent: np.int32) -> np.int32:
    return _LARGEST_HALF_AT_TOP if exponent == LARGEST_EXPONENT else _LARGEST_HALF


@kernel
def _half(code: np.uint16) -> np.float32:
    size = _I(_I(code) & 0x7FFF)
    normal = _I(_I(size << 13) + _HALF_REBIAS)
    tiny = bits_of(_F(_F(size) * _HALF_ULP))
    return np.float32(float_of(_I((normal if size >= 0x400 else tiny) | _I(_I(_I(code) & 0x8000) << 16))))


@kernel
def _half_code(value: np.float32, largest: np.int32) -> np.uint16:
    bits = bits_of(value)
    size = _I(bits & MAGNITUDE)
    normal = _I(_I(size - _HALF_REBIAS + _I(0xFFF) + _I(_I(size >> 13) & 1)) >> 13)
    # Adding a half puts the last bit of a float where that of a subnormal half lies: the addition rounds.
    tiny = _I(bits_of(_F(float_of(size) + _F(0.5))) - _HALF_BITS)
    size = min(normal if size >= _HALF_NORMAL else tiny, largest)
    return np.uint16(size | _I(_I(bits >> 16) & 0x8000))


@kernel
def _half_exponent(largest: np.int32) -> np.int32:
    """Brings the largest magnitude of a block to [2^14, 2^15), or as near as a float's factor can."""
    return max(_I(_I(largest >> 23) - 141), SMALLEST_EXPONENT)


@kernel
def encode_fp16(values: Floats, codes: Words, exponents: Exponents) -> bool:
    for index in range(exponents.size):
        start = _L(index) * BLOCK
        size = size_of_block(start, BLOCK, values.size)
        found = largest_bits_of(values, start, size)
        if found >= INFINITY:
            return False
        exponent = _half_exponent(found)
        exponents[index] = np.int8(exponent)
        factor, largest = _power_of_two(_I(-exponent)), _largest_half(exponent)
        for i in range(size):
            codes[start + i] = _half_code(_F(values[start + i] * factor), largest)
    return True


@kernel
def encode_fp16_residual(
    values: Floats, committed: Floats, pending: Floats, codes: Words, exponents: Exponents
) -> bool:
    for index in range(exponents.size):
        start = _L(index) * BLOCK
        size = size_of_block(start, BLOCK, values.size)
        add_block(values, committed, pending, start, size)
        found = largest_bits_of(pending, start, size)
        if found >= INFINITY:
            return False
        exponent = _half_exponent(found)
        exponents[index] = np.int8(exponent)
        factor, largest, power = _power_of_two(_I(-exponent)), _largest_half(exponent), _power_of_two(exponent)
        for i in range(size):
            code = _half_code(_F(pending[start + i] * factor), largest)
            codes[start + i] = code
            pending[start + i] -= _half(code) * power
    return True


@kernel
def _drawn_half_code(value: np.float32, largest: np.int32, seed: np.uint32, index: np.uint32) -> np.uint16:
    bits = bits_of(value)
    size = _I(bits & MAGNITUDE)
    added = _I(_U(draw_bits(seed, index) >> _U(19)))
    normal = _I(_I(size - _HALF_REBIAS + added) >> 13)
    steps = _F(float_of(min(size, _HALF_NORMAL)) * _F(2.0**24))
    below = _F(np.floor(steps))
    tiny = _I(below) + _I(draw(seed, index) < _F(steps - below))
    size = min(normal if size >= _HALF_NORMAL else tiny, largest)
    return np.uint16(size | _I(_I(bits >> 16) & 0x8000))


@kernel
def encode_fp16_stochastic(values: Floats, codes: Words, exponents: Exponents, seed: np.uint32) -> bool:
    for index in range(exponents.size):
        start = _L(index) * BLOCK
        size = size_of_block(start, BLOCK, values.size)
        found = largest_bits_of(values, start, size)
        if found >= INFINITY:
            return False
        exponent = _half_exponent(found)
        exponents[index] = np.int8(exponent)
        factor, largest = _power_of_two(_I(-exponent)), _largest_half(exponent)
        for i in range(size):
            scaled = _F(values[start + i] * factor)
            codes[start + i] = _drawn_half_code(scaled, largest, seed, _U(_U(start) + _U(i)))
    return True


@kernel
def check_fp16(codes: Words, exponents: Exponents) -> int:
    for index in range(exponents.size):
        exponent = _I(exponents[index])
        start = _L(index) * BLOCK
        found = np.uint16(0)
        for i in range(size_of_block(start, BLOCK, codes.size)):
            found = max(found, np.uint16(codes[start + i] & np.uint16(0x7FFF)))
        if found >= 0x7C00:
            return NOT_FINITE
        if exponent < SMALLEST_EXPONENT or exponent > LARGEST_EXPONENT or found > _largest_half(exponent):
            return MALFORMED
    return FINITE


@kernel
def decode_fp16(codes: Words, exponents: Exponents, out: Floats, scale: np.float32) -> None:
    for index in range(exponents.size):
        power = _power_of_two(_I(exponents[index]))
        start = _L(index) * BLOCK
        for i in range(size_of_block(start, BLOCK, out.size)):
            out[start + i] = scale * _F(_half(codes[start + i]) * power)


@kernel
def add_fp16(codes: Words, exponents: Exponents, out: Floats, scale: np.float32) -> None:
    for index in range(exponents.size):
        power = _power_of_two(_I(exponents[index]))
        start = _L(index) * BLOCK
        for i in range(size_of_block(start, BLOCK, out.size)):
            out[start + i] += scale * _F(_half(codes[start + i]) * power)
