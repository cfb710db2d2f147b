"""Words that are not numbers to compute with: buffers and other tensors that nobody optimises, bit for bit.

Their frames are fp32 frames, but a word may be anything: an infinity, a NaN with its payload, a piece of an integer.
"""

from dataclasses import dataclass

import numpy as np

from .codec import Bytes, Floats, Memo, Residual
from .values.cast import Fp32


@dataclass(frozen=True, slots=True)
class AnyBits(Fp32):
    """32-bit words as they are. Not in the table of codecs: a gradient has to be finite."""

    def encode_section(
        self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None = None
    ) -> bool:
        section.view(np.uint32)[:] = values.view(np.uint32)
        return True

    def check_section(self, section: Bytes, count: int) -> None:
        """There is nothing to find wrong."""

    def decode_section(self, section: Bytes, out: Floats, scale: np.float32) -> None:
        out.view(np.uint32)[:] = section.view(np.uint32)


ANY_BITS = AnyBits()
