"""Which of two server processes that claim one shard is believed."""

import pytest

from pushpull.protos.errors import BadRequestError, NotReadyError, ServerLostError
from pushpull.protos.registrar_pb2 import ShardHello
from pushpull.ps_server.shard_table import Holder, ShardTable

REAL, OTHER = 11, 22


def hello(life: int, address: str = "b:7077", **fields: object) -> ShardHello:
    return ShardHello(shard=1, address=address, epoch=life, **fields)


@pytest.fixture
def table() -> ShardTable:
    table = ShardTable(2, "job")
    table.take(hello(REAL), linked=False, agreed=False, answering=None)
    return table


def test_the_process_that_was_linked_is_taken_again_whatever_happened_meanwhile(table: ShardTable) -> None:
    with pytest.raises(NotReadyError):
        table.take(hello(OTHER, "c:7077"), linked=False, agreed=True, answering=None)
    table.take(hello(REAL), linked=False, agreed=True, answering=None)
    assert table[1] == Holder("b:7077", REAL)


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("address", ["b:7077", "c:7077"])
def test_a_stray_is_told_who_holds_the_shard(table: ShardTable, linked: bool, address: str) -> None:
    with pytest.raises(BadRequestError, match="held by the server at b:7077"):
        table.take(hello(OTHER, address), linked, agreed=True, answering=REAL)
    assert table[1] == Holder("b:7077", REAL)


def test_a_stray_is_not_believed_while_the_link_stands(table: ShardTable) -> None:
    with pytest.raises(BadRequestError, match="held by"):
        table.take(hello(OTHER), linked=True, agreed=True, answering=None)


@pytest.mark.parametrize("linked", [True, False])
def test_an_empty_one_in_its_place_is_named_as_what_it_is(table: ShardTable, linked: bool) -> None:
    with pytest.raises(ServerLostError, match="came back without its state"):
        table.take(hello(OTHER), linked, agreed=True, answering=OTHER)


def test_before_there_is_a_model_another_one_may_take_the_place(table: ShardTable) -> None:
    table.take(hello(OTHER, "c:7077"), linked=False, agreed=False, answering=None)
    assert table[1] == Holder("c:7077", OTHER)
    assert table.addresses == ["", "c:7077"]


def test_a_part_of_another_jobs_model_is_of_no_use(table: ShardTable) -> None:
    with pytest.raises(ServerLostError, match="serves another job"):
        table.take(hello(REAL, job_id="old", has_plan=True), linked=False, agreed=False, answering=None)


def test_who_heard_of_another_job_and_holds_nothing_may_join_this_one() -> None:
    table = ShardTable(2, "job")
    table.take(hello(REAL, job_id="old"), linked=False, agreed=False, answering=None)
    assert table.first_missing == 0


def test_there_is_no_shard_beyond_the_last() -> None:
    with pytest.raises(BadRequestError, match="there is no shard 7"):
        ShardTable(2, "job").take(ShardHello(shard=7), linked=False, agreed=False, answering=None)
