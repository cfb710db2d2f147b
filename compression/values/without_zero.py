"""Values that have no code for zero, and what they do with elements that are zero."""

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch

from .. import kernels
from ..codec import Bytes, DenseCodec, Floats, Memo, Residual, frozen, non_finite
from ..header import HEADER_BYTES
from ..kernels import FINITE
from ..selections.indices import bitmap_bytes
from ..selections.nonzero import NonZero

HAS_ZERO = 3
"""A finding of encoders: a value is zero, so this section cannot hold them all."""


class WithoutZero(DenseCodec):
    """Its decoded values are never zero, unless by underflow. An element without a gradient must not move, so a frame of
    values of which some are zero names the others, and holds the values of those only (selections/nonzero.py).

    Encoding is tried first as if there were no zero, and goes back to the start when it meets one.
    """

    @property
    def says_zero(self) -> bool:
        return False

    @abstractmethod
    def write_section(
        self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None
    ) -> int:
        """Encode values (+ committed): FINITE, NOT_FINITE, or HAS_ZERO, with a section that means nothing."""

    def encode_section(
        self, values: Floats, section: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None = None
    ) -> bool:
        """`values` (+ committed) without any zero."""
        return self.write_section(values, section, seed, residual, memo) == FINITE

    def frame_bound(self, num_elements: int) -> int:
        return HEADER_BYTES + self.section_bytes(num_elements) + bitmap_bytes(num_elements)

    def frame_least(self, num_elements: int) -> int:
        return HEADER_BYTES

    def _encode(self, values: Floats, out: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None) -> int:
        num_bytes = HEADER_BYTES + self.section_bytes(values.size)
        finding = self.write_section(values, out[HEADER_BYTES:num_bytes], seed, residual, memo)
        if finding == HAS_ZERO:
            return NonZero(self)._encode(values, out, seed, residual, memo)
        if finding != FINITE:
            raise non_finite(values, residual)
        self._header(values.size).write(out)
        return num_bytes

    def reference_frame(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        if (values == 0).any():
            return NonZero(self).reference_frame(values, seed)
        return DenseCodec.reference_frame(self, values, seed)

    def write_then_leave(
        self, values: Floats, section: Bytes, residual: Residual | None, write: Callable[[Floats], int]
    ) -> int:
        """The finding of `write`, whose kernels do not know a residual: see `codec.encode_then_leave`."""
        if residual is None:
            return write(values)
        committed, pending = residual
        kernels.add(values, committed, pending)
        finding = write(frozen(pending))
        if finding == FINITE:
            self.add_section(frozen(section), pending, np.float32(-1))
        return finding
