"""How much a serialised message would become, told without making it.

Two bytes on the wire can be an empty message, an entry of a map or a text of a list, and each takes forty to eighty bytes once
it is parsed; a number of one byte in a list takes eight. So a message of 16 MiB becomes hundreds. Whoever takes messages from
strangers asks here first. The format: https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
MOST_VARINT_BYTES = 10
LEAST_PART_BYTES = 2
"""Tag and length."""
NUMBERS_OF_A_PART = 8
"""Numbers of a list that take as much memory as a small message."""
_FIXED_OR_SINGLE = frozenset(
    {
        *(FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_FIXED64),
        *(FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_SFIXED64, FieldDescriptor.TYPE_SFIXED32),
        *(FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP),
        *(FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES),
    }
)


def has_more_parts_than(most: int, data: bytes, kind: Descriptor) -> bool:
    """Whether `data`, a message of this kind, becomes more than so many parts: messages, entries of maps, texts of lists,
    and eight numbers of a list each.

    Takes time for large messages of many fields only, and stops as soon as it is known.

    Raises:
        ValueError: the bytes are no message; or they hold a group, which nothing of ours does.
    """
    if len(data) <= most * LEAST_PART_BYTES:
        return False
    num_parts = 0
    to_read = [(0, len(data), _shape(kind))]
    while to_read:
        position, end, shape = to_read.pop()
        while position < end:
            tag, position = _varint(data, position)
            wire_type = tag & 7
            if wire_type == DELIMITED:
                length, position = _varint(data, position)
                if tag >> 3 in shape.parts:
                    num_parts += 1
                    inner = shape.parts[tag >> 3]
                    if inner is not None and length > inner.harmless_bytes:
                        to_read.append((position, position + length, inner))
                elif tag >> 3 in shape.lists:
                    num_parts += length // NUMBERS_OF_A_PART
                if num_parts > most:
                    return True
                position += length
            elif wire_type == VARINT:
                _, position = _varint(data, position)
            elif wire_type in (FIXED64, FIXED32):
                position += 8 if wire_type == FIXED64 else 4
            else:
                raise ValueError(f"wire type {wire_type}")
        if position != end:
            raise ValueError("a field ends behind its message")
    return False


@dataclass(frozen=True)
class _Shape:
    """What of a kind of message takes memory, by field number."""

    parts: "Mapping[int, _Shape | None]"
    """Fields that become objects; with the shape of those that are messages."""
    lists: frozenset[int]
    """Of numbers that may be shorter on the wire than in memory."""

    @property
    def harmless_bytes(self) -> int:
        """Up to which such a message needs no look inside."""
        if self.parts:
            return 0
        return 8 * NUMBERS_OF_A_PART if self.lists else 1 << 62


@cache
def _shape(kind: Descriptor) -> _Shape:
    parts: dict[int, _Shape | None] = {}
    lists = set()
    for field in kind.fields:
        if field.message_type is not None:
            parts[field.number] = _shape(field.message_type)
        elif field.is_repeated and field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            parts[field.number] = None
        elif field.is_repeated and field.type not in _FIXED_OR_SINGLE:
            lists.add(field.number)
    return _Shape(parts, frozenset(lists))


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    for byte in data[position : position + MOST_VARINT_BYTES]:
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number without an end")
