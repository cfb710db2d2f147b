"""How much a serialised message would become, told without making it.

Two bytes on the wire can be an empty message, an entry of a map or a text of a list, and each takes forty to eighty bytes once
it is parsed; a number of one byte in a list takes eight. So a message of 16 MiB becomes hundreds. Whoever takes messages from
strangers asks here first. The format: https://protobuf.dev/programming-guides/encoding
"""

from functools import cache

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from ..compression.warm_up import one_at_a_time
from ..compression.wire_kernels import LIST, MALFORMED, NOTHING, PART, Numbers, count_parts

LEAST_PART_BYTES = 2
"""Tag and length."""
NUMBERS_OF_A_PART = 8
"""Numbers of a list that take as much memory as a small message."""
_FIXED_SIZE = frozenset(
    {
        *(FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_FIXED64),
        *(FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_SFIXED64, FieldDescriptor.TYPE_SFIXED32),
    }
)
_BYTES = frozenset({FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES})


def has_more_parts_than(most: int, data: bytes, kind: Descriptor) -> bool:
    """Whether `data`, a message of this kind, becomes more than so many parts (messages, entries of maps, texts of lists), or
    more than eight times as many numbers of lists. Looks only at what is large enough for that, and holds nobody up meanwhile.

    Raises:
        ValueError: the bytes are no message; or they hold a group, which nothing of ours does.
    """
    if len(data) <= most * LEAST_PART_BYTES:
        return False
    found = count_parts(np.frombuffer(data, np.uint8), _fields(kind), NUMBERS_OF_A_PART, most)
    if found == MALFORMED:
        raise ValueError("its fields do not fit into one another")
    return bool(found > most)


def warm_up() -> None:
    """Compiles the kernel, or loads it from the disk cache."""
    with one_at_a_time():
        count_parts(np.frombuffer(b"", np.uint8), np.zeros((1, 1), np.int64), NUMBERS_OF_A_PART, 0)


@cache
def _fields(kind: Descriptor) -> Numbers:
    """See `count_parts`."""
    kinds = [kind]
    for each in kinds:
        inner = [field.message_type for field in each.fields if field.message_type is not None]
        kinds += [each for each in dict.fromkeys(inner) if each not in kinds]
    most_number = max((field.number for each in kinds for field in each.fields), default=0)
    fields = np.full((len(kinds), most_number + 1), NOTHING, np.int64)
    for row, each in enumerate(kinds):
        for field in each.fields:
            fields[row, field.number] = (
                _what_is(field) if field.message_type is None else kinds.index(field.message_type)
            )
    return fields


def _what_is(field: FieldDescriptor) -> int:
    if not field.is_repeated or field.type in _FIXED_SIZE:
        return NOTHING
    return PART if field.type in _BYTES else LIST
