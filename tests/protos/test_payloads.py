"""The hand-written envelope is protobuf's own."""

from hypothesis import given
from hypothesis import strategies as st

from pushpull.protos.payloads import ALIGNMENT, join_payload, split_payload
from pushpull.protos.shard_pb2 import Frames, Hello, WorkerMessage

FIELDS = {WorkerMessage.FRAMES_FIELD_NUMBER: Frames.PAYLOAD_FIELD_NUMBER}

heads = st.builds(
    Frames,
    step=st.integers(0, 2**63),
    attempt=st.integers(0, 9),
    blocks=st.lists(st.integers(0, 2**32 - 1), max_size=5),
    lengths=st.lists(st.integers(0, 2**32 - 1), max_size=5),
)


@given(head=heads, payload=st.one_of(st.binary(max_size=300), st.integers(0, 5_000_000).map(bytes)))
def test_generated_code_reads_what_is_joined(head: Frames, payload: bytes) -> None:
    data = join_payload(
        WorkerMessage.FRAMES_FIELD_NUMBER, head.SerializeToString(), Frames.PAYLOAD_FIELD_NUMBER, memoryview(payload)
    )
    read = WorkerMessage.FromString(data)
    read.frames.ClearField("padding")
    expected = WorkerMessage(frames=head)
    expected.frames.payload = payload
    assert read == expected
    if payload:
        assert data[-len(payload) :] == payload
        assert (len(data) - len(payload)) % ALIGNMENT == 0


@given(head=heads, payload=st.binary(min_size=1, max_size=300))
def test_what_generated_code_writes_is_split(head: Frames, payload: bytes) -> None:
    message = WorkerMessage(frames=head)
    message.frames.payload = payload
    rest, split = split_payload(message.SerializeToString(), FIELDS)
    assert split == payload
    assert WorkerMessage.FromString(rest) == WorkerMessage(frames=head)


def test_a_payload_behind_lists_that_are_not_packed_is_found() -> None:
    """As other generators may write them: two fields for each block."""
    lists = b"".join(bytes([3 << 3, block, 4 << 3, 8]) for block in range(100))
    payload = bytes(800)
    data = join_payload(WorkerMessage.FRAMES_FIELD_NUMBER, lists, Frames.PAYLOAD_FIELD_NUMBER, memoryview(payload))
    assert len(WorkerMessage.FromString(data).frames.blocks) == 100
    assert split_payload(data, FIELDS)[1] == payload


def test_messages_without_payload_come_back_as_they_are() -> None:
    for message in (WorkerMessage(), WorkerMessage(hello=Hello(job_id="j")), WorkerMessage(frames=Frames(step=3))):
        data = message.SerializeToString()
        rest, payload = split_payload(data, FIELDS)
        assert rest == data
        assert payload.nbytes == 0


@given(data=st.binary(max_size=60))
def test_any_bytes_are_split_or_left_alone(data: bytes) -> None:
    rest, payload = split_payload(data, FIELDS)
    assert len(rest) + payload.nbytes <= len(data)


@given(head=heads, payload=st.binary(max_size=40), cut=st.integers(0, 60))
def test_a_truncated_message_is_not_split(head: Frames, payload: bytes, cut: int) -> None:
    message = WorkerMessage(frames=head)
    message.frames.payload = payload
    data = message.SerializeToString()[: -1 - cut]
    assert split_payload(data, FIELDS)[0] == data
