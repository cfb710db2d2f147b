"""The 24 bytes in front of every frame; a server needs nothing else to decode it.

    offset  type  field
         0   u16  magic 0x5050 ("PP")
         2   u8   version of the layout
         3   u8   flags: bit 0 = the checksum is set, bit 1 = the sections are compressed
         4   u8   selection: which elements were sent (0 = all)
         5   u8   values: how the sent elements are written
         6   u8   index: how a sparse selection names its elements (0 = not at all)
         7   u8   parameter of the values, e.g. log2 of the quantiser's block
         8   u32  n, elements of the block
        12   u32  k, elements sent
        16   u32  seed of a selection that the decoder draws again, else 0
        20   u32  CRC-32 of the whole frame with this field zero, else 0

Little-endian. Behind it come the index section and the value section. Their lengths follow from the header
and, for packed gaps, from the widths in the index section; each is a multiple of four bytes, so that frames
can be laid one behind the other and stay aligned. Compressed sections (entropy.py) stand behind their lengths.
"""

import struct
import zlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..protos.errors import FrameError

MAGIC = 0x5050
VERSION = 1
CHECKSUM_FLAG = 1
COMPRESSED_FLAG = 2
HEADER_BYTES = 24
MAX_ELEMENTS = 2**32 - 1
DENSE = 0
"""The selection of all elements."""

Bytes = NDArray[np.uint8]

_LAYOUT = struct.Struct("<HBBBBBBIIII")
_FLAGS_OFFSET = 3
_CHECKSUM_OFFSET = 20


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a frame's header, in order, without magic and version."""

    selection: int
    values: int
    index: int
    parameter: int
    num_elements: int
    num_sent: int
    seed: int = 0
    flags: int = 0
    checksum: int = 0

    def write(self, out: Bytes) -> None:
        """Write the header to the first 24 bytes of `out`."""
        _LAYOUT.pack_into(
            out.data, 0, MAGIC, VERSION, self.flags, self.selection, self.values, self.index, self.parameter,
            self.num_elements, self.num_sent, self.seed, self.checksum,
        )  # fmt: skip

    def tensor(self, device: torch.device) -> torch.Tensor:
        """The 24 bytes, uint8."""
        out = np.empty(HEADER_BYTES, np.uint8)
        self.write(out)
        return torch.from_numpy(out).to(device)


def read_header(buffer: memoryview, num_elements: int) -> Header:
    """The header of a frame for a block of `num_elements`; raises FrameError. Allocates nothing."""
    if len(buffer) < HEADER_BYTES:
        raise FrameError(f"frame of {len(buffer)} bytes is shorter than its header of {HEADER_BYTES}")
    magic, version, header = _unpack(buffer)
    if magic != MAGIC:
        raise FrameError(f"frame starts with {magic:#06x} instead of {MAGIC:#06x}")
    if version != VERSION:
        raise FrameError(f"frame of version {version}; this release reads version {VERSION}")
    if header.flags & ~(CHECKSUM_FLAG | COMPRESSED_FLAG):
        raise FrameError(f"frame has unknown flags {header.flags:#04x}")
    if header.num_elements != num_elements:
        raise FrameError(f"frame holds {header.num_elements} elements, its block {num_elements}")
    if header.num_sent > num_elements:
        raise FrameError(f"frame sends {header.num_sent} of {num_elements} elements")
    expected = _checksum(buffer) if header.flags & CHECKSUM_FLAG else 0
    if header.checksum != expected:
        raise FrameError(f"frame has checksum {expected:#010x}, its header says {header.checksum:#010x}")
    return header


def seal(frame: Bytes) -> None:
    """Add a checksum to a finished frame, in place: for disks, and for links without one of their own."""
    header = _unpack(frame.data)[2]
    header = replace(header, flags=header.flags | CHECKSUM_FLAG)
    replace(header, checksum=_checksum(frame.data)).write(frame)


def _unpack(buffer: memoryview) -> tuple[int, int, Header]:
    magic, version, flags, selection, values, index, parameter, n, k, seed, checksum = _LAYOUT.unpack_from(buffer)
    return magic, version, Header(selection, values, index, parameter, n, k, seed, flags, checksum)


def _checksum(buffer: memoryview) -> int:
    """CRC-32 of a frame as if it had a flag for a checksum, and zero for its value."""
    head = bytearray(buffer[:HEADER_BYTES])
    head[_FLAGS_OFFSET] |= CHECKSUM_FLAG
    head[_CHECKSUM_OFFSET:] = bytes(4)
    return zlib.crc32(buffer[HEADER_BYTES:], zlib.crc32(head))
