"""A worker's message as it is received: parsed but for its payload, which stays where the transport put it."""

from dataclasses import dataclass

from ..protos.errors import BadRequestError
from ..protos.payloads import split_payload
from ..protos.shard_pb2 import Frames, InitialValues, WorkerMessage

MOST_HEAD_BYTES = 1 << 16
"""What a message of frames may hold beside frames and their numbers."""
MOST_QUESTION_BYTES = 1 << 20
"""Of a commit, beside what it says of blocks: 3,000 parameter groups of the largest optimizer."""

_PAYLOAD_FIELDS = {
    WorkerMessage.FRAMES_FIELD_NUMBER: Frames.PAYLOAD_FIELD_NUMBER,
    WorkerMessage.INITIAL_VALUES_FIELD_NUMBER: InitialValues.PAYLOAD_FIELD_NUMBER,
}


@dataclass(frozen=True)
class Received:
    """One message of a worker."""

    message: WorkerMessage
    """Without its payload."""
    payload: memoryview
    """Frames, one behind the other; empty if the message has none."""
    num_bytes: int
    """On the wire."""

    def check_is_frames(self, num_blocks: int) -> None:
        """Raises BadRequestError if it holds much beside frames of so many blocks."""
        if self.num_bytes > self.payload.nbytes + MOST_HEAD_BYTES + 64 * num_blocks:
            raise BadRequestError("a message of frames holds much that is no frame")

    def check_is_small(self, num_blocks: int) -> None:
        """Raises BadRequestError if it is larger than a commit or a pull of so many blocks can be: what it says is kept."""
        if self.num_bytes > MOST_QUESTION_BYTES + 64 * num_blocks:
            raise BadRequestError(f"a commit or a pull of {self.num_bytes} bytes is too large for {num_blocks} blocks")


def receive(data: bytes) -> Received:
    """Deserializer of `WorkerMessage`.

    Raises:
        DecodeError: of protobuf, for bytes that are no such message.
    """
    rest, payload = split_payload(data, _PAYLOAD_FIELDS)
    return Received(WorkerMessage.FromString(rest), payload, len(data))
