"""int2: ternary codes, -1, 0 and 1, and one float32 scale for each block."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from ..arguments import rounding_and_block, rounding_and_block_spec
from ..codec import Bytes, DenseCodec, Floats, Memo, Residual
from ..contract import Contract
from ..kernels import INFINITY, LARGEST, MAGNITUDE, bits_of, float_of, fold, kernel, largest_bits_of, size_of_block
from ..reference import blocks_of, folded_sum
from ..reference import largest_bits as reference_largest_bits
from .integers import SLACK, Integers, checked_block_log2
from .packing import Codes, pack

_BITS = 2
_F = np.float32
_I = np.int32
_L = np.uint64


@dataclass(frozen=True, slots=True)
class Ternary(Integers):
    """Elements of at least a quarter of the block's largest magnitude become its sign times the mean magnitude
    of those elements; the others become zero.

    The scale is the least-squares one for that choice (as in ternary weight networks, Li et al. 2016, whose
    threshold is a multiple of the mean; a share of the largest needs no sum, and is about the same for Gaussian
    blocks). Section as that of int2:stochastic.
    """

    @property
    def spec(self) -> str:
        return rounding_and_block_spec("int2", False, self.block_log2)

    @property
    def contract(self) -> Contract:
        # ||x - D||^2 = ||x||^2 - (sum of the m elements sent)^2 / m. Those are the m largest, and a sum of
        # magnitudes is at least their norm: the square taken off is at least ||x||^2 / block.
        return Contract(relative_error=0.75 * SLACK, squared_error=1.0 - 1.0 / self.block, absolute_error=2.0**-140)

    def encode_section(
        self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None = None
    ) -> bool:
        codes, scales, padding = self.parts(section, values.size)
        padding[:] = 0
        if residual is None:
            return _encode(values, codes, scales, self.block)
        return _encode_residual(values, *residual, codes, scales, self.block)

    def reference_section(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        blocks = blocks_of(values, self.block)
        sizes = blocks.abs()
        largest = reference_largest_bits(blocks).view(torch.float32)
        place = torch.arange(blocks.numel(), device=values.device).view_as(blocks)
        kept = (sizes >= largest * 0.25) & (place < values.numel())
        total = folded_sum(torch.where(kept, sizes, 0.0) * (1.0 / self.block))
        scales = (total * (float(self.block) / kept.sum(1, keepdim=True).to(torch.float32))).clamp(max=float(LARGEST))
        return self.reference_join(torch.where(kept & (scales > 0), blocks.sign(), 0.0), scales, values.numel())


@kernel
def _share(magnitude: np.float32, bound: np.float32, part: np.float32) -> np.float32:
    return _F(magnitude * part) if magnitude >= bound else _F(0)


@kernel
def _mean_of_kept(
    values: Floats, start: np.uint64, size: np.uint64, largest: np.float32, scratch: Floats, block: np.uint64
) -> np.float32:
    """Mean magnitude of the elements that are kept. Dividing by the block first keeps the sum finite."""
    bound, part = _F(largest * _F(0.25)), _F(_F(1) / _F(block))
    num_kept, quarter = _I(0), block >> _L(2)
    if size == block:
        # The first two steps of folding, at once.
        for i in range(quarter):
            place = start + i
            a, b = _F(np.abs(values[place])), _F(np.abs(values[place + quarter]))
            c, d = _F(np.abs(values[place + _L(2) * quarter])), _F(np.abs(values[place + _L(3) * quarter]))
            num_kept += _I(_I(_I(a >= bound) + _I(b >= bound)) + _I(_I(c >= bound) + _I(d >= bound)))
            even = _F(_share(a, bound, part) + _share(c, bound, part))
            scratch[i] = even + _F(_share(b, bound, part) + _share(d, bound, part))
        return _mean(fold(scratch, quarter), num_kept, block)
    for i in range(block):
        scratch[i] = _F(0)
    for i in range(size):
        magnitude = _F(np.abs(values[start + i]))
        is_kept = magnitude >= bound
        num_kept += _I(is_kept)
        scratch[i] = _share(magnitude, bound, part)
    return _mean(fold(scratch, block), num_kept, block)


@kernel
def _mean(total: np.float32, count: np.int32, block: np.uint64) -> np.float32:
    return min(_F(total * _F(_F(block) / _F(count))), LARGEST)


@kernel
def _code(value: np.float32, bound: np.float32) -> np.int32:
    sign = _I(_I(bits_of(value) >> 31) | _I(1))
    return sign if _F(np.abs(value)) >= bound else _I(0)


@kernel
def _bound(largest: np.float32, scale: np.float32) -> np.float32:
    """The smallest magnitude that is kept; none of a block whose scale is zero."""
    return _F(largest * _F(0.25)) if scale > _F(0) else _F(np.inf)


@kernel
def _round_whole_block(
    total: Floats, start: np.uint64, num_bytes: np.uint64, packed: Codes, bound: np.float32, scale: np.float32
) -> None:
    """Codes, what they leave out, and packing, in one pass over the four planes."""
    first = start >> _L(2)
    for j in range(num_bytes):
        a = start + j
        b, c, d = a + num_bytes, a + num_bytes * _L(2), a + num_bytes * _L(3)
        code_a, code_b = _code(total[a], bound), _code(total[b], bound)
        code_c, code_d = _code(total[c], bound), _code(total[d], bound)
        total[a] -= _F(code_a) * scale
        total[b] -= _F(code_b) * scale
        total[c] -= _F(code_c) * scale
        total[d] -= _F(code_d) * scale
        low = _I(_I(code_a & 3) | _I(_I(code_b & 3) << 2))
        high = _I(_I(_I(code_c & 3) << 4) | _I(_I(code_d & 3) << 6))
        packed[first + j] = np.int8(_I(low | high))


@kernel
def _encode(values: Floats, packed: Codes, scales: Floats, block: int) -> bool:
    scratch, codes = np.empty(block, np.float32), np.empty(block, np.int8)
    for index in range(scales.size):
        start = _L(index) * _L(block)
        size = size_of_block(start, _L(block), values.size)
        bits = largest_bits_of(values, start, size)
        if bits >= INFINITY:
            return False
        largest = np.float32(float_of(bits))
        scales[index] = _mean_of_kept(values, start, size, largest, scratch, _L(block))
        bound = _bound(largest, scales[index])
        for i in range(size):
            codes[i] = np.int8(_code(values[start + i], bound))
        pack(codes, size, packed, start, _BITS)
    return True


@kernel
def _encode_residual(
    values: Floats, committed: Floats, pending: Floats, packed: Codes, scales: Floats, block: int
) -> bool:
    scratch, whole = np.empty(block, np.float32), values.size // block
    for index in range(whole):
        start, size = _L(index) * _L(block), _L(block)
        largest = _add_largest(values, committed, pending, start, size)
        if largest < _F(0):
            return False
        scale = _mean_of_kept(pending, start, size, largest, scratch, size)
        scales[index] = scale
        _round_whole_block(pending, start, size >> _L(2), packed, _bound(largest, scale), scale)
    if whole < scales.size:
        return _encode_tail(values, committed, pending, packed, scales, _L(whole) * _L(block), scratch)
    return True


@kernel
def _add_largest(values: Floats, committed: Floats, total: Floats, start: np.uint64, size: np.uint64) -> np.float32:
    """total = values + committed in a block, and the largest magnitude; negative if a sum is not finite."""
    bits = _I(0)
    for i in range(size):
        value = values[start + i] + committed[start + i]
        bits = max(bits, _I(bits_of(value) & MAGNITUDE))
        total[start + i] = value
    return np.float32(float_of(bits)) if bits < INFINITY else _F(-1)


@kernel
def _encode_tail(
    values: Floats,
    committed: Floats,
    pending: Floats,
    packed: Codes,
    scales: Floats,
    start: np.uint64,
    scratch: Floats,
) -> bool:
    """The last block, which is not whole."""
    block, size = _L(scratch.size), _L(values.size) - start
    largest = _add_largest(values, committed, pending, start, size)
    if largest < _F(0):
        return False
    scale = _mean_of_kept(pending, start, size, largest, scratch, block)
    scales[scales.size - 1] = scale
    bound, codes = _bound(largest, scale), np.empty(scratch.size, np.int8)
    for i in range(size):
        code = _code(pending[start + i], bound)
        codes[i] = np.int8(code)
        pending[start + i] -= _F(code) * scale
    pack(codes, size, packed, start, _BITS)
    return True


def build(arguments: list[str]) -> DenseCodec:
    stochastic, block_log2 = rounding_and_block("int2", arguments)
    return Integers(_BITS, True, block_log2) if stochastic else Ternary(_BITS, False, block_log2)


@lru_cache
def read(parameter: int) -> DenseCodec:
    return Ternary(_BITS, block_log2=checked_block_log2("int2", parameter))
