"""int8, int4 and int2:stochastic: a signed code an element and one float32 scale for each block."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from ...protos.errors import FrameError, NonFiniteError
from ..arguments import (
    LARGEST_BLOCK_LOG2,
    SMALLEST_BLOCK_LOG2,
    rounding_and_block,
    rounding_and_block_spec,
)
from ..codec import Bytes, DenseCodec, Floats, Memo, Residual, check_padding, padded
from ..contract import Contract
from ..kernels import FINITE, NOT_FINITE
from ..reference import blocks_of, cast, drawn, filled, largest_bits, packed_blocks, raw, unpacked_blocks
from . import integer_kernels as kernels
from .packing import packed_bytes

SLACK = 1.0 + 2.0**-15
"""The roundings of scale, quotient and product, which lie up to 127 levels from zero."""


@dataclass(frozen=True, slots=True)
class Integers(DenseCodec):
    """code = value / scale rounded to an integer of `bits` bits, with scale = (largest magnitude of the block)
    / (largest code); D = code * scale.

    Rounds to the nearest level, ties to even, or, if `stochastic`, up with the probability that makes the mean
    exact (QSGD with the largest magnitude as its norm; with two bits, TernGrad). Section: the packed codes of
    all blocks (packing.py), padded with zeros to four bytes, then the scales.
    """

    bits: int
    stochastic: bool = False
    block_log2: int = 8

    @property
    def spec(self) -> str:
        return rounding_and_block_spec(f"int{self.bits}", self.stochastic, self.block_log2)

    @property
    def contract(self) -> Contract:
        levels = (1 << self.bits - 1) - 1
        steps = 1.0 if self.stochastic else 0.5  # largest rounding error, in levels
        # The block's largest element is exact. For the others take the worst value of ||D - x||^2 / ||x||^2: half a
        # level each or, when drawing, the f levels that maximise a * f * (1 - f) / (1 + a * f^2).
        a = (self.block - 1) * (SLACK * steps / levels) ** 2
        return Contract(
            unbiased=self.stochastic,
            deterministic=not self.stochastic,
            relative_error=SLACK * steps / levels,
            squared_error=(math.sqrt(1.0 + a) - 1.0) / 2.0 if self.stochastic else a / (1.0 + a),
            absolute_error=2.0**-142,
        )

    @property
    def value_id(self) -> int:
        return VALUE_IDS[self.bits]

    @property
    def parameter(self) -> int:
        return self.block_log2

    @property
    def block(self) -> int:
        """Elements that share a scale."""
        return 1 << self.block_log2

    def section_bytes(self, count: int) -> int:
        return padded(packed_bytes(count, self.block, self.bits)) + 4 * -(-count // self.block)

    def encode_section(
        self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None = None
    ) -> bool:
        codes, scales, padding = self.parts(section, values.size)
        padding[:] = 0
        shape = self.block, self.bits
        match self.stochastic, residual:
            case False, None:
                return kernels.encode(values, codes, scales, *shape)
            case True, None:
                return kernels.encode_stochastic(values, codes, scales, *shape, seed)
            case False, (committed, pending):
                return kernels.encode_residual(values, committed, pending, codes, scales, *shape)
            case _, (committed, pending):
                return kernels.encode_stochastic_residual(values, committed, pending, codes, scales, *shape, seed)
        raise AssertionError(residual)

    def check_section(self, section: Bytes, count: int) -> None:
        codes, scales, padding = self.parts(section, count)
        check_padding(padding)
        finding = kernels.check(codes, scales, count, self.block, self.bits)
        if finding == NOT_FINITE:
            raise NonFiniteError(f"an int{self.bits} frame has a scale that is not finite")
        if finding != FINITE:
            raise FrameError(f"an int{self.bits} frame has a code or a scale out of range, or padding that is not zero")

    def decode_section(self, section: Bytes, out: Floats, scale: np.float32) -> None:
        codes, scales, _ = self.parts(section, out.size)
        kernels.decode(codes, scales, out, scale, self.block, self.bits)

    def add_section(self, section: Bytes, accumulator: Floats, scale: np.float32) -> None:
        codes, scales, _ = self.parts(section, accumulator.size)
        kernels.add_to(codes, scales, accumulator, scale, self.block, self.bits)

    def reference_section(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        blocks = blocks_of(values, self.block)
        levels = float((1 << self.bits - 1) - 1)
        # A tensor, because CUDA divides by a Python number with a product, which rounds otherwise.
        scales = largest_bits(blocks).view(torch.float32) / torch.full((), levels, device=values.device)
        scales = torch.where((levels * scales).isinf(), (scales.view(torch.int32) - 1).view(torch.float32), scales)
        quotients = torch.where(scales >= 2.0**-126, blocks * (1.0 / scales), blocks / scales)
        quotients = torch.where(scales > 0.0, quotients, 0.0)
        if self.stochastic:
            below = quotients.floor()
            chosen = below + (drawn(seed, blocks.numel(), values.device).view_as(blocks) < quotients - below)
        else:
            chosen = quotients.round()
        return self.reference_join(chosen.clamp(-levels, levels), scales, values.numel())

    def reference_join(self, codes: torch.Tensor, scales: torch.Tensor, count: int) -> torch.Tensor:
        """The section of codes [num_blocks, block] and their scales."""
        return torch.cat([filled(packed_blocks(codes.to(torch.int8), count, self.bits)), raw(scales)])

    def reference_values(self, section: torch.Tensor, count: int) -> torch.Tensor:
        packed = section[: packed_bytes(count, self.block, self.bits)]
        codes = unpacked_blocks(packed, count, self.block, self.bits)
        codes = torch.where(codes >= 1 << self.bits - 1, codes - (1 << self.bits), codes)
        scales = cast(section[padded(packed.numel()) :], torch.float32)
        return (blocks_of(codes.to(torch.float32), self.block) * scales[:, None]).view(-1)[:count]

    def parts(self, section: Bytes, count: int) -> tuple[NDArray[np.int8], Floats, Bytes]:
        """The packed codes, the scales, and the padding between them."""
        used = packed_bytes(count, self.block, self.bits)
        end = padded(used)
        return section[:used].view(np.int8), section[end:].view(np.float32), section[used:end]


VALUE_IDS = {8: 3, 4: 4, 2: 5}
"""Number of the value format in a header, by bits."""


def build_int8(arguments: list[str]) -> DenseCodec:
    return Integers(8, *rounding_and_block("int8", arguments))


def build_int4(arguments: list[str]) -> DenseCodec:
    return Integers(4, *rounding_and_block("int4", arguments))


@lru_cache
def read_int8(parameter: int) -> DenseCodec:
    return Integers(8, block_log2=checked_block_log2("int8", parameter))


@lru_cache
def read_int4(parameter: int) -> DenseCodec:
    return Integers(4, block_log2=checked_block_log2("int4", parameter))


def checked_block_log2(name: str, parameter: int) -> int:
    """Raise FrameError unless blocks of that size exist."""
    if not SMALLEST_BLOCK_LOG2 <= parameter <= LARGEST_BLOCK_LOG2:
        raise FrameError(f"{name} frame has quantiser blocks of 2^{parameter} elements")
    return parameter
