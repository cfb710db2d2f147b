"""Device kernels of fp32, bf16 and fp16: integer arithmetic on bit patterns, step by step that of the CPU's.

A program takes `ROWS` rows of 256 elements, in order; the last may be short.
"""

import triton.language as tl

from .language import (
    device_kernel,
    draw,
    draw_bits,
    float_of,
    floor_of,
    launchable,
    magnitude_bits,
    report,
    total_of,
)

BLOCK = 256
"""Elements of an fp16 frame that share an exponent."""

FP32, FP16, BF16 = 0, 1, 2

_ROW = tl.constexpr(BLOCK)
_FP32, _FP16, _BF16 = tl.constexpr(FP32), tl.constexpr(FP16), tl.constexpr(BF16)
_LARGEST_BF16 = tl.constexpr(0x7F7F)
_HALF_NORMAL = tl.constexpr(0x38800000)
_HALF_REBIAS = tl.constexpr(112 << 23)
_HALF_BITS = tl.constexpr(0x3F000000)
_LARGEST_EXPONENT = tl.constexpr(113)


@device_kernel
def _power_of_two(exponents: tl.tensor) -> tl.tensor:
    return float_of((exponents + 127) << 23)


@device_kernel
def _signs_of(values: tl.tensor) -> tl.tensor:
    return (values.to(tl.int32, bitcast=True) >> 16) & 0x8000


@device_kernel
def _bf16_codes(total: tl.tensor, indices: tl.tensor, seed: tl.tensor, STOCHASTIC: tl.constexpr) -> tl.tensor:
    sizes = magnitude_bits(total)
    if STOCHASTIC:
        sizes = (sizes + (draw_bits(seed, indices) >> 16).to(tl.int32)) >> 16
    else:
        sizes = (sizes + 0x7FFF + ((sizes >> 16) & 1)) >> 16
    # A finite number stays finite: the step beyond the largest would be infinity.
    return tl.minimum(sizes, _LARGEST_BF16) | _signs_of(total)


@device_kernel
def _half_codes(
    scaled: tl.tensor, largest: tl.tensor, indices: tl.tensor, seed: tl.tensor, STOCHASTIC: tl.constexpr
) -> tl.tensor:
    sizes = magnitude_bits(scaled)
    if STOCHASTIC:
        added = (draw_bits(seed, indices) >> 19).to(tl.int32)
        steps = float_of(tl.minimum(sizes, _HALF_NORMAL)) * 16777216.0
        below = floor_of(steps)
        tiny = below.to(tl.int32) + (draw(seed, indices) < steps - below).to(tl.int32)
        normal = (sizes - _HALF_REBIAS + added) >> 13
    else:
        normal = (sizes - _HALF_REBIAS + 0xFFF + ((sizes >> 13) & 1)) >> 13
        # Adding a half puts the last bit of a float where that of a subnormal half lies: the addition rounds.
        tiny = (float_of(sizes) + 0.5).to(tl.int32, bitcast=True) - _HALF_BITS
    return tl.minimum(tl.where(sizes >= _HALF_NORMAL, normal, tiny), largest) | _signs_of(scaled)


@device_kernel
def _halves(codes: tl.tensor) -> tl.tensor:
    sizes = codes & 0x7FFF
    tiny = (sizes.to(tl.float32) * (2.0**-24)).to(tl.int32, bitcast=True)
    return float_of(tl.where(sizes >= 0x400, (sizes << 13) + _HALF_REBIAS, tiny) | ((codes & 0x8000) << 16))


@device_kernel
def _rows_of(start: tl.tensor, count: tl.tensor, WHOLE: tl.constexpr, ROWS: tl.constexpr) -> tl.tensor:
    """Places [ROWS, 256], which exist, and which rows do. A mask that is a constant keeps vector loads."""
    rows = tl.arange(0, ROWS)
    places = rows[:, None] * _ROW + tl.arange(0, _ROW)[None, :]
    if WHOLE:
        return places, tl.full((ROWS, _ROW), True, tl.int1), tl.full((ROWS,), True, tl.int1)
    else:
        return places, start + places < count, start + rows * _ROW < count


@device_kernel
def _encode_rows(
    values: tl.tensor, committed: tl.tensor, pending: tl.tensor, codes: tl.tensor, exponents: tl.tensor, finding: tl.tensor,
    count: tl.tensor, seed: tl.tensor,
    WHOLE: tl.constexpr, FORMAT: tl.constexpr, STOCHASTIC: tl.constexpr, RESIDUAL: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    first = tl.program_id(0) * ROWS
    start = first.to(tl.int64) * _ROW
    places, exists, row_exists = _rows_of(start, count, WHOLE, ROWS)
    total = total_of(values + start, committed + start, places, exists, RESIDUAL)
    largest = tl.max(magnitude_bits(total), 1)
    report(finding, largest)
    if FORMAT == _FP32:
        written, sent = total, total
    elif FORMAT == _BF16:
        words = _bf16_codes(total, start + places, seed, STOCHASTIC)
        written, sent = words.to(tl.int16), float_of(words << 16)
    else:
        powers = tl.maximum((largest >> 23) - 141, -126)
        bound = tl.where(powers == _LARGEST_EXPONENT, 0x77FF, 0x7800)
        scaled = total * _power_of_two(-powers)[:, None]
        words = _half_codes(scaled, bound[:, None], start + places, seed, STOCHASTIC)
        written, sent = words.to(tl.int16), _halves(words) * _power_of_two(powers)[:, None]
        tl.store(exponents + first + tl.arange(0, ROWS), powers.to(tl.int8), mask=row_exists)
    tl.store(codes + start + places, written, mask=exists)
    if RESIDUAL:
        tl.store(pending + start + places, total - sent, mask=exists)


@launchable
def encode_casts(
    values: tl.tensor, committed: tl.tensor, pending: tl.tensor, codes: tl.tensor, exponents: tl.tensor, finding: tl.tensor,
    count: tl.tensor, seed: tl.tensor,
    FORMAT: tl.constexpr, STOCHASTIC: tl.constexpr, RESIDUAL: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """Codes float32 or int16; exponents int8, for fp16 only."""
    end = (tl.program_id(0) + 1).to(tl.int64) * (ROWS * _ROW)
    if end <= count:
        _encode_rows(
            values, committed, pending, codes, exponents, finding, count, seed,
            True, FORMAT, STOCHASTIC, RESIDUAL, ROWS,
        )  # fmt: skip
    else:
        _encode_rows(
            values, committed, pending, codes, exponents, finding, count, seed,
            False, FORMAT, STOCHASTIC, RESIDUAL, ROWS,
        )  # fmt: skip


@device_kernel
def _decode_rows(
    codes: tl.tensor, exponents: tl.tensor, out: tl.tensor, count: tl.tensor, scale: tl.tensor,
    WHOLE: tl.constexpr, FORMAT: tl.constexpr, ADD: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    first = tl.program_id(0) * ROWS
    start = first.to(tl.int64) * _ROW
    places, exists, row_exists = _rows_of(start, count, WHOLE, ROWS)
    read = tl.load(codes + start + places, mask=exists, other=0)
    if FORMAT == _FP32:
        sent = read
    elif FORMAT == _BF16:
        sent = float_of(read.to(tl.int32) << 16)
    else:
        powers = tl.load(exponents + first + tl.arange(0, ROWS), mask=row_exists, other=0).to(tl.int32)
        sent = _halves(read.to(tl.int32)) * _power_of_two(powers)[:, None]
    result = scale * sent
    if ADD:
        result += tl.load(out + start + places, mask=exists, other=0.0)
    tl.store(out + start + places, result, mask=exists)


@launchable
def decode_casts(
    codes: tl.tensor, exponents: tl.tensor, out: tl.tensor, count: tl.tensor, scale: tl.tensor,
    FORMAT: tl.constexpr, ADD: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """out = fl(scale * D), or that added to it."""
    end = (tl.program_id(0) + 1).to(tl.int64) * (ROWS * _ROW)
    if end <= count:
        _decode_rows(codes, exponents, out, count, scale, True, FORMAT, ADD, ROWS)
    else:
        _decode_rows(codes, exponents, out, count, scale, False, FORMAT, ADD, ROWS)
