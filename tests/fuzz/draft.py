"""A frame while it is damaged, and how the damage draws its numbers."""

import struct
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from valid_frames import Pool, ValidFrame

Item = TypeVar("Item")

HEADER_BYTES = 24
CHECKSUM_FLAG, COMPRESSED_FLAG = 1, 2
BITMAP, GAPS = 1, 2
RUN = 128
FIELDS = {
    "magic": (0, "<H"),
    "version": (2, "<B"),
    "flags": (3, "<B"),
    "selection": (4, "<B"),
    "values": (5, "<B"),
    "index": (6, "<B"),
    "parameter": (7, "<B"),
    "num_elements": (8, "<I"),
    "num_sent": (12, "<I"),
    "seed": (16, "<I"),
    "checksum": (20, "<I"),
}
"""Offset and layout, as compression/header.py documents them: stated again here, so that a reader who shifts a
field is found out."""

NUMBERS = (0, 1, 2, 31, 32, 33, 127, 128, 129, 255, 256, 257, 5000, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
BYTES = (0x00, 0x01, 0x1F, 0x20, 0x21, 0x40, 0x7F, 0x80, 0x81, 0xFE, 0xFF)
HALVES = (0x0001, 0x7BFF, 0x7C00, 0x7C01, 0x7F80, 0x7FC0, 0x8000, 0xFC00, 0xFF80, 0xFFFF)
WORDS = (
    0x00000000, 0x00000001, 0x007FFFFF, 0x00800000, 0x3F800000, 0x7B800000, 0x7C000000, 0x7F000000, 0x7F7FFFFF,
    0x7F800000, 0x7F800001, 0x7FC00000, 0x80000000, 0x80000001, 0xBF800000, 0xFF7FFFFF, 0xFF800000, 0xFFFFFFFF,
)  # fmt: skip
"""Bits of float32 numbers at the edges: zeros, subnormals, the largest, infinities and NaNs of both signs."""


@dataclass(slots=True)
class Draft:
    """A frame and the number of elements that its reader expects; `source` is what it was made of."""

    source: ValidFrame
    contents: bytearray
    num_elements: int
    pool: Pool

    def field(self, name: str) -> int:
        """A field of the header; 0 if the frame is too short to have one."""
        offset, layout = FIELDS[name]
        if len(self.contents) < HEADER_BYTES:
            return 0
        return int(struct.unpack_from(layout, self.contents, offset)[0])

    def set_field(self, name: str, value: int) -> None:
        """Write a field of the header, cut to its width."""
        offset, layout = FIELDS[name]
        if len(self.contents) >= HEADER_BYTES:
            struct.pack_into(layout, self.contents, offset, value & (1 << 8 * struct.calcsize(layout)) - 1)

    def index_end(self) -> int:
        """About where the index section ends: behind its bitmap, its widths and first gaps, or its parameters."""
        num_bytes = 16
        if self.field("index") == BITMAP:
            num_bytes = 4 * -(-self.source.num_elements // 32)
        elif self.field("index") == GAPS:
            num_bytes = -(-self.field("num_sent") // RUN) + 64
        return min(len(self.contents), HEADER_BYTES + num_bytes)


def below(rng: Random, end: int) -> int:
    """Uniform in 0..end-1, or 0 where that is empty; several times as fast as `randrange`."""
    return int(rng.random() * end)


def between(rng: Random, start: int, end: int) -> int:
    """Uniform in start..end-1, or start where that is empty."""
    return start + below(rng, end - start)


def pick(rng: Random, items: tuple[Item, ...]) -> Item:
    """One of the items."""
    return items[below(rng, len(items))]


def another_number(rng: Random, number: int) -> int:
    """Another number that a careless reader may take for `number`: next to it, a multiple, at an edge, or any."""
    kind = below(rng, 6)
    if kind == 0:
        other = number + pick(rng, (-1, 1, -2, 2, -32, 32, -128, 128))
    elif kind == 1:
        other = pick(rng, (number * 2, number // 2, number * 4, number * 256, number ^ 1 << below(rng, 32)))
    elif kind == 2:
        other = below(rng, number)
    elif kind == 3:
        other = rng.getrandbits(1 + below(rng, 32))
    else:
        other = pick(rng, NUMBERS)
    return other if other >= 0 and other != number else number + 1


def damage_bytes(rng: Random, contents: bytearray, start: int, end: int) -> None:
    """Overwrite something in contents[start:end]: bits, bytes, or a half or whole word from the edges."""
    if end <= start:
        return
    place = between(rng, start, end)
    kind = below(rng, 5)
    if kind == 0:
        contents[place] ^= 1 << below(rng, 8)
    elif kind == 1:
        contents[place] = pick(rng, BYTES)
    elif kind == 2:
        size = min(end - place, 1 + below(rng, 8))
        contents[place : place + size] = rng.randbytes(size)
    elif kind == 3:
        overwrite(contents, place & ~1, struct.pack("<H", pick(rng, HALVES)))
    else:
        overwrite(contents, place & ~3, struct.pack("<I", pick(rng, WORDS)))


def overwrite(contents: bytearray, place: int, piece: bytes) -> None:
    """Put `piece` at `place` as far as it fits: the length stays."""
    contents[place : place + len(piece)] = piece[: max(0, len(contents) - place)]
