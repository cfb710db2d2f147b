"""What one frame costs and what it loses, without error feedback."""

import math
from dataclasses import dataclass

import numpy as np

from ..compression.codec import Codec
from ..compression.frame import parse_frame
from ..compression.header import read_header
from .codec_data import Floats


@dataclass(frozen=True, slots=True)
class Cost:
    """Of sending some blocks once."""

    bits_per_element: float
    """Header, scales and indices included."""
    share_kept: float
    """Elements that were sent, over all elements."""
    relative_error: float
    """||D - x|| / ||x|| over all elements."""

    @property
    def bits_per_kept_element(self) -> float | None:
        """None for frames that hold every element, or none."""
        return self.bits_per_element / self.share_kept if 0.0 < self.share_kept < 1.0 else None


def cost_of(codec: Codec, blocks: list[Floats]) -> Cost:
    """Encode and decode each block once, with its number as the seed. `blocks` are float32 [n], n >= 1."""
    num_bytes = num_kept = 0
    lost = energy = 0.0
    for seed, values in enumerate(blocks):
        out = np.empty(codec.frame_bound(values.size), np.uint8)
        frame = out.data[: codec.encode(values, out, seed=seed)]
        decoded = np.empty_like(values)
        parse_frame(frame, values.size).decode_into(decoded)
        num_bytes += len(frame)
        num_kept += read_header(frame, values.size).num_sent
        lost += _energy(decoded.astype(np.float64) - values)
        energy += _energy(values.astype(np.float64))
    num_elements = sum(values.size for values in blocks)
    return Cost(8 * num_bytes / num_elements, num_kept / num_elements, math.sqrt(lost / energy))


def _energy(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(np.square(values).sum())
