"""A server is gone: every other server and every worker is told why, at once; a link that breaks is no such thing."""

import time
from collections.abc import Callable
from threading import Thread

import grpc
import pytest
from raw_worker import RawWorker, cluster

from pushpull.protos.errors import BadRequestError, PushpullError, ServerLostError, error_of_call
from pushpull.ps_server.config import ServerConfig
from pushpull.ps_server.server import Server

SOON_SECONDS = 15.0
"""Three are waited for a process that may be restarted; the rest is for slow machines."""


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SOON_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def started(servers: list[Server]) -> RawWorker:
    worker = RawWorker(servers[0].address).start()
    worker.activate()
    worker.train(1.0)
    return worker


def refusal(call: Callable[[], object]) -> PushpullError | None:
    """What a call was refused with; asks until it is, or until time is up."""
    deadline = time.monotonic() + SOON_SECONDS
    while time.monotonic() < deadline:
        try:
            call()
        except grpc.RpcError as failure:
            return error_of_call(failure)
        time.sleep(0.1)
    return None


def end_of(server: Server) -> PushpullError:
    """Why a server has ended."""
    ends: list[Exception] = []

    def wait() -> None:
        try:
            server.wait()
        except Exception as error:
            ends.append(error)

    waiting = Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(SOON_SECONDS)
    assert ends, "the server goes on, or ended as if all were well"
    assert isinstance(ends[0], PushpullError)
    return ends[0]


def stop_without_a_word(server: Server) -> None:
    server._engine.report = lambda report: None  # type: ignore[method-assign]
    server.stop(0.0)


def test_workers_and_servers_learn_that_a_shard_is_gone() -> None:
    with cluster(2) as servers:
        worker = started(servers)
        stop_without_a_word(servers[1])
        told = refusal(worker.heartbeat)
        assert isinstance(told, ServerLostError)
        assert str(told).startswith(f"shard 1 at {servers[1].address} is gone (nobody listens at")
        assert isinstance(refusal(worker.streams[0].receive), ServerLostError)
        assert isinstance(end_of(servers[0]), ServerLostError)
        worker.close()


def test_the_others_end_when_shard_0_is_gone_and_say_so_to_their_workers() -> None:
    with cluster(2) as servers:
        worker = started(servers)
        stop_without_a_word(servers[0])
        told = refusal(worker.streams[1].receive)
        assert isinstance(told, ServerLostError)
        assert "shard 0, the registrar, is gone" in str(told)
        assert isinstance(end_of(servers[1]), ServerLostError)
        worker.close()


@pytest.mark.parametrize("number", [0, 1])
def test_a_server_that_fails_by_itself_says_why(number: int) -> None:
    with cluster(2) as servers:
        worker = started(servers)
        servers[number]._fail(MemoryError("no more memory"))
        told = refusal(worker.streams[1 - number].receive)
        assert isinstance(told, ServerLostError)
        assert "MemoryError: no more memory" in str(told)
        assert isinstance(end_of(servers[1 - number]), ServerLostError)
        worker.close()


def test_a_server_that_gets_no_more_threads_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    with cluster(1) as (server,):
        worker = started([server])
        with monkeypatch.context() as patched:
            patched.setattr(Thread, "start", refuse)
            server._fail(MemoryError("no more memory"))
            assert server._stopped.wait(SOON_SECONDS)
        assert server.has_failed
        with pytest.raises(MemoryError):
            server.wait()
        worker.close()


def test_a_link_that_breaks_ends_nothing() -> None:
    with cluster(2) as servers:
        worker = started(servers)
        link = servers[1]._link
        assert link is not None
        for _ in range(3):
            link._call.cancel()
            assert soon(lambda: not link.up)
            assert soon(lambda: link.up and servers[0]._linked)
            worker.train(1.0)
        worker.leave()


def another(servers: list[Server], **config: object) -> Server:
    server = Server(
        ServerConfig(
            shard=1,
            num_shards=2,
            registrar=servers[0].address,
            metrics_listen=None,
            num_apply_threads=1,
            **config,  # type: ignore[arg-type]
        )
    )
    server.start()
    return server


def test_a_second_server_for_a_shard_is_told_who_holds_it_and_the_job_goes_on() -> None:
    with cluster(2) as servers:
        worker = started(servers)
        stray = another(servers)
        told = end_of(stray)
        assert isinstance(told, BadRequestError)
        assert f"held by the server at {servers[1].address}" in str(told)
        worker.train(1.0)
        RawWorker(servers[0].address).start().leave()
        worker.leave()


def test_a_server_that_comes_back_empty_is_named_as_what_it_is() -> None:
    with cluster(2) as servers:
        worker = started(servers)
        address = servers[1].address
        stop_without_a_word(servers[1])
        empty = another(servers, listen=address)
        assert "gone" in str(end_of(empty))
        told = refusal(worker.heartbeat)
        assert isinstance(told, ServerLostError)
        assert "came back without its state" in str(told) or "without its part of the model" in str(told)
        worker.close()
