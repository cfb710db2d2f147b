"""What a message becomes in memory is told from its bytes."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from pushpull.protos.common_pb2 import Block, OptimizerSpecification, Parameter, ParameterGroup, Plan
from pushpull.protos.payloads import PADDING_FIELD, join_payload
from pushpull.protos.registrar_pb2 import EnrolRequest
from pushpull.protos.shard_pb2 import Frames, Pull, WorkerMessage
from pushpull.ps_server.calls import MOST_PLAN_BYTES
from pushpull.ps_server.message_parts import NUMBERS_OF_A_PART, has_more_parts_than, warm_up
from pushpull.ps_server.plan_check import MOST_BLOCKS
from pushpull.ps_server.reading import Reader


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
    """Counted in the message itself."""
    plan, groups = request.plan, request.optimizer.groups
    num_numbers = sum(len(block.offsets) + len(block.sizes) for block in plan.blocks)
    return max(
        num_numbers // NUMBERS_OF_A_PART,
        request.HasField("plan")
        + request.HasField("optimizer")
        + len(plan.parameters)
        + sum(len(parameter.aliases) for parameter in plan.parameters)
        + len(plan.blocks)
        + len(groups)
        + sum(len(group.numbers) for group in groups),
    )


@given(request=enrolments, most=st.integers(0, 30))
def test_parts_are_those_of_the_message(request: EnrolRequest, most: int) -> None:
    data = request.SerializeToString()
    more = has_more_parts_than(most, data, EnrolRequest.DESCRIPTOR)
    # what cannot be that many is not looked at
    assert more == (num_parts(request) > most and len(data) > 2 * most)


VERSIONS = Pull.BASE_VERSIONS_FIELD_NUMBER


def pull_of(fields: bytes) -> bytes:
    """A pull with these bytes in it."""
    return join_payload(WorkerMessage.PULL_FIELD_NUMBER, fields, PADDING_FIELD, memoryview(b""))


@pytest.mark.parametrize(
    "message",
    [
        WorkerMessage(pull=Pull(base_versions=[1] * 1_000)).SerializeToString(),
        WorkerMessage(pull=Pull(base_versions=[2**63] * 1_000)).SerializeToString(),
        pull_of(bytes([VERSIONS << 3 | 2, 7, *[1] * 7]) * 143),
        pull_of(bytes([VERSIONS << 3, 1]) * 1_000),
    ],
    ids=["packed", "long ones", "in pieces", "one by one"],
)
def test_a_thousand_numbers_are_so_many_parts_however_they_come(message: bytes) -> None:
    assert len(WorkerMessage.FromString(message).pull.base_versions) in (1_000, 1_001)
    assert has_more_parts_than(124, message, WorkerMessage.DESCRIPTOR)
    assert not has_more_parts_than(127, message, WorkerMessage.DESCRIPTOR)


def test_bytes_are_no_parts() -> None:
    message = WorkerMessage(frames=Frames(payload=bytes(1_000_000)))
    assert not has_more_parts_than(1, message.SerializeToString(), WorkerMessage.DESCRIPTOR)


def test_the_largest_plan_is_no_more_than_servers_read() -> None:
    """Of matrices, each cut along one dimension."""
    plan = Plan(num_shards=2, block_elements=1)
    plan.parameters.extend(Parameter(name=f"{number}", shape=[2, 2]) for number in range(MOST_BLOCKS))
    plan.blocks.extend(Block(offsets=[1, 1], sizes=[2, 2], parameter=number) for number in range(MOST_BLOCKS))
    request = EnrolRequest(worker_id=1, plan=plan, optimizer=OptimizerSpecification(groups=[ParameterGroup()]))
    assert Reader(EnrolRequest.FromString, MOST_PLAN_BYTES).read(request.SerializeToString()) == request


@given(request=enrolments, place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_nothing_that_protobuf_makes_goes_uncounted(request: EnrolRequest, place: int, byte: int) -> None:
    """Of a message that was changed: it is refused, or what protobuf reads of it has no part that was not counted."""
    data = bytearray(request.SerializeToString() or b"\0")
    data[place % len(data)] = byte
    try:
        read = EnrolRequest.FromString(bytes(data))
        found = num_parts(read)
        assert not found or has_more_parts_than(found - 1, bytes(data), EnrolRequest.DESCRIPTOR)
    except (DecodeError, ValueError):
        return


def test_a_group_does_not_hide_what_comes_behind_it() -> None:
    """An unknown group may stand anywhere, and protobuf passes over it."""
    hidden = b"\x7b\x7c" + WorkerMessage(pull=Pull(base_versions=[1] * 10_000)).SerializeToString()
    assert WorkerMessage.FromString(hidden).pull.base_versions
    with pytest.raises(ValueError, match="do not fit"):
        has_more_parts_than(100, hidden, WorkerMessage.DESCRIPTOR)
