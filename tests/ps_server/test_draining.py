"""A server that is told to end: what the registrar decides, what shards still do, and what workers are told."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_worker import RawWorker, cluster, plan_for, sgd
from registrar_script import NUM_SHARDS, Key, Script, two_active
from simulation import Simulation

from pushpull.protos.errors import ServerDrainingError, error_of_call
from pushpull.protos.health import PROCESS, READY, TRAINED
from pushpull.protos.registrar_pb2 import (
    DealRequest,
    Draining,
    EnrolRequest,
    JoinRequest,
    RegistrarOrder,
    ShardReport,
    WorkerReport,
)
from pushpull.protos.shard_pb2 import Outcome
from pushpull.ps_server.apply import Pass
from pushpull.ps_server.effects import Job
from pushpull.ps_server.ending import ROUND_SECONDS
from pushpull.ps_server.server import Server

DRAIN_SECONDS = 10.0
"""What a drain may take at most; see the constants of ps_server/server.py."""


class Observed(Script):
    """Keeps every order."""

    def __init__(self, **settings: object) -> None:
        self.kinds: list[str] = []
        super().__init__(**settings)
        take = self.registrar.take_orders

        def take_orders() -> list[RegistrarOrder]:
            orders = take()
            self.kinds += [order.WhichOneof("order") or "" for order in orders]
            return orders

        self.registrar.take_orders = take_orders  # type: ignore[method-assign]


def drain(script: Script, shard: int = 1) -> None:
    script.report(ShardReport(draining=Draining(address="b:7077")), shards=(shard,))
    script.pump()


def training(**settings: object) -> tuple[Observed, Key, Key]:
    script, first, second = two_active(Observed, **settings)
    script.kinds.clear()
    return script, first, second


CALLS: dict[str, Callable[[Script, Key], object]] = {
    "join": lambda script, key: script.registrar.join(script.now, JoinRequest(worker_id=-1)),
    "enrol": lambda script, key: script.registrar.enrol(
        script.now, EnrolRequest(worker_id=key[0], incarnation=key[1], plan=plan_for(NUM_SHARDS), optimizer=sgd())
    ),
    "activate": lambda script, key: script.registrar.activate(script.now, *key, 0),
    "deal": lambda script, key: script.registrar.deal(script.now, DealRequest(worker_id=key[0], incarnation=key[1])),
}


class TestRegistrar:
    @pytest.mark.parametrize("call", CALLS)
    def test_admits_nobody_any_more_and_says_why(self, call: str) -> None:
        script, first, second = training()
        script.staged(first, 1, 1)
        drain(script)
        with pytest.raises(ServerDrainingError, match=r"shard 1 at b:7077 is shutting down.*this job ends"):
            CALLS[call](script, second)

    @pytest.mark.parametrize("mode", ["sync", "bounded", "async"])
    def test_ends_the_job_at_once_where_no_round_has_begun(self, mode: str) -> None:
        script, first, _ = training(mode=mode)
        drain(script)
        assert script.kinds == ["end"]
        with pytest.raises(ServerDrainingError):
            script.registrar.heartbeat(script.now, *first, WorkerReport())
        script.registrar.leave(script.now, *first, WorkerReport(), "")
        assert script.registrar.failures == 0

    def test_lets_the_open_round_close_and_no_other(self) -> None:
        script, first, second = training()
        script.staged(first, 1, 1)
        drain(script)
        script.at(ROUND_SECONDS / 2, first, second)
        assert script.kinds == []
        script.staged(second, 1, 1)
        assert script.kinds == ["close", "end"]
        for key in (first, second):
            script.staged(key, 2, 2)
        assert script.contributors() == [[0, 1]]

    def test_drops_a_round_that_does_not_close_in_time(self) -> None:
        script, first, second = training()
        script.staged(first, 1, 1)
        drain(script)
        script.at(ROUND_SECONDS - 0.5, first, second)
        assert script.kinds == []
        with pytest.raises(ServerDrainingError):
            script.at(ROUND_SECONDS + 0.5, first, second)
        script.staged(second, 1, 1)
        assert (script.kinds, script.contributors()) == (["end"], [])

    def test_waits_for_nobody_who_has_left(self) -> None:
        script, first, second = training()
        script.staged(first, 1, 1)
        drain(script)
        script.registrar.leave(script.now, *second, WorkerReport(), "")
        script.pump()
        assert (script.kinds, script.contributors()) == (["view", "close", "end"], [[0]])

    def test_ends_once_however_many_shards_say_so(self) -> None:
        script, *_ = training()
        for shard in (1, 0, 1):
            drain(script, shard)
        assert script.kinds == ["end"]
        assert "shard 1" in script.registrar.ending


def test_a_drain_at_any_moment_leaves_the_same_rounds_on_every_shard_and_nobody_is_told_more() -> None:
    closed_behind = set()
    for seed in range(30):
        simulation = Simulation([[1.0] * 6, [2.0] * 6, [4.0] * 6], seed=seed, mode="sync")
        for _ in range(5 + 4 * seed):
            simulation.turn()
        closed = simulation.registrar.rounds_closed
        simulation.registrar.report(simulation.now, seed % 2, ShardReport(draining=Draining(address="a:1")))
        simulation._take_orders()
        for _ in range(2000):
            simulation.turn()
        first, second = simulation.shards
        assert first.rounds == second.rounds
        assert len(first.rounds) - closed <= 1
        closed_behind.add(len(first.rounds) - closed)
        for worker in simulation.workers:
            for outcomes in worker.outcomes:
                assert [outcome.kind for outcome in outcomes] == [Outcome.KIND_APPLIED] * len(first.rounds)
        for simulated in simulation.shards:
            for block in simulated.shard.store.blocks:
                expected = -len(first.rounds) * 7 / 3 if block.group >= 0 else 0.0
                np.testing.assert_allclose(simulated.shard.store.array(block), expected, rtol=1e-5)
    assert closed_behind == {0, 1}, "the drains came always at the same moment"


@contextmanager
def draining(server: Server) -> Iterator[float]:
    """The server drains behind the block's first lines; it must be over in time. Yields when it began."""
    began = time.monotonic()
    thread = threading.Thread(target=server.drain, daemon=True)
    thread.start()
    yield began
    thread.join(DRAIN_SECONDS)
    server.wait()
    assert time.monotonic() - began < DRAIN_SECONDS


def refusal(call: grpc.RpcError) -> str:
    error = error_of_call(call)
    assert isinstance(error, ServerDrainingError), call
    return str(error)


@pytest.mark.parametrize("drained", [0, 1])
def test_a_drained_server_ends_the_job_on_all_of_them_and_says_so(drained: int) -> None:
    with cluster(2, mode="async") as servers:
        worker = RawWorker(servers[0].address).start()
        worker.activate()
        worker.train(1.0)
        with draining(servers[drained]), grpc.insecure_channel(servers[drained].address) as channel:
            for stream in worker.streams:
                with pytest.raises(grpc.RpcError) as ended:
                    stream.receive()
                assert f"shard {drained} at {servers[drained].address} is shutting down" in refusal(ended.value)
            health = health_pb2_grpc.HealthStub(channel)
            states = {
                service: health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status
                for service in (PROCESS, READY, TRAINED)
            }
            assert states == {
                PROCESS: health_pb2.HealthCheckResponse.SERVING,
                READY: health_pb2.HealthCheckResponse.NOT_SERVING,
                TRAINED: health_pb2.HealthCheckResponse.NOT_SERVING,
            }
            status = worker.status()
            assert f"shard {drained} at" in status.ending
            with pytest.raises(grpc.RpcError) as refused:
                RawWorker(servers[0].address)
            refusal(refused.value)
            with pytest.raises(grpc.RpcError) as refused:
                worker.heartbeat()
            refusal(refused.value)
            worker.leave()
        for server in servers:
            server.wait()


def test_a_step_that_is_being_applied_is_answered_before_the_stream_ends() -> None:
    with cluster(1, mode="async") as (server,):
        worker = RawWorker(server.address).start()
        worker.activate()
        applying, go_on = threading.Event(), threading.Event()
        begin_job = server._engine.begin_job

        def begin_late(job: Job) -> Sequence[Pass]:
            applying.set()
            go_on.wait(10)
            return begin_job(job)

        server._engine.begin_job = begin_late  # type: ignore[method-assign]
        worker.push(1.0)
        applying.wait(10)
        with draining(server):
            server._engine.end.over.wait(10)
            go_on.set()
            assert worker.finish()[0].kind == Outcome.KIND_APPLIED
            with pytest.raises(grpc.RpcError) as ended:
                worker.streams[0].receive()
            refusal(ended.value)
            worker.leave()


def test_the_round_that_one_worker_has_begun_closes_with_the_other_workers_step() -> None:
    with cluster(1, expected_workers=2) as (server,):
        first, second = workers = [RawWorker(server.address, number) for number in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.activate()
        first.push(1.0)
        while not server._registrar._registrar._rounds._pending:
            time.sleep(0.01)
        with draining(server):
            second.push(3.0)
            for worker in workers:
                assert worker.finish()[0].kind == Outcome.KIND_APPLIED
                with pytest.raises(grpc.RpcError) as ended:
                    worker.streams[0].receive()
                refusal(ended.value)
            for worker in workers:
                worker.leave()


def test_an_idle_server_drains_at_once() -> None:
    with cluster(2) as servers:
        while not servers[1]._linked:  # what is not linked yet has nobody to tell
            time.sleep(0.01)
        with draining(servers[1]) as began:
            pass
        for server in servers:
            server.wait()
        assert time.monotonic() - began < 3.0


def test_a_drain_waits_for_no_client_that_is_stuck() -> None:
    """One that never says Hello, one that never reads, and one whose workers never leave."""
    with cluster(1, mode="async") as (server,):
        worker = RawWorker(server.address, sizes=(1 << 19, 1 << 18)).start()
        worker.activate()
        silent = grpc.insecure_channel(server.address)
        silent_call = silent.stream_stream("/pushpull.v1.Shard/Exchange")(iter(threading.Event().wait, True))
        for request in range(1, 40):
            # 3 MiB each, and nobody takes them from the stream
            worker.streams[0].send(pull={"request": request})
        with draining(server):
            pass
        silent_call.cancel()
        silent.close()
        worker.close()
