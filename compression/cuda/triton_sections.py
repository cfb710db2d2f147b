"""Launching the device kernels: value sections on a device, by the number of the value format in a header.

Importing this module imports Triton.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..codec import DenseCodec, padded
from ..values.cast import Bf16, Fp16, Fp32
from ..values.integers import Integers
from ..values.packing import packed_bytes
from ..values.sign import Sign
from .cast_kernels import BF16, BLOCK, FP16, FP32, decode_casts, encode_casts
from .device_sections import ReferenceSections, Residual, Sections
from .integer_kernels import decode_integers, encode_integers
from .language import EXACT
from .sign_kernels import decode_signs, encode_signs

_TILE = 2048
"""Elements of a program, unless a quantiser block has more."""
_ELEMENTS_OF_THREAD = 16
_WARP = 32


class TritonSections(ABC):
    """Sections of at least one value, by kernels; there is nothing to launch for none. Triton launches on the current
    device, so that of the values is made current."""

    def encode(self, values: Tensor, section: Tensor, seed: int, residual: Residual | None, finding: Tensor) -> None:
        if values.numel():
            with torch.cuda.device_of(values):  # type: ignore[no-untyped-call]
                self._encode(values, section, _signed(seed), residual, finding)

    def decode(self, section: Tensor, out: Tensor, scale: float, add: bool) -> None:
        if out.numel():
            with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
                self._decode(section, out, scale, add)

    @abstractmethod
    def _encode(self, values: Tensor, section: Tensor, seed: int, residual: Residual | None, finding: Tensor) -> None:
        """`encode` of values; the seed as an int32."""

    @abstractmethod
    def _decode(self, section: Tensor, out: Tensor, scale: float, add: bool) -> None:
        """`decode` to values."""


class IntegerSections(TritonSections):
    """int8, int4 and int2."""

    def __init__(self, codec: Integers) -> None:
        self._codec = codec
        self._constants = {"BITS": codec.bits, **_tiling(codec.block)}

    def _encode(self, values: Tensor, section: Tensor, seed: int, residual: Residual | None, finding: Tensor) -> None:
        packed, scales = _packed_and_scales(section, values.numel(), self._codec.block, self._codec.bits)
        _clear_padding(section, packed.numel())
        encode_integers[_grid(values.numel(), self._codec.block)](
            *_sources(values, residual), packed, scales, finding, values.numel(), seed,
            STOCHASTIC=self._codec.stochastic, RESIDUAL=residual is not None, **self._constants,
        )  # fmt: skip

    def _decode(self, section: Tensor, out: Tensor, scale: float, add: bool) -> None:
        packed, scales = _packed_and_scales(section, out.numel(), self._codec.block, self._codec.bits)
        decode_integers[_grid(out.numel(), self._codec.block)](
            packed, scales, out, out.numel(), scale, ADD=add, **self._constants
        )


class SignSections(TritonSections):
    """sign."""

    def __init__(self, codec: Sign) -> None:
        self._codec = codec
        self._constants = _tiling(codec.block)

    def _encode(self, values: Tensor, section: Tensor, seed: int, residual: Residual | None, finding: Tensor) -> None:
        packed, scales = _packed_and_scales(section, values.numel(), self._codec.block, 1)
        _clear_padding(section, packed.numel())
        encode_signs[_grid(values.numel(), self._codec.block)](
            *_sources(values, residual), packed, scales, finding, values.numel(), seed,
            STOCHASTIC=self._codec.stochastic, RESIDUAL=residual is not None, **self._constants,
        )  # fmt: skip

    def _decode(self, section: Tensor, out: Tensor, scale: float, add: bool) -> None:
        packed, scales = _packed_and_scales(section, out.numel(), self._codec.block, 1)
        decode_signs[_grid(out.numel(), self._codec.block)](
            packed, scales, out, out.numel(), scale, ADD=add, **self._constants
        )


class CastSections(TritonSections):
    """fp32, fp16 and bf16."""

    def __init__(self, kind: int, stochastic: bool) -> None:
        self._kind = kind
        self._stochastic = stochastic
        self._constants = {"FORMAT": kind, **_tiling(BLOCK)}
        del self._constants["BLOCK"]

    def _encode(self, values: Tensor, section: Tensor, seed: int, residual: Residual | None, finding: Tensor) -> None:
        codes, exponents, used = self._parts(section, values.numel())
        _clear_padding(section, used)
        encode_casts[_cast_grid(values.numel())](
            *_sources(values, residual), codes, exponents, finding, values.numel(), seed,
            STOCHASTIC=self._stochastic, RESIDUAL=residual is not None, **self._constants,
        )  # fmt: skip

    def _decode(self, section: Tensor, out: Tensor, scale: float, add: bool) -> None:
        codes, exponents, _ = self._parts(section, out.numel())
        decode_casts[_cast_grid(out.numel())](codes, exponents, out, out.numel(), scale, ADD=add, **self._constants)

    def _parts(self, section: Tensor, count: int) -> tuple[Tensor, Tensor, int]:
        """The codes, the exponents (any tensor where there are none), and the bytes before the padding."""
        if self._kind == FP32:
            return section.view(torch.float32), section, 4 * count
        codes = section[: 2 * count].view(torch.int16)
        if self._kind == BF16:
            return codes, section, 2 * count
        used = 2 * count + -(-count // BLOCK)
        return codes, section[2 * count : used].view(torch.int8), used


def _of_integers(codec: DenseCodec) -> Sections | None:
    return IntegerSections(codec) if isinstance(codec, Integers) else None


def _of_sign(codec: DenseCodec) -> Sections | None:
    return SignSections(codec) if isinstance(codec, Sign) else None


def _of_cast(codec: DenseCodec) -> Sections | None:
    match codec:
        case Fp32():
            return CastSections(FP32, False)
        case Fp16(stochastic):
            return CastSections(FP16, stochastic)
        case Bf16(stochastic):
            return CastSections(BF16, stochastic)
    return None


Factory = Callable[[DenseCodec], Sections | None]

SECTIONS: Mapping[int, Factory] = {
    0: _of_cast,
    1: _of_cast,
    2: _of_cast,
    3: _of_integers,
    4: _of_integers,
    5: _of_integers,
    6: _of_sign,
}
"""Device kernels by the number of the value format. A format without a row works through its reference."""


def triton_sections(codec: DenseCodec) -> Sections:
    """The device kernels of a value codec, or its reference if it has none."""
    factory = SECTIONS.get(codec.value_id)
    return (factory(codec) if factory is not None else None) or ReferenceSections(codec)


def _packed_and_scales(section: Tensor, count: int, block: int, bits: int) -> tuple[Tensor, Tensor]:
    """Packed codes uint8 and scales float32."""
    used = packed_bytes(count, block, bits)
    return section[:used], section[padded(used) :].view(torch.float32)


def _clear_padding(section: Tensor, used: int) -> None:
    if used < padded(used):
        section[used : padded(used)] = 0


def _sources(values: Tensor, residual: Residual | None) -> tuple[Tensor, Tensor, Tensor]:
    committed, pending = residual if residual is not None else (values, values)
    return values, committed, pending


def _signed(word: int) -> int:
    """The same 32 bits as an int32: a kernel argument that would need more is a reason to compile again."""
    return word - (1 << 32) if word >> 31 else word


def _tiling(block: int) -> dict[str, Any]:
    rows = max(1, _TILE // block)
    num_warps = min(32, max(4, rows * block // (_ELEMENTS_OF_THREAD * _WARP)))
    return {"BLOCK": block, "ROWS": rows, "num_warps": num_warps, **EXACT}


def _grid(count: int, block: int) -> tuple[int]:
    rows = max(1, _TILE // block)
    whole, tail = divmod(count, block)
    return (-(-whole // rows) + bool(tail),)


def _cast_grid(count: int) -> tuple[int]:
    return (-(-count // _TILE),)
