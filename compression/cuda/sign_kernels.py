"""Device kernels of sign: one bit an element in planes, and one float32 scale for each block. Programs take blocks as
those of integer_kernels.py do."""

import triton.language as tl

from .integer_kernels import natural_of, packed_planes, plane_places
from .language import (
    LARGEST,
    device_kernel,
    draw,
    float_of,
    folded_sum,
    launchable,
    magnitude_bits,
    report,
    total_of,
)


@device_kernel
def _signed(steps: tl.tensor, is_negative: tl.tensor) -> tl.tensor:
    """Each block's step with its elements' signs, by their bits: to the compiler, minus x is 0 - x."""
    return float_of(steps.to(tl.int32, bitcast=True)[:, None, None] | (is_negative.to(tl.int32) << 31))


@device_kernel
def _encode_blocks(
    values: tl.tensor, committed: tl.tensor, pending: tl.tensor, packed: tl.tensor, scales: tl.tensor, finding: tl.tensor,
    first: tl.tensor, num_rows: tl.tensor, row_size: tl.tensor, seed: tl.tensor,
    STOCHASTIC: tl.constexpr, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    start = first.to(tl.int64) * BLOCK
    places, exists, bytes_, byte_exists = plane_places(row_size, num_rows, ROWS, BLOCK, 1)
    total = total_of(values + start, committed + start, places, exists, RESIDUAL)
    largest = tl.max(tl.max(magnitude_bits(total), 2), 1)
    report(finding, largest)
    if STOCHASTIC:
        steps = float_of(largest)
        threshold = draw(seed, start + places) * 2.0 - 1.0
        is_negative = threshold * steps[:, None, None] >= total
    else:
        natural = natural_of(values + start, committed + start, num_rows, row_size, RESIDUAL, ROWS, BLOCK)
        # Divided by the block first, the sum stays finite.
        part = folded_sum(tl.abs(natural) * (1.0 / BLOCK), ROWS, BLOCK)
        steps = tl.minimum(part * tl.div_rn(BLOCK * 1.0, row_size * 1.0), LARGEST)
        is_negative = total < 0.0
    tl.store(packed + start // 8 + bytes_, packed_planes((is_negative & exists).to(tl.int32), 1), mask=byte_exists)
    rows = tl.arange(0, ROWS)
    tl.store(scales + first + rows, steps, mask=rows < num_rows)
    if RESIDUAL:
        sent = _signed(steps, is_negative)
        tl.store(pending + start + places, total - sent, mask=exists)


@launchable
def encode_signs(
    values: tl.tensor, committed: tl.tensor, pending: tl.tensor, packed: tl.tensor, scales: tl.tensor, finding: tl.tensor,
    count: tl.tensor, seed: tl.tensor,
    STOCHASTIC: tl.constexpr, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """One program for ROWS whole blocks each, one for the tail, if there is one. Packed bits uint8."""
    num_whole = count // BLOCK
    first = tl.program_id(0) * ROWS
    if first < num_whole:
        _encode_blocks(
            values, committed, pending, packed, scales, finding, first, num_whole - first, BLOCK, seed,
            STOCHASTIC, RESIDUAL, BLOCK, ROWS,
        )  # fmt: skip
    else:
        _encode_blocks(
            values, committed, pending, packed, scales, finding, num_whole, 1, count - num_whole * BLOCK, seed,
            STOCHASTIC, RESIDUAL, BLOCK, 1,
        )  # fmt: skip


@device_kernel
def _decode_blocks(
    packed: tl.tensor, scales: tl.tensor, out: tl.tensor,
    first: tl.tensor, num_rows: tl.tensor, row_size: tl.tensor, scale: tl.tensor,
    ADD: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    start = first.to(tl.int64) * BLOCK
    places, exists, bytes_, byte_exists = plane_places(row_size, num_rows, ROWS, BLOCK, 1)
    words = tl.load(packed + start // 8 + bytes_, mask=byte_exists, other=0).to(tl.int32)
    is_negative = ((words[:, None, :] >> tl.arange(0, 8)[None, :, None]) & 1) > 0
    rows = tl.arange(0, ROWS)
    steps = tl.load(scales + first + rows, mask=rows < num_rows, other=0.0)
    result = scale * _signed(steps, is_negative)
    if ADD:
        result += tl.load(out + start + places, mask=exists, other=0.0)
    tl.store(out + start + places, result, mask=exists)


@launchable
def decode_signs(
    packed: tl.tensor, scales: tl.tensor, out: tl.tensor, count: tl.tensor, scale: tl.tensor,
    ADD: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """out = fl(scale * D), or that added to it. Programs as in `encode_signs`."""
    num_whole = count // BLOCK
    first = tl.program_id(0) * ROWS
    if first < num_whole:
        _decode_blocks(packed, scales, out, first, num_whole - first, BLOCK, scale, ADD, BLOCK, ROWS)
    else:
        _decode_blocks(packed, scales, out, num_whole, 1, count - num_whole * BLOCK, scale, ADD, BLOCK, 1)
