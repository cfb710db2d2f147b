"""A worker's message as it is received: its payload stays where the transport put it, the rest is read when it is known whose
message it is and how large it may be."""

from dataclasses import dataclass

from ..protos.errors import BadRequestError
from ..protos.payloads import split_payload
from ..protos.shard_pb2 import Frames, InitialValues, WorkerMessage
from .reading import Reader

MOST_HEAD_BYTES = 1 << 16
"""What a message of frames may hold beside frames and their numbers."""
MOST_QUESTION_BYTES = 1 << 20
"""Of any message beside its payload and what it says of blocks: 3,000 parameter groups of the largest optimizer in a commit."""

_PAYLOAD_FIELDS = {
    WorkerMessage.FRAMES_FIELD_NUMBER: Frames.PAYLOAD_FIELD_NUMBER,
    WorkerMessage.INITIAL_VALUES_FIELD_NUMBER: InitialValues.PAYLOAD_FIELD_NUMBER,
}


@dataclass(frozen=True)
class Received:
    """One message of a worker."""

    head: bytes
    """All but its payload, as it came."""
    payload: memoryview
    """Frames, one behind the other; empty if the message has none."""
    num_bytes: int
    """On the wire."""

    def read(self, num_blocks: int = 0) -> WorkerMessage:
        """The message without its payload, of a worker that has to do with so many blocks.

        Raises:
            BadRequestError: it cannot be read, or is larger than anything that may be said of so many blocks: that is kept.
        """
        reader = Reader(WorkerMessage.FromString, MOST_QUESTION_BYTES + 64 * num_blocks)
        message: WorkerMessage = reader.read(self.head)
        return message

    def check_is_frames(self, num_blocks: int) -> None:
        """Raises BadRequestError if it holds much beside frames of so many blocks."""
        if self.num_bytes > self.payload.nbytes + MOST_HEAD_BYTES + 64 * num_blocks:
            raise BadRequestError("a message of frames holds much that is no frame")


def receive(data: bytes) -> Received:
    """Takes a serialised `WorkerMessage` apart, whatever it is."""
    head, payload = split_payload(data, _PAYLOAD_FIELDS)
    return Received(head, payload, len(data))
