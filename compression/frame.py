"""Reading frames: everything is checked first, then decoded without further checks."""

import numpy as np

from ..protos.errors import FrameError
from .any_bits import ANY_BITS
from .codec import Body, Floats, Positions, check_floats, frozen
from .entropy import expanded
from .header import COMPRESSED_FLAG, HEADER_BYTES, read_header
from .spec import SELECTION_READERS, VALUE_READERS
from .values.cast import Fp32


class Frame:
    """A valid frame: a view of the bytes it was parsed from, which it keeps alive."""

    __slots__ = ("_body", "num_bytes", "num_elements")

    def __init__(self, num_elements: int, num_bytes: int, body: Body) -> None:
        self.num_elements = num_elements
        self.num_bytes = num_bytes
        self._body = body

    def decode_into(self, out: Floats, scale: float = 1.0) -> None:
        """out = fl(float32(scale) * D); `out` is float32 [num_elements]."""
        check_floats("out", out, self.num_elements, written=True)
        self._body.decode_into(out, np.float32(scale))

    def sent_positions(self) -> Positions:
        """Where the elements are that were sent, uint32 [num_sent], ascending or in the order of the frame."""
        return self._body.sent_positions()

    def add_to(self, accumulator: Floats, scale: float = 1.0) -> None:
        """accumulator = fl(accumulator + fl(float32(scale) * D)), in time proportional to the elements sent.

        `accumulator` is float32 [num_elements]. The product is rounded before it is added, so the result of a
        sequence of frames depends on their order but not on the machine.
        """
        check_floats("accumulator", accumulator, self.num_elements, written=True)
        self._body.add_to(accumulator, np.float32(scale))


def parse_frame(buffer: bytes | memoryview, num_elements: int, *, any_bits: bool = False) -> Frame:
    """Check a frame of a block of `num_elements` completely, and return it as a view of `buffer`.

    Raises FrameError for bytes that are not such a frame, NonFiniteError for one that holds a NaN or an
    infinity; with `any_bits` an fp32 frame may hold any words. Nothing is allocated but, if `buffer` is not
    aligned to four bytes, one copy of it and, if it is compressed, what it expands to, whose size is checked first.
    """
    view = memoryview(buffer).cast("B").toreadonly()
    header = read_header(view, num_elements)
    read_values = VALUE_READERS.get(header.values)
    if read_values is None:
        raise FrameError(f"frame has values of unknown format {header.values}")
    values = read_values(header.parameter)
    if any_bits and isinstance(values, Fp32):
        values = ANY_BITS
    read = SELECTION_READERS.get(header.selection)
    if read is None:
        raise FrameError(f"frame has an unknown selection {header.selection}")
    sections = np.frombuffer(view, np.uint8)[HEADER_BYTES:]
    if sections.ctypes.data % 4:
        sections = frozen(sections.copy())
    if header.flags & COMPRESSED_FLAG:
        sections = expanded(header, values, sections)
    return Frame(num_elements, len(view), read(header, values, sections))
