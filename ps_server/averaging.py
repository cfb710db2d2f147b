"""The mean of what several workers hold of a block. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..compression.frame import Frame

Floats = NDArray[np.float32]


def mean_into(out: Floats, frames: Sequence[Frame]) -> None:
    """Writes the mean of these frames, at least one, into `out`, float32 [n]; each counts the same.

    Summed in float64 in their order. What is the same in all of them keeps its bits: an infinity of a mask, say. Elsewhere
    the mean of anything with an infinity or a NaN is what arithmetic says.
    """
    first, other = np.empty_like(out), np.empty_like(out)
    frames[0].decode_into(first)
    alike = np.ones(out.shape, np.bool_)
    with np.errstate(invalid="ignore"):
        total = first.astype(np.float64)
        for frame in frames[1:]:
            frame.decode_into(other)
            alike &= other.view(np.uint32) == first.view(np.uint32)
            total += other
        out[:] = total / len(frames)
    out.view(np.uint32)[alike] = first.view(np.uint32)[alike]
