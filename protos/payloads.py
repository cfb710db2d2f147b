"""Messages around one large `payload`, without the copies that generated code makes.

The bytes are protobuf's wire format (https://protobuf.dev/programming-guides/encoding), so every generated client and
server understands them; only the payload is never copied into, or out of, a message object. Fields may come in any order:
we write the payload last, and read it wherever it stands.
"""

from collections.abc import Mapping

LENGTH_DELIMITED = 2
ALIGNMENT = 4
PADDING_FIELD = 15
"""Of every inner message with a payload."""
MOST_FIELDS = 1 << 12
"""Of an inner message that are looked at for its payload. Ours have seven; where lists are not packed, two for each block."""


def join_payload(field: int, head: bytes, payload_field: int, payload: memoryview) -> bytes:
    """A serialised message whose only field is `field`: an inner message of `head` and the payload.

    `head` is the inner message serialised without its payload; `payload_field` is the payload's number in it. The payload
    is copied once, to a position that is a multiple of `ALIGNMENT`: readers may use it where it lies. A padding field in
    front of it makes up what is missing.
    """
    return b"".join((_front(field, head, payload_field, payload.nbytes), payload))


def joined_bytes(field: int, head: bytes, payload_field: int, num_payload_bytes: int) -> int:
    """Length of what `join_payload` would make of a payload of this size."""
    return len(_front(field, head, payload_field, num_payload_bytes)) + num_payload_bytes


def _front(field: int, head: bytes, payload_field: int, num_payload_bytes: int) -> bytes:
    """Everything in front of the payload: of a length that is a multiple of `ALIGNMENT`."""
    payload_head = _tag(payload_field) + _varint(num_payload_bytes)
    for padding in _PADDINGS:
        size = len(head) + len(padding) + len(payload_head) + num_payload_bytes
        front = b"".join((_tag(field), _varint(size), head, padding, payload_head))
        if len(front) % ALIGNMENT == 0:
            return front
    raise AssertionError("one of the paddings fits")


def split_payload(data: bytes, payload_fields: Mapping[int, int]) -> tuple[bytes, memoryview]:
    """Takes the payload out of a serialised message.

    `payload_fields` names, for each field of the message that holds an inner message with a payload, the payload's number
    in it. Returns the message without its payload, to be parsed by generated code, and the payload as a view of `data`:
    empty if there is none. Bytes of any other shape come back as they are, for generated code to judge.
    """
    view = memoryview(data)
    try:
        field, start, end = _delimited(view, 0)
        if field not in payload_fields or end != len(view):
            return data, view[:0]
        position = start
        for _ in range(MOST_FIELDS):
            number, value, after = _field(view, position)
            if number == payload_fields[field]:
                head = b"".join((view[start:position], view[after:end]))
                return b"".join((_tag(field), _varint(len(head)), head)), view[value:after]
            position = after
    except (IndexError, ValueError):
        pass
    return data, view[:0]


def _delimited(view: memoryview, position: int) -> tuple[int, int, int]:
    """Number, first and last position of the length-delimited field that begins here."""
    tag, position = _read_varint(view, position)
    length, position = _read_varint(view, position)
    if tag & 7 != LENGTH_DELIMITED or position + length > len(view):
        raise ValueError
    return tag >> 3, position, position + length


def _field(view: memoryview, position: int) -> tuple[int, int, int]:
    """Number, position of the value, and position behind the field that begins here; any wire type."""
    tag, after_tag = _read_varint(view, position)
    match tag & 7:
        case 2:
            return _delimited(view, position)
        case 0:
            return 0, after_tag, _read_varint(view, after_tag)[1]
        case 1:
            return 0, after_tag, after_tag + 8
        case 5:
            return 0, after_tag, after_tag + 4
        case _:
            raise ValueError


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError


def _tag(field: int) -> bytes:
    return _varint(field << 3 | LENGTH_DELIMITED)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_PADDINGS = (b"", *(_tag(PADDING_FIELD) + _varint(size) + bytes(size) for size in range(2 * ALIGNMENT)))
"""Nothing, or a padding field of more and more bytes: their sizes leave every remainder, also where `size` grows a byte."""
