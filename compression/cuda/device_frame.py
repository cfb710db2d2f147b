"""Frames decoded on a device: checked on the host, where they come from, then uploaded as they are."""

import numpy as np
import torch
from torch import Tensor

from ..codec import Bytes, frozen
from ..entropy import expanded
from ..frame import parse_frame
from ..header import COMPRESSED_FLAG, DENSE, HEADER_BYTES, read_header
from ..spec import VALUE_READERS
from .device_codec import check_values, sections_for
from .device_sections import SectionsOf
from .device_selection import positions_on_device


class DeviceFrame:
    """A valid frame whose sections lie on a device."""

    def __init__(
        self, frame: bytes | memoryview, num_elements: int, device: torch.device, sections_of: SectionsOf
    ) -> None:
        """Checks the frame as `parse_frame` does: raises FrameError or NonFiniteError."""
        parse_frame(frame, num_elements)
        view = memoryview(frame).cast("B").toreadonly()
        header = read_header(view, num_elements)
        values = VALUE_READERS[header.values](header.parameter)
        stored = np.frombuffer(view, np.uint8)[HEADER_BYTES:]
        if header.flags & COMPRESSED_FLAG:
            stored = expanded(header, values, frozen(stored.copy()))
        sections = _uploaded(stored, device)
        start = 0
        self.num_elements = num_elements
        self._positions: Tensor | None = None
        if header.selection != DENSE:
            self._positions, start = positions_on_device(header, sections)
        self._num_sent = header.num_sent
        self._section = sections[start:]
        self._values = sections_of(values)

    def decode_into(self, out: Tensor, scale: float = 1.0) -> None:
        """out = fl(float32(scale) * D); `out` is float32 [num_elements], contiguous, on the device."""
        check_values("out", out, self.num_elements, self._section.device)
        if self._positions is None:
            self._values.decode(self._section, out, float(np.float32(scale)), False)
        else:
            out.zero_()
            out[self._positions] = self._kept(scale)

    def add_to(self, accumulator: Tensor, scale: float = 1.0) -> None:
        """accumulator = fl(accumulator + fl(float32(scale) * D)), float32 [num_elements], as `decode_into`."""
        check_values("accumulator", accumulator, self.num_elements, self._section.device)
        if self._positions is None:
            self._values.decode(self._section, accumulator, float(np.float32(scale)), True)
        else:
            accumulator[self._positions] += self._kept(scale)

    def _kept(self, scale: float) -> Tensor:
        kept = torch.empty(self._num_sent, device=self._section.device)
        self._values.decode(self._section, kept, float(np.float32(scale)), False)
        return kept


def _uploaded(stored: Bytes, device: torch.device) -> Tensor:
    """A copy on the device, on its own so that kernels find it aligned."""
    sections = torch.empty(stored.size, dtype=torch.uint8)
    sections.numpy()[:] = stored
    return sections.to(device)


def parse_on_device(frame: bytes | memoryview, num_elements: int, device: torch.device) -> DeviceFrame:
    """Check a frame in host memory, and upload it. Raises FrameError or NonFiniteError."""
    return DeviceFrame(frame, num_elements, device, sections_for(device))
