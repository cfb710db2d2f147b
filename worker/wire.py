"""Messages of frames, serialised once: the same bytes are sent again when a connection is lost."""

from collections.abc import Sequence

from ..protos.shard_pb2 import Frames, InitialValues, WorkerMessage

LENGTH_DELIMITED = 2


def frames_message(
    step: int, attempt: int, blocks: Sequence[int], lengths: Sequence[int], payload: memoryview
) -> bytes:
    """A serialised `WorkerMessage` with `Frames`; the payload is copied once."""
    head = Frames(step=step, attempt=attempt, blocks=blocks, lengths=lengths)
    return _enclosed(WorkerMessage.FRAMES_FIELD_NUMBER, head.SerializeToString(), Frames.PAYLOAD_FIELD_NUMBER, payload)


def initial_values_message(grant: int, blocks: Sequence[int], lengths: Sequence[int], payload: memoryview) -> bytes:
    """A serialised `WorkerMessage` with `InitialValues`; the payload is copied once."""
    head = InitialValues(grant=grant, blocks=blocks, lengths=lengths)
    return _enclosed(
        WorkerMessage.INITIAL_VALUES_FIELD_NUMBER,
        head.SerializeToString(),
        InitialValues.PAYLOAD_FIELD_NUMBER,
        payload,
    )


def _enclosed(field: int, head: bytes, payload_field: int, payload: memoryview) -> bytes:
    """Protobuf's wire format: fields may come in any order, so the payload goes behind the rest of its message."""
    payload_head = _tag(payload_field) + _varint(payload.nbytes)
    size = len(head) + len(payload_head) + payload.nbytes
    return b"".join((_tag(field), _varint(size), head, payload_head, payload))


def _tag(field: int) -> bytes:
    return _varint(field << 3 | LENGTH_DELIMITED)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
