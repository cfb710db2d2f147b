"""Dense frames: one value section."""

import numpy as np

from ...protos.errors import FrameError
from ..codec import Bytes, DenseCodec, Floats, Positions
from ..header import Header


class DenseBody:
    """A checked value section."""

    __slots__ = ("_num_elements", "_section", "_values")

    def __init__(self, values: DenseCodec, section: Bytes, num_elements: int) -> None:
        self._num_elements = num_elements
        self._values = values
        self._section = section

    def decode_into(self, out: Floats, scale: np.float32) -> None:
        self._values.decode_section(self._section, out, scale)

    def add_to(self, accumulator: Floats, scale: np.float32) -> None:
        self._values.add_section(self._section, accumulator, scale)

    def sent_positions(self) -> Positions:
        return np.arange(self._num_elements, dtype=np.uint32)


def read_dense(header: Header, values: DenseCodec, section: Bytes) -> DenseBody:
    """Check what stands behind the header of a dense frame; raises FrameError or NonFiniteError."""
    if header.num_sent != header.num_elements or header.index or header.seed:
        raise FrameError("dense frame with a count of sent elements, an index or a seed")
    expected = values.section_bytes(header.num_elements)
    if section.size != expected:
        raise FrameError(
            f"{values.spec} frame of {header.num_elements} elements has {section.size} bytes, not {expected}"
        )
    values.check_section(section, header.num_elements)
    return DenseBody(values, section, header.num_elements)
