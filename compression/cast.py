"""fp32, bf16 and fp16: every element, in fewer bits or in all of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..protos.errors import FrameError, NonFiniteError
from . import cast_kernels as kernels
from .codec import Bytes, Contract, DenseCodec, Floats, Residual, padded
from .kernels import BLOCK, BLOCK_LOG2, FINITE, INFINITY, NOT_FINITE, largest_bits


@dataclass(frozen=True, slots=True)
class Fp32(DenseCodec):
    """The values as they are. Section: n float32."""

    @property
    def spec(self) -> str:
        return "fp32"

    @property
    def contract(self) -> Contract:
        return Contract(unbiased=True, deterministic=True)

    @property
    def lossless(self) -> bool:
        return True

    @property
    def value_id(self) -> int:
        return 0

    def section_bytes(self, count: int) -> int:
        return 4 * count

    def encode_section(self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None) -> bool:
        codes = section.view(np.float32)
        if residual is None:
            return kernels.encode_fp32(values, codes)
        return kernels.encode_fp32_residual(values, *residual, codes)

    def check_section(self, section: Bytes, count: int) -> None:
        if largest_bits(section.view(np.float32)) >= INFINITY:
            raise NonFiniteError("an fp32 frame has a value that is not finite")

    def decode_section(self, section: Bytes, out: Floats, scale: np.float32) -> None:
        kernels.decode_fp32(section.view(np.float32), out, scale)

    def add_section(self, section: Bytes, accumulator: Floats, scale: np.float32) -> None:
        kernels.add_fp32(section.view(np.float32), accumulator, scale)


@dataclass(frozen=True, slots=True)
class Bf16(DenseCodec):
    """Rounded to bfloat16, half to even. Section: n 16-bit words, padded with zeros to four bytes."""

    @property
    def spec(self) -> str:
        return "bf16"

    @property
    def contract(self) -> Contract:
        return Contract(
            unbiased=False,
            deterministic=True,
            relative_error=2.0**-8,
            squared_error=2.0**-16,
            absolute_error=2.0**-134,
        )

    @property
    def value_id(self) -> int:
        return 2

    def section_bytes(self, count: int) -> int:
        return padded(2 * count)

    def encode_section(self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None) -> bool:
        section[2 * values.size :] = 0
        codes = _words(section, values.size)
        if residual is None:
            return kernels.encode_bf16(values, codes)
        return kernels.encode_bf16_residual(values, *residual, codes)

    def check_section(self, section: Bytes, count: int) -> None:
        check_padding(section[2 * count :])
        if kernels.check_bf16(_words(section, count)) != FINITE:
            raise NonFiniteError("a bf16 frame has a value that is not finite")

    def decode_section(self, section: Bytes, out: Floats, scale: np.float32) -> None:
        kernels.decode_bf16(_words(section, out.size), out, scale)

    def add_section(self, section: Bytes, accumulator: Floats, scale: np.float32) -> None:
        kernels.add_bf16(_words(section, accumulator.size), accumulator, scale)


@dataclass(frozen=True, slots=True)
class Fp16(DenseCodec):
    """Half precision times one power of two for each block of 256, so that small values are not flushed to
    zero.

    Section: n halves, then one signed exponent byte for each block, padded with zeros to four bytes. The
    largest magnitude of a block lies in [2^14, 2^15) before it is rounded to half precision, half to even.
    """

    @property
    def spec(self) -> str:
        return "fp16"

    @property
    def contract(self) -> Contract:
        return Contract(
            unbiased=False,
            deterministic=True,
            relative_error=2.0**-11,
            squared_error=2.0**-21,
            absolute_error=2.0**-150,
        )

    @property
    def value_id(self) -> int:
        return 1

    @property
    def block_log2(self) -> int:
        return BLOCK_LOG2

    def section_bytes(self, count: int) -> int:
        return padded(2 * count + num_blocks(count))

    def encode_section(self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None) -> bool:
        codes, exponents, padding = _halves(section, values.size)
        padding[:] = 0
        if residual is None:
            return kernels.encode_fp16(values, codes, exponents)
        return kernels.encode_fp16_residual(values, *residual, codes, exponents)

    def check_section(self, section: Bytes, count: int) -> None:
        codes, exponents, padding = _halves(section, count)
        check_padding(padding)
        finding = kernels.check_fp16(codes, exponents)
        if finding == NOT_FINITE:
            raise NonFiniteError("an fp16 frame has a value that is not finite")
        if finding != FINITE:
            raise FrameError("an fp16 frame has a block exponent, or a value at its exponent, out of range")

    def decode_section(self, section: Bytes, out: Floats, scale: np.float32) -> None:
        codes, exponents, _ = _halves(section, out.size)
        kernels.decode_fp16(codes, exponents, out, scale)

    def add_section(self, section: Bytes, accumulator: Floats, scale: np.float32) -> None:
        codes, exponents, _ = _halves(section, accumulator.size)
        kernels.add_fp16(codes, exponents, accumulator, scale)


def num_blocks(count: int) -> int:
    """Quantiser blocks of `count` values."""
    return -(-count // BLOCK)


def check_padding(padding: Bytes) -> None:
    """Raise FrameError unless the bytes behind a section are zero."""
    if padding.any():
        raise FrameError("a frame's padding is not zero")


def _words(section: Bytes, count: int) -> NDArray[np.uint16]:
    return section[: 2 * count].view(np.uint16)


def _halves(section: Bytes, count: int) -> tuple[NDArray[np.uint16], NDArray[np.int8], Bytes]:
    end = 2 * count + num_blocks(count)
    return _words(section, count), section[2 * count : end].view(np.int8), section[end:]
