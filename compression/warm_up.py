"""Compiling ahead of the first step."""

import numpy as np

from .codec import Codec, Floats
from .frame import parse_frame

_SMALL, _LARGE = 32, 8192
"""Elements: a block whose sparse frame has a bitmap, and one that is sampled and has packed gaps."""


def warm_up(codec: Codec) -> None:
    """Compile, or load from the disk cache, every kernel of the codec and its frames. Takes seconds once."""
    for member in {codec, codec.dense()}:
        for num_elements in (_SMALL, _LARGE):
            _exercise(member, np.arange(num_elements, dtype=np.float32))


def _exercise(codec: Codec, values: Floats) -> None:
    out = np.empty(codec.frame_bound(values.size), np.uint8)
    codec.encode(values, out)
    num_bytes = codec.encode(values, out, residual=(np.zeros_like(values), np.empty_like(values)))
    frame = parse_frame(out[:num_bytes].tobytes(), values.size)
    total = np.empty_like(values)
    frame.decode_into(total)
    frame.add_to(total)
