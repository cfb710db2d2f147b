"""sign: one bit an element and one float32 scale for each block."""

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

from ...protos.errors import FrameError, NonFiniteError
from ..arguments import rounding_and_block, rounding_and_block_spec
from ..codec import Bytes, DenseCodec, Floats, Memo, Residual, check_padding, padded
from ..contract import Contract
from ..kernels import (
    FINITE,
    INFINITY,
    LARGEST,
    MAGNITUDE,
    MALFORMED,
    NOT_FINITE,
    bits_of,
    draw,
    float_of,
    fold,
    kernel,
    size_of_block,
)
from ..reference import (
    blocks_of,
    cast,
    drawn,
    filled,
    folded_sum,
    packed_blocks,
    raw,
    unpacked_blocks,
)
from ..reference import largest_bits as reference_largest_bits
from .integers import checked_block_log2
from .packing import Codes, pack, packed_bytes, scratch_size
from .without_zero import HAS_ZERO, WithoutZero

Signs = NDArray[np.int32]

VALUE_ID = 6

_F = np.float32
_I = np.int32
_L = np.uint64
_U = np.uint32

_ZERO = _U(0xFFFFFFFF)
_UNFIT = _U(INFINITY - 1)
"""From here on `_one_less` is of something that is not finite, or of zero."""


@dataclass(frozen=True, slots=True)
class Sign(WithoutZero):
    """D = scale * sign, with the mean magnitude of the block as scale (EF-signSGD, Karimireddy et al. 2019), of elements
    that are not zero.

    If `stochastic`, the scale is the largest magnitude and the sign is drawn so that the mean is exact. Section:
    the packed bits of all blocks (packing.py; set = negative), padded with zeros to four bytes, then the scales.
    """

    stochastic: bool = False
    block_log2: int = 8

    @property
    def spec(self) -> str:
        return rounding_and_block_spec("sign", self.stochastic, self.block_log2)

    @property
    def contract(self) -> Contract:
        if self.stochastic:
            return Contract(unbiased=True, deterministic=False, relative_error=2.0, squared_error=float(self.block - 1))
        # ||D - x||^2 = ||x||^2 - ||x||_1^2 / block, and ||x||_1 >= ||x||.
        return Contract(relative_error=1.0, squared_error=1.0 - 1.0 / self.block, absolute_error=2.0**-140)

    @property
    def value_id(self) -> int:
        return VALUE_ID

    @property
    def parameter(self) -> int:
        return self.block_log2

    @property
    def block(self) -> int:
        """Elements that share a scale."""
        return 1 << self.block_log2

    def section_bytes(self, count: int) -> int:
        return padded(packed_bytes(count, self.block, 1)) + 4 * -(-count // self.block)

    def write_section(
        self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None
    ) -> int:
        packed, scales, padding = self._parts(section, values.size)
        padding[:] = 0
        if self.stochastic:
            encode = partial(_encode_drawn, packed=packed, scales=scales, block=self.block, seed=seed)
            return self.write_then_leave(values, section, residual, encode)
        if residual is None:
            return int(_encode(values, packed, scales, self.block))
        return int(_encode_residual(values, *residual, packed, scales, self.block))

    def check_section(self, section: Bytes, count: int) -> None:
        packed, scales, padding = self._parts(section, count)
        check_padding(padding)
        finding = _check(packed, scales, count % self.block)
        if finding == NOT_FINITE:
            raise NonFiniteError("a sign frame has a scale that is not finite")
        if finding != FINITE:
            raise FrameError("a sign frame has a negative scale, or bits behind its last element")

    def decode_section(self, section: Bytes, out: Floats, scale: np.float32) -> None:
        packed, scales, _ = self._parts(section, out.size)
        _decode(packed, scales, out, scale, self.block)

    def add_section(self, section: Bytes, accumulator: Floats, scale: np.float32) -> None:
        packed, scales, _ = self._parts(section, accumulator.size)
        _add(packed, scales, accumulator, scale, self.block)

    def reference_section(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        count, blocks = values.numel(), blocks_of(values, self.block)
        if self.stochastic:
            scales = reference_largest_bits(blocks).view(torch.float32)
            threshold = drawn(seed, blocks.numel(), values.device).view_as(blocks) * 2.0 - 1.0
            negative = threshold * scales >= blocks
        else:
            sizes = values.new_full((len(blocks),), float(self.block))
            sizes[-1:] = float(count - (len(blocks) - 1) * self.block)
            total = folded_sum(blocks.abs() * (1.0 / self.block))
            scales = (total * (float(self.block) / sizes[:, None])).clamp(max=float(LARGEST))
            negative = blocks < 0
        return torch.cat([filled(packed_blocks(negative, count, 1)), raw(scales)])

    def reference_values(self, section: torch.Tensor, count: int) -> torch.Tensor:
        packed = section[: packed_bytes(count, self.block, 1)]
        bits = unpacked_blocks(packed, count, self.block, 1)
        signs = blocks_of(1.0 - 2.0 * bits.to(torch.float32), self.block)
        scales = cast(section[padded(packed.numel()) :], torch.float32)
        return (signs * scales[:, None]).view(-1)[:count]

    def _parts(self, section: Bytes, count: int) -> tuple[Codes, Floats, Bytes]:
        used = packed_bytes(count, self.block, 1)
        end = padded(used)
        return section[:used].view(np.int8), section[end:].view(np.float32), section[used:end]


@kernel
def _one_less(value: np.float32) -> np.uint32:
    """The bits of the magnitude less one: of zero the largest number there is. So one maximum finds it, and what is not
    finite."""
    return _U(_U(bits_of(value) & MAGNITUDE) - _U(1))


@kernel
def _finding(found: np.uint32) -> int:
    return HAS_ZERO if found == _ZERO else NOT_FINITE


@kernel
def _mean(scratch: Floats, size: np.uint64, block: np.uint64) -> np.float32:
    """The mean magnitude, of magnitudes divided by the block, which keeps their sum finite; scratch is used up."""
    for i in range(size, block):
        scratch[i] = _F(0)
    return min(_F(fold(scratch, block) * _F(_F(block) / _F(size))), LARGEST)


@kernel
def _encode(values: Floats, packed: Codes, scales: Floats, block: int) -> int:
    scratch, signs, part = np.empty(block, np.float32), np.empty(block, np.int8), _F(_F(1) / _F(block))
    for index in range(scales.size):
        start = _L(index) * _L(block)
        size = size_of_block(start, _L(block), values.size)
        found = _U(0)
        for i in range(size):
            found = max(found, _one_less(values[start + i]))
        if found >= _UNFIT:
            return _finding(found)
        for i in range(size):
            value = values[start + i]
            scratch[i] = _F(np.abs(value)) * part
            signs[i] = np.int8(value < _F(0))
        scales[index] = _mean(scratch, size, _L(block))
        pack(signs, size, packed, start, 1)
    return FINITE


@kernel
def _encode_residual(
    values: Floats, committed: Floats, pending: Floats, packed: Codes, scales: Floats, block: int
) -> int:
    scratch, signs, part = np.empty(block, np.float32), np.empty(block, np.int8), _F(_F(1) / _F(block))
    for index in range(scales.size):
        start = _L(index) * _L(block)
        size = size_of_block(start, _L(block), values.size)
        found = _U(0)
        for i in range(size):
            value = values[start + i] + committed[start + i]
            found = max(found, _one_less(value))
            pending[start + i] = value
            scratch[i] = _F(np.abs(value)) * part
        if found >= _UNFIT:
            return _finding(found)
        scale = _mean(scratch, size, _L(block))
        scales[index] = scale
        magnitude = bits_of(scale)
        for i in range(size):
            value = pending[start + i]
            is_negative = value < _F(0)
            signs[i] = np.int8(is_negative)
            pending[start + i] = value - np.float32(float_of(_I(magnitude | _I(_I(is_negative) << 31))))
        pack(signs, size, packed, start, 1)
    return FINITE


@kernel
def _encode_drawn(values: Floats, packed: Codes, scales: Floats, block: int, seed: np.uint32) -> int:
    signs = np.empty(block, np.int8)
    for index in range(scales.size):
        start = _L(index) * _L(block)
        size = size_of_block(start, _L(block), values.size)
        found = _U(0)
        for i in range(size):
            found = max(found, _one_less(values[start + i]))
        if found >= _UNFIT:
            return _finding(found)
        scale = np.float32(float_of(_I(found + _U(1))))
        scales[index] = scale
        for i in range(size):
            threshold = _F(_F(draw(seed, _U(_U(start) + _U(i))) * _F(2)) - _F(1))
            signs[i] = np.int8(_F(threshold * scale) >= values[start + i])
        pack(signs, size, packed, start, 1)
    return FINITE


@kernel
def _check(packed: Codes, scales: Floats, tail: int) -> int:
    for index in range(scales.size):
        pattern = bits_of(scales[index])
        if _I(pattern & INFINITY) == INFINITY:
            return NOT_FINITE
        if pattern < 0:
            return MALFORMED
    size = (tail + 7) // 8
    for place in range(tail, 8 * size):
        if _I(packed[packed.size - size + place % size]) >> _I(place // size) & 1:
            return MALFORMED
    return FINITE


@kernel
def _sign_bits(packed: Codes, start: np.uint64, size: np.uint64, signs: Signs) -> None:
    """The sign bit of each element, where it stands in a float32."""
    first, num_bytes = start >> _L(3), (size + _L(7)) >> _L(3)
    for plane in range(_L(8)):
        shift, offset = _I(31 - _I(plane)), plane * num_bytes
        for j in range(num_bytes):
            signs[offset + j] = _I(_I(_I(packed[first + j]) << shift) & _I(-0x80000000))


@kernel
def _decode(packed: Codes, scales: Floats, out: Floats, scale: np.float32, block: int) -> None:
    signs = np.empty(scratch_size(block, out.size), np.int32)
    for index in range(scales.size):
        start = _L(index) * _L(block)
        size = size_of_block(start, _L(block), out.size)
        _sign_bits(packed, start, size, signs)
        magnitude = bits_of(scales[index])
        for i in range(size):
            out[start + i] = scale * np.float32(float_of(_I(magnitude | signs[i])))


@kernel
def _add(packed: Codes, scales: Floats, out: Floats, scale: np.float32, block: int) -> None:
    signs = np.empty(scratch_size(block, out.size), np.int32)
    for index in range(scales.size):
        start = _L(index) * _L(block)
        size = size_of_block(start, _L(block), out.size)
        _sign_bits(packed, start, size, signs)
        magnitude = bits_of(scales[index])
        for i in range(size):
            out[start + i] += scale * np.float32(float_of(_I(magnitude | signs[i])))


def build(arguments: list[str]) -> DenseCodec:
    return Sign(*rounding_and_block("sign", arguments))


@lru_cache
def read(parameter: int) -> DenseCodec:
    return Sign(block_log2=checked_block_log2("sign", parameter))
