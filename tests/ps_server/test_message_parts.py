"""What a message becomes in memory is told from its bytes."""

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from pushpull.protos.common_pb2 import Block, OptimizerSpecification, Parameter, ParameterGroup, Plan
from pushpull.protos.registrar_pb2 import EnrolRequest
from pushpull.protos.shard_pb2 import Frames, Pull, WorkerMessage
from pushpull.ps_server.message_parts import NUMBERS_OF_A_PART, has_more_parts_than, warm_up


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    warm_up()


names = st.text("ab.", max_size=3)
numbers = st.lists(st.integers(0, 200), max_size=40)
enrolments = st.builds(
    EnrolRequest,
    worker_id=st.integers(0, 2**31),
    plan=st.builds(
        Plan,
        parameters=st.lists(st.builds(Parameter, name=names, aliases=st.lists(names, max_size=3)), max_size=5),
        blocks=st.lists(st.builds(Block, offsets=numbers, sizes=numbers), max_size=5),
    ),
    optimizer=st.builds(
        OptimizerSpecification,
        groups=st.lists(st.builds(ParameterGroup, numbers=st.dictionaries(names, st.floats(0, 1))), max_size=5),
    ),
    values=st.lists(st.integers(0, 2**63), max_size=50),
)


def num_parts(request: EnrolRequest) -> int:
    """Counted in the message itself; numbers of blocks are many only behind 64 bytes, as they are looked for."""
    plan, groups = request.plan, request.optimizer.groups
    return (
        request.HasField("plan")
        + request.HasField("optimizer")
        + len(plan.parameters)
        + sum(len(parameter.aliases) for parameter in plan.parameters)
        + len(plan.blocks)
        + sum(_numbers(block) for block in plan.blocks)
        + len(groups)
        + sum(len(group.numbers) for group in groups)
    )


def _numbers(block: Block) -> int:
    if block.ByteSize() <= 8 * NUMBERS_OF_A_PART:
        return 0
    return sum(
        sum(1 + (number > 127) for number in numbers) // NUMBERS_OF_A_PART for numbers in (block.offsets, block.sizes)
    )


@given(request=enrolments, most=st.integers(0, 30))
def test_parts_are_those_of_the_message(request: EnrolRequest, most: int) -> None:
    data = request.SerializeToString()
    more = has_more_parts_than(most, data, EnrolRequest.DESCRIPTOR)
    # what cannot be that many is not looked at
    assert more == (num_parts(request) > most and len(data) > 2 * most)


@pytest.mark.parametrize(
    ("message", "more"),
    [
        (WorkerMessage(pull=Pull(request=1, base_versions=[1] * 1_000)), True),
        (WorkerMessage(pull=Pull(request=1, base_versions=[1] * 500)), False),
        (WorkerMessage(frames=Frames(payload=bytes(1_000_000))), False),
    ],
    ids=["many numbers", "fewer", "one payload"],
)
def test_numbers_count_eight_as_one_and_bytes_nothing(message: Message, more: bool) -> None:
    assert has_more_parts_than(100, message.SerializeToString(), message.DESCRIPTOR) is more


@given(data=st.binary(max_size=60))
def test_any_bytes_are_judged_or_refused(data: bytes) -> None:
    """And what protobuf takes is refused at most for a group in it, or a number of more bytes than it needs."""
    try:
        assert not has_more_parts_than(60, data * 4, EnrolRequest.DESCRIPTOR)
    except ValueError:
        return
    try:
        EnrolRequest.FromString(data * 4)
    except DecodeError:
        pass


def test_a_group_does_not_hide_what_comes_behind_it() -> None:
    """An unknown group may stand anywhere, and protobuf passes over it."""
    hidden = b"\x7b\x7c" + WorkerMessage(pull=Pull(base_versions=[1] * 10_000)).SerializeToString()
    assert WorkerMessage.FromString(hidden).pull.base_versions
    with pytest.raises(ValueError, match="do not fit"):
        has_more_parts_than(100, hidden, WorkerMessage.DESCRIPTOR)
