"""int8: one byte an element and one float32 scale for each block of 256."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..protos.errors import FrameError, NonFiniteError
from . import int8_kernels as kernels
from .cast import check_padding, num_blocks
from .codec import Bytes, Contract, DenseCodec, Floats, Residual, padded
from .kernels import BLOCK, BLOCK_LOG2, FINITE, NOT_FINITE

_LEVELS = 127


@dataclass(frozen=True, slots=True)
class Int8(DenseCodec):
    """code = value / scale rounded to -127..127 with scale = (largest magnitude of the block) / 127; D = code
    * scale.

    Rounds to the nearest level, ties to even, or, if `stochastic`, up with the probability that makes the
    mean exact. Section: n codes, padded with zeros to four bytes, then the scales.
    """

    stochastic: bool = False

    @property
    def spec(self) -> str:
        return "int8:stochastic" if self.stochastic else "int8"

    @property
    def contract(self) -> Contract:
        steps = 1.0 if self.stochastic else 0.5  # largest rounding error, in levels
        slack = 1.0 + 2.0**-15  # the roundings of scale, quotient and product, which lie up to 127 levels from zero
        return Contract(
            unbiased=self.stochastic,
            deterministic=not self.stochastic,
            relative_error=slack * steps / _LEVELS,
            squared_error=BLOCK * (slack * steps / _LEVELS) ** 2,
            absolute_error=2.0**-142,
        )

    @property
    def value_id(self) -> int:
        return 3

    @property
    def block_log2(self) -> int:
        return BLOCK_LOG2

    def section_bytes(self, count: int) -> int:
        return padded(count) + 4 * num_blocks(count)

    def encode_section(self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None) -> bool:
        codes, scales, padding = _parts(section, values.size)
        padding[:] = 0
        match self.stochastic, residual:
            case False, None:
                return kernels.encode_int8(values, codes, scales)
            case True, None:
                return kernels.encode_stochastic(values, codes, scales, seed)
            case False, (committed, pending):
                return kernels.encode_int8_residual(values, committed, pending, codes, scales)
            case _, (committed, pending):
                return kernels.encode_stochastic_residual(values, committed, pending, codes, scales, seed)
        raise AssertionError(residual)

    def check_section(self, section: Bytes, count: int) -> None:
        codes, scales, padding = _parts(section, count)
        check_padding(padding)
        finding = kernels.check_int8(codes, scales)
        if finding == NOT_FINITE:
            raise NonFiniteError("an int8 frame has a scale that is not finite")
        if finding != FINITE:
            raise FrameError("an int8 frame has a code or a scale out of range")

    def decode_section(self, section: Bytes, out: Floats, scale: np.float32) -> None:
        codes, scales, _ = _parts(section, out.size)
        kernels.decode_int8(codes, scales, out, scale)

    def add_section(self, section: Bytes, accumulator: Floats, scale: np.float32) -> None:
        codes, scales, _ = _parts(section, accumulator.size)
        kernels.add_int8(codes, scales, accumulator, scale)


def _parts(section: Bytes, count: int) -> tuple[NDArray[np.int8], Floats, Bytes]:
    end = padded(count)
    return section[:count].view(np.int8), section[end:].view(np.float32), section[count:end]
