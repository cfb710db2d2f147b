"""Beats to each shard: one that does not answer delays no other, and is dialled anew."""

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest

from pushpull.protos.registrar_pb2 import Member, View
from pushpull.protos.shard_pb2 import BeatRequest, BeatResponse
from pushpull.protos.shard_pb2_grpc import ShardServicer, add_ShardServicer_to_server
from pushpull.ps_server.heard import Heard
from pushpull.ps_server.keys import StreamKey
from pushpull.worker.shard_beats import ShardBeats

REQUEST = BeatRequest(worker_id=3, incarnation=70, rank=1)


class Listener(ShardServicer):
    """Counts beats; holds each of them while `deaf`."""

    def __init__(self) -> None:
        self.beats: list[tuple[BeatRequest, str]] = []
        self.deaf = threading.Event()
        self.changed = threading.Condition()

    def Beat(self, request: BeatRequest, context: grpc.ServicerContext) -> BeatResponse:
        with self.changed:
            self.beats.append((request, context.peer()))
            self.changed.notify_all()
        while self.deaf.is_set() and context.is_active():
            time.sleep(0.01)
        return BeatResponse()

    def wait_for(self, number: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.beats) >= number, 30)


@contextmanager
def listening(listener: Listener) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_ShardServicer_to_server(listener, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        listener.deaf.clear()
        server.stop(0).wait()


@pytest.fixture
def shards() -> Iterator[tuple[list[Listener], ShardBeats]]:
    listeners = [Listener(), Listener()]
    with listening(listeners[0]) as first, listening(listeners[1]) as second:
        beats = ShardBeats([first, second], REQUEST, lease_seconds=0.3)
        beats.start()
        yield listeners, beats
        beats.stop()


def test_every_shard_hears_who_lives_again_and_again(shards: tuple[list[Listener], ShardBeats]) -> None:
    listeners, _ = shards
    for listener in listeners:
        listener.wait_for(3)
        assert {(r.worker_id, r.incarnation, r.rank) for r, _ in listener.beats} == {(3, 70, 1)}
        assert len({peer for _, peer in listener.beats[:3]}) == 1


def test_a_shard_that_does_not_answer_delays_no_other_and_is_dialled_anew(
    shards: tuple[list[Listener], ShardBeats],
) -> None:
    listeners, _ = shards
    listeners[0].deaf.set()
    before = len(listeners[1].beats)
    listeners[1].wait_for(before + 5)
    listeners[0].wait_for(3)
    assert len({peer for _, peer in listeners[0].beats}) > 1


def test_a_shard_notes_only_ranks_of_its_newest_view() -> None:
    heard = Heard()
    heard.note(StreamKey(3, 70, 0))
    heard.expect(View(members=[Member(worker_id=3, incarnation=70, num_ranks=2)]))
    for rank in (0, 1, 1, 2, 2**31):
        heard.note(StreamKey(3, 70, rank))
    heard.note(StreamKey(9, 71, 0))
    alive = heard.take()
    assert list(zip(alive.incarnations, alive.ranks, strict=True)) == [(70, 0), (70, 1)]
    assert not heard.take().incarnations
