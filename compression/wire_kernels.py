"""Kernels over bytes that came from the network, in the format of protobuf messages."""

import numpy as np
from numpy.typing import NDArray

from .kernels import kernel

NOTHING, PART, LIST = -1, -2, -3
"""What a field may be, in place of the shape of a message."""
MALFORMED = -1
DEEPEST = 100
"""Messages inside one another: as many as protobuf itself reads."""
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_MOST_VARINT_BITS = 63

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]


@kernel
def count_parts(data: Bytes, fields: Numbers, numbers_of_a_part: int, most: int) -> np.int64:
    """How many parts a message of shape 0 becomes, or how many its numbers would make if those are more; at least `most` + 1
    if it is more than `most`, and `MALFORMED` if it is none.

    `fields` is int64 [shapes, numbers]: what the field of this number is in a message of this shape: `NOTHING` that counts, a
    `PART` without parts of its own, a `LIST` of numbers, of which `numbers_of_a_part` make one, or a message of the shape that
    stands there. Numbers may come in as many pieces as there are, also one by one.
    """
    ends, shapes = np.empty(DEEPEST, np.int64), np.empty(DEEPEST, np.int64)
    depth, position = 0, np.int64(0)
    num_parts, num_numbers = np.int64(0), np.int64(0)
    ends[0], shapes[0] = data.size, 0
    while depth >= 0:
        if position >= ends[depth]:
            if position > ends[depth]:
                return np.int64(MALFORMED)
            depth -= 1
            continue
        tag, position = _varint(data, position)
        if position < 0:
            return np.int64(MALFORMED)
        wire_type, number = tag & 7, tag >> 3
        kind = fields[shapes[depth], number] if number < fields.shape[1] else NOTHING
        if wire_type == _VARINT:
            _, position = _varint(data, position)
            if position < 0:
                return np.int64(MALFORMED)
            if kind == LIST:
                num_numbers += 1
        elif wire_type == _FIXED64:
            position += 8
        elif wire_type == _FIXED32:
            position += 4
        elif wire_type == _DELIMITED:
            length, position = _varint(data, position)
            if position < 0 or length > ends[depth] - position:
                return np.int64(MALFORMED)
            if kind == LIST:
                for place in range(position, position + length):
                    num_numbers += data[place] < 0x80  # the last byte of each
            elif kind != NOTHING:
                num_parts += 1
            if kind >= 0 and length > 0:
                depth += 1
                if depth == DEEPEST:
                    return np.int64(MALFORMED)
                ends[depth], shapes[depth] = position + length, kind
            else:
                position += length
        else:
            return np.int64(MALFORMED)  # a group: nothing of ours has one
        if max(num_parts, num_numbers // numbers_of_a_part) > most:
            break
    return np.int64(max(num_parts, num_numbers // numbers_of_a_part))


@kernel
def _varint(data: Bytes, position: np.int64) -> tuple[np.int64, np.int64]:
    """The number that begins here, and the position behind it, which is negative if there is none. 64th bits are dropped."""
    value, shift = np.int64(0), np.int64(0)
    while position < data.size and shift <= _MOST_VARINT_BITS:
        byte = np.int64(data[position])
        position += 1
        if shift < _MOST_VARINT_BITS:
            value |= (byte & np.int64(0x7F)) << shift
        if byte < 0x80:
            return value, np.int64(position)
        shift += 7
    return np.int64(0), np.int64(-1)
