"""Messages of frames. Ours are serialised once: the same bytes are sent again when a connection is lost."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..protos.payloads import join_payload, split_payload
from ..protos.shard_pb2 import Frames, InitialValues, ShardMessage, Values, WorkerMessage

_VALUES = {ShardMessage.VALUES_FIELD_NUMBER: Values.PAYLOAD_FIELD_NUMBER}


def frames_message(
    step: int, attempt: int, blocks: Sequence[int], lengths: Sequence[int], payload: memoryview, values: bool = False
) -> bytes:
    """A serialised `WorkerMessage` with `Frames`, of gradients or of values; the payload is copied once."""
    head = Frames(step=step, attempt=attempt, blocks=blocks, lengths=lengths, values=values)
    return join_payload(
        WorkerMessage.FRAMES_FIELD_NUMBER, head.SerializeToString(), Frames.PAYLOAD_FIELD_NUMBER, payload
    )


def initial_values_message(grant: int, blocks: Sequence[int], lengths: Sequence[int], payload: memoryview) -> bytes:
    """A serialised `WorkerMessage` with `InitialValues`; the payload is copied once."""
    head = InitialValues(grant=grant, blocks=blocks, lengths=lengths)
    return join_payload(
        WorkerMessage.INITIAL_VALUES_FIELD_NUMBER,
        head.SerializeToString(),
        InitialValues.PAYLOAD_FIELD_NUMBER,
        payload,
    )


@dataclass(frozen=True)
class Received:
    """One message of a shard, parsed but for its payload, which stays where the transport put it."""

    message: ShardMessage
    payload: memoryview
    """Frames, one behind the other; empty if the message has none."""


def receive(data: bytes) -> Received:
    """Deserializer of `ShardMessage`."""
    rest, payload = split_payload(data, _VALUES)
    return Received(ShardMessage.FromString(rest), payload)
