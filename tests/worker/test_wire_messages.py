"""Messages that are put together by hand are what protobuf would have made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull.protos.shard_pb2 import Frames, InitialValues, WorkerMessage
from pushpull.worker.wire import frames_message, initial_values_message

sizes = st.sampled_from([0, 1, 127, 128, 16_383, 16_384, 100_000])
numbers = st.lists(st.integers(0, 2**32 - 1), max_size=5)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), numbers, sizes)
def test_frames_read_back(step: int, attempt: int, blocks: list[int], size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    message = frames_message(step, attempt, blocks, blocks, memoryview(payload)[:size])
    expected = Frames(step=step, attempt=attempt, blocks=blocks, lengths=blocks, payload=payload[:size])
    read = WorkerMessage.FromString(message)
    read.frames.ClearField("padding")
    assert read == WorkerMessage(frames=expected)


@pytest.mark.parametrize("size", [0, 5, 300])
def test_initial_values_read_back(size: int) -> None:
    payload = b"x" * size
    message = initial_values_message(7, [3], [size], memoryview(payload))
    expected = InitialValues(grant=7, blocks=[3], lengths=[size], payload=payload)
    read = WorkerMessage.FromString(message)
    read.initial_values.ClearField("padding")
    assert read == WorkerMessage(initial_values=expected)
