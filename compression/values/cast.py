"""fp32, bf16 and fp16: every element as a number of its own, in fewer bits or in all of them."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ...protos.errors import FrameError, NonFiniteError
from ..arguments import no_arguments, rounding
from ..codec import Bytes, DenseCodec, Floats, Memo, Residual, check_padding, encode_then_leave, padded
from ..contract import Contract
from ..kernels import FINITE, INFINITY, NOT_FINITE, largest_bits
from ..reference import blocks_of, cast, drawn, filled, hashed, power_of_two, raw
from ..reference import largest_bits as reference_largest_bits
from . import cast_kernels as kernels

BLOCK = int(kernels.BLOCK)


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

    def encode_section(
        self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None = None
    ) -> bool:
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

    def reference_section(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        return raw(values)

    def reference_values(self, section: torch.Tensor, count: int) -> torch.Tensor:
        return cast(section, torch.float32)


@dataclass(frozen=True, slots=True)
class Bf16(DenseCodec):
    """Rounded to bfloat16: half to even or, if `stochastic`, up with the probability that makes the mean exact.

    Section: n 16-bit words, padded with zeros to four bytes.
    """

    stochastic: bool = False

    @property
    def spec(self) -> str:
        return "bf16:stochastic" if self.stochastic else "bf16"

    @property
    def contract(self) -> Contract:
        return Contract(
            unbiased=self.stochastic,
            deterministic=not self.stochastic,
            relative_error=2.0**-7 if self.stochastic else 2.0**-8,
            squared_error=2.0**-16,
            absolute_error=2.0**-133,
        )

    @property
    def value_id(self) -> int:
        return 2

    def section_bytes(self, count: int) -> int:
        return padded(2 * count)

    def encode_section(
        self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None = None
    ) -> bool:
        section[2 * values.size :] = 0
        codes = _words(section, values.size)
        if self.stochastic:
            encode = partial(kernels.encode_bf16_stochastic, codes=codes, seed=seed)
            return encode(values) if residual is None else encode_then_leave(self, values, section, residual, encode)
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

    def reference_section(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        largest = torch.finfo(torch.bfloat16).max
        if not self.stochastic:
            return filled(raw(values.clamp(-largest, largest).to(torch.bfloat16)))
        bits = values.view(torch.int32).to(torch.int64)
        sizes = (bits & 0x7FFFFFFF) + (hashed(seed, values.numel(), values.device) >> 16) >> 16
        words = sizes.clamp(max=0x7F7F) | bits >> 16 & 0x8000
        return filled(raw(words.to(torch.int32).to(torch.int16)))

    def reference_values(self, section: torch.Tensor, count: int) -> torch.Tensor:
        return cast(section[: 2 * count], torch.bfloat16).to(torch.float32)


@dataclass(frozen=True, slots=True)
class Fp16(DenseCodec):
    """Half precision times one power of two for each block of 256, so that small values are not flushed to
    zero.

    Section: n halves, then one signed exponent byte for each block, padded with zeros to four bytes. The
    largest magnitude of a block lies in [2^14, 2^15) before it is rounded to half precision: half to even or, if
    `stochastic`, up with the probability that makes the mean exact.
    """

    stochastic: bool = False

    @property
    def spec(self) -> str:
        return "fp16:stochastic" if self.stochastic else "fp16"

    @property
    def contract(self) -> Contract:
        return Contract(
            unbiased=self.stochastic,
            deterministic=not self.stochastic,
            relative_error=2.0**-10 if self.stochastic else 2.0**-11,
            squared_error=2.0**-21,
            absolute_error=2.0**-149 if self.stochastic else 2.0**-150,
        )

    @property
    def value_id(self) -> int:
        return 1

    @property
    def parameter(self) -> int:
        return BLOCK.bit_length() - 1

    def section_bytes(self, count: int) -> int:
        return padded(2 * count + _num_blocks(count))

    def encode_section(
        self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None = None
    ) -> bool:
        codes, exponents, padding = _halves(section, values.size)
        padding[:] = 0
        if self.stochastic:
            encode = partial(kernels.encode_fp16_stochastic, codes=codes, exponents=exponents, seed=seed)
            return encode(values) if residual is None else encode_then_leave(self, values, section, residual, encode)
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

    def reference_section(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        blocks = blocks_of(values, BLOCK)
        exponents = ((reference_largest_bits(blocks) >> 23) - 141).clamp(min=-126)
        largest = torch.where(exponents == 113, 32752.0, 65504.0)
        scaled = blocks * power_of_two(-exponents)
        if self.stochastic:
            halves = self._drawn(scaled, seed).clamp(-largest, largest)
        else:
            halves = scaled.clamp(-largest, largest)
        codes = raw(halves.to(torch.float16).view(-1)[: values.numel()])
        return filled(torch.cat([codes, raw(exponents.to(torch.int8))]))

    def _drawn(self, scaled: torch.Tensor, seed: int) -> torch.Tensor:
        """Rounded to numbers of half precision, as float32; each is drawn from its two neighbours."""
        bits = scaled.view(torch.int32).to(torch.int64)
        words = hashed(seed, scaled.numel(), scaled.device).view_as(scaled)
        sizes = bits & 0x7FFFFFFF
        normal = ((sizes + (words >> 19)) >> 13 << 13).to(torch.int32).view(torch.float32)
        steps = scaled.abs() * 2.0**24
        lower = steps.floor()
        chance = drawn(seed, scaled.numel(), scaled.device).view_as(scaled)
        tiny = (lower + (chance < steps - lower)) * 2.0**-24
        return torch.where(sizes >= 0x38800000, normal, tiny).copysign(scaled)

    def reference_values(self, section: torch.Tensor, count: int) -> torch.Tensor:
        halves = blocks_of(cast(section[: 2 * count], torch.float16).to(torch.float32), BLOCK)
        exponents = section[2 * count : 2 * count + halves.shape[0]].view(torch.int8).to(torch.int32)
        return (halves * power_of_two(exponents[:, None])).view(-1)[:count]


def build_fp32(arguments: list[str]) -> DenseCodec:
    no_arguments("fp32", arguments)
    return Fp32()


def build_bf16(arguments: list[str]) -> DenseCodec:
    return Bf16(rounding("bf16", arguments))


def build_fp16(arguments: list[str]) -> DenseCodec:
    return Fp16(rounding("fp16", arguments))


def read_fp32(parameter: int) -> DenseCodec:
    return _expected(Fp32(), parameter)


def read_bf16(parameter: int) -> DenseCodec:
    return _expected(Bf16(), parameter)


def read_fp16(parameter: int) -> DenseCodec:
    return _expected(Fp16(), parameter)


def _expected(codec: DenseCodec, parameter: int) -> DenseCodec:
    if parameter != codec.parameter:
        raise FrameError(f"{codec.spec} frame has the parameter {parameter} instead of {codec.parameter}")
    return codec


def _num_blocks(count: int) -> int:
    return -(-count // BLOCK)


def _words(section: Bytes, count: int) -> NDArray[np.uint16]:
    return section[: 2 * count].view(np.uint16)


def _halves(section: Bytes, count: int) -> tuple[NDArray[np.uint16], NDArray[np.int8], Bytes]:
    end = 2 * count + _num_blocks(count)
    return _words(section, count), section[2 * count : end].view(np.int8), section[end:]
