"""Device kernels of int8, int4 and int2: signed codes packed in planes, one float32 scale for each block.

A program takes ROWS whole blocks, or the tail. Blocks are read as [rows, planes, bytes], as they are packed: byte
j of P holds codes j, j + P, j + 2P, ...
"""

import triton.language as tl

from .language import (
    LARGEST,
    device_kernel,
    draw,
    float_of,
    floor_of,
    folded_sum,
    launchable,
    magnitude_bits,
    nearest,
    report,
    total_of,
)

_SMALLEST_NORMAL = tl.constexpr(2.0**-126)


@device_kernel
def plane_places(
    row_size: tl.tensor, num_rows: tl.tensor, ROWS: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr
) -> tl.tensor:
    """Of blocks of `row_size` elements each: the places of the elements [ROWS, 8 / BITS, P] and which exist, and the same
    for their packed bytes [ROWS, P]. `row_size` is BLOCK, or that of the tail, which is alone."""
    planes: tl.constexpr = 8 // BITS
    size = (row_size + planes - 1) // planes
    rows = tl.arange(0, ROWS)
    plane = tl.arange(0, planes)
    byte = tl.arange(0, BLOCK // planes)
    within = plane[None, :, None] * size + byte[None, None, :]
    places = rows[:, None, None] * BLOCK + within
    exists = (rows < num_rows)[:, None, None] & (byte < size)[None, None, :] & (within < row_size)
    byte_places = rows[:, None] * (BLOCK // planes) + byte[None, :]
    return places, exists, byte_places, (rows < num_rows)[:, None] & (byte < size)[None, :]


@device_kernel
def packed_planes(codes: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """The bytes of int32 codes [ROWS, 8 / BITS, P], whose surplus bits are dropped, uint8 [ROWS, P]."""
    planes: tl.constexpr = 8 // BITS
    shifts = tl.arange(0, planes) * BITS
    return tl.sum((codes & ((1 << BITS) - 1)) << shifts[None, :, None], 1).to(tl.uint8)


@device_kernel
def signed_planes(packed: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """The signed codes of bytes [ROWS, P], int32 [ROWS, 8 / BITS, P]."""
    planes: tl.constexpr = 8 // BITS
    shifts = 32 - BITS - tl.arange(0, planes) * BITS
    return (packed.to(tl.int32)[:, None, :] << shifts[None, :, None]) >> (32 - BITS)


@device_kernel
def quotients(total: tl.tensor, scales: tl.tensor) -> tl.tensor:
    """total / scale, as the CPU's kernels have it: times the reciprocal, unless a subnormal scale has none."""
    divisors = tl.where(scales > 0.0, scales, 1.0)
    is_tiny = (divisors < _SMALLEST_NORMAL).to(tl.int32)
    inverses = tl.where(scales > 0.0, tl.div_rn(1.0, tl.where(is_tiny > 0, 1.0, divisors)), 0.0)
    result = total * inverses[:, None, None]
    if tl.max(is_tiny, 0) > 0:
        result = tl.where(is_tiny[:, None, None] > 0, tl.div_rn(total, divisors[:, None, None]), result)
    return result


@device_kernel
def scale_of(largest: tl.tensor, LEVELS: tl.constexpr) -> tl.tensor:
    scales = tl.div_rn(float_of(largest), LEVELS * 1.0)
    # Next to the largest float, rounding the scale up would decode the largest code to infinity.
    return tl.where(scales * LEVELS <= LARGEST, scales, float_of(scales.to(tl.int32, bitcast=True) - 1))


@device_kernel
def integer_codes(
    total: tl.tensor,
    scales: tl.tensor,
    indices: tl.tensor,
    seed: tl.tensor,
    LEVELS: tl.constexpr,
    STOCHASTIC: tl.constexpr,
) -> tl.tensor:
    """int32 codes of [ROWS, planes, P]."""
    levels = quotients(total, scales)
    if STOCHASTIC:
        below = floor_of(levels)
        levels = tl.where(draw(seed, indices) < levels - below, below + 1.0, below)
    else:
        levels = nearest(levels)
    return tl.minimum(tl.maximum(levels, -1.0 * LEVELS), 1.0 * LEVELS).to(tl.int32)


@device_kernel
def _ternary(
    total: tl.tensor,
    natural: tl.tensor,
    largest: tl.tensor,
    exists: tl.tensor,
    size: tl.tensor,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Codes of [ROWS, planes, P] and scales; `natural` has the same elements as [ROWS, BLOCK] in their order."""
    bound = float_of(largest) * 0.25
    sizes = tl.abs(natural)
    is_kept = (sizes >= bound[:, None]) & (tl.arange(0, BLOCK) < size)[None, :]
    num_kept = tl.maximum(tl.sum(is_kept.to(tl.int32), 1), 1)
    part = folded_sum(tl.where(is_kept, sizes * (1.0 / BLOCK), 0.0), ROWS, BLOCK)
    scales = tl.minimum(part * tl.div_rn(BLOCK * 1.0, num_kept.to(tl.float32)), LARGEST)
    signs = (total.to(tl.int32, bitcast=True) >> 31) | 1
    is_sent = exists & (tl.abs(total) >= bound[:, None, None]) & (scales > 0.0)[:, None, None]
    return tl.where(is_sent, signs, 0), scales


@device_kernel
def natural_of(
    values: tl.tensor, committed: tl.tensor, num_rows: tl.tensor, row_size: tl.tensor,
    RESIDUAL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The totals in the order of the elements, [ROWS, BLOCK], for sums whose order matters. They are read again, from
    the cache: planes of a tail leave gaps, and reshaping planes took the compiler minutes."""
    rows, columns = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    return total_of(values, committed, rows * BLOCK + columns, (rows < num_rows) & (columns < row_size), RESIDUAL)


@device_kernel
def _encode_blocks(
    values: tl.tensor, committed: tl.tensor, pending: tl.tensor, packed: tl.tensor, scales: tl.tensor, finding: tl.tensor,
    first: tl.tensor, num_rows: tl.tensor, row_size: tl.tensor, seed: tl.tensor,
    BITS: tl.constexpr, STOCHASTIC: tl.constexpr, RESIDUAL: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    LEVELS: tl.constexpr = (1 << (BITS - 1)) - 1
    start = first.to(tl.int64) * BLOCK
    places, exists, bytes_, byte_exists = plane_places(row_size, num_rows, ROWS, BLOCK, BITS)
    total = total_of(values + start, committed + start, places, exists, RESIDUAL)
    largest = tl.max(tl.max(magnitude_bits(total), 2), 1)
    report(finding, largest)
    if BITS == 2 and not STOCHASTIC:
        natural = natural_of(values + start, committed + start, num_rows, row_size, RESIDUAL, ROWS, BLOCK)
        codes, steps = _ternary(total, natural, largest, exists, row_size, ROWS, BLOCK)
    else:
        steps = scale_of(largest, LEVELS)
        codes = integer_codes(total, steps, start + places, seed, LEVELS, STOCHASTIC)
    tl.store(packed + start // (8 // BITS) + bytes_, packed_planes(codes, BITS), mask=byte_exists)
    rows = tl.arange(0, ROWS)
    tl.store(scales + first + rows, steps, mask=rows < num_rows)
    if RESIDUAL:
        tl.store(pending + start + places, total - codes.to(tl.float32) * steps[:, None, None], mask=exists)


@launchable
def encode_integers(
    values: tl.tensor, committed: tl.tensor, pending: tl.tensor, packed: tl.tensor, scales: tl.tensor,
    finding: tl.tensor, count: tl.tensor, seed: tl.tensor,
    BITS: tl.constexpr, STOCHASTIC: tl.constexpr, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """One program for ROWS whole blocks each, one for the tail, if there is one. Packed codes uint8."""
    num_whole = count // BLOCK
    first = tl.program_id(0) * ROWS
    if first < num_whole:
        _encode_blocks(
            values, committed, pending, packed, scales, finding, first, num_whole - first, BLOCK, seed,
            BITS, STOCHASTIC, RESIDUAL, BLOCK, ROWS,
        )  # fmt: skip
    else:
        _encode_blocks(
            values, committed, pending, packed, scales, finding, num_whole, 1, count - num_whole * BLOCK, seed,
            BITS, STOCHASTIC, RESIDUAL, BLOCK, 1,
        )  # fmt: skip


@device_kernel
def _decode_blocks(
    packed: tl.tensor, scales: tl.tensor, out: tl.tensor,
    first: tl.tensor, num_rows: tl.tensor, row_size: tl.tensor, scale: tl.tensor,
    BITS: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    start = first.to(tl.int64) * BLOCK
    places, exists, bytes_, byte_exists = plane_places(row_size, num_rows, ROWS, BLOCK, BITS)
    words = tl.load(packed + start // (8 // BITS) + bytes_, mask=byte_exists, other=0)
    rows = tl.arange(0, ROWS)
    steps = tl.load(scales + first + rows, mask=rows < num_rows, other=0.0)
    result = scale * (signed_planes(words, BITS).to(tl.float32) * steps[:, None, None])
    if ADD:
        result += tl.load(out + start + places, mask=exists, other=0.0)
    tl.store(out + start + places, result, mask=exists)


@launchable
def decode_integers(
    packed: tl.tensor, scales: tl.tensor, out: tl.tensor, count: tl.tensor, scale: tl.tensor,
    BITS: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """out = fl(scale * D), or that added to it. Programs as in `encode_integers`."""
    num_whole = count // BLOCK
    first = tl.program_id(0) * ROWS
    if first < num_whole:
        _decode_blocks(packed, scales, out, first, num_whole - first, BLOCK, scale, BITS, ADD, BLOCK, ROWS)
    else:
        _decode_blocks(packed, scales, out, num_whole, 1, count - num_whole * BLOCK, scale, BITS, ADD, BLOCK, 1)
