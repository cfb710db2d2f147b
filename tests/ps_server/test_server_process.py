"""What a server shows to the outside beside its own services: metrics, health, reflection."""

import errno
import re
import resource
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from raw_worker import RawWorker, cluster

from pushpull.protos.health import TRAINED
from pushpull.protos.registrar_pb2 import JoinRequest, RegistrarOrder
from pushpull.protos.registrar_pb2_grpc import RegistrarStub
from pushpull.ps_server.calls import most_connections
from pushpull.ps_server.config import JobSettings, ServerConfig
from pushpull.ps_server.descriptors import raise_descriptor_limit
from pushpull.ps_server.server import BEAT_SECONDS, Server


@contextmanager
def one_server(**config: object) -> Iterator[Server]:
    server = Server(ServerConfig(shard=0, num_shards=1, job=JobSettings(lease_seconds=60), **config))  # type: ignore[arg-type]
    server.start()
    try:
        yield server
    finally:
        server.stop(0.1)


def scrape(server: Server) -> str:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as answer:
        return answer.read().decode()


def figure(server: Server, name: str) -> float:
    """The first of its series; of the doors that is the one of worker streams."""
    found = re.search(rf"^{name}{{.*}} (\S+)$", scrape(server), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def test_metrics_after_a_few_steps() -> None:
    with one_server() as server:
        worker = RawWorker(server.address).start()
        worker.activate()
        for _ in range(3):
            worker.train(1.0)
        text = scrape(server)
        worker.leave()
    job = re.search(r'job_id="(\w+)"', text)
    assert job is not None
    identity = f'job_id="{job[1]}"'
    for line in (
        f'pushpull_pushes_total{{{identity},outcome="applied",shard="0"}} 3.0',
        f'pushpull_pushes_total{{{identity},outcome="refused",shard="0"}} 0.0',
        f'pushpull_pulls_total{{{identity},shard="0"}} 4.0',
        f'pushpull_push_elements_total{{{identity},shard="0"}} 60.0',
        f'pushpull_pull_elements_total{{{identity},shard="0"}} 128.0',
        f'pushpull_push_seconds_count{{{identity},shard="0"}} 3.0',
        f'pushpull_version_staleness_count{{{identity},shard="0"}} 3.0',
        f'pushpull_optimizer_step_seconds_count{{{identity},shard="0"}} 3.0',
        f'pushpull_round_seconds_count{{{identity},shard="0"}} 2.0',
        f'pushpull_live_workers{{{identity},shard="0"}} 1.0',
        f'pushpull_active_workers{{{identity},shard="0"}} 1.0',
        f'pushpull_rounds_closed_total{{{identity},shard="0"}} 3.0',
        f'pushpull_server_phase{{{identity},phase="draining",shard="0"}} 0.0',
        f'pushpull_registrar_link_up{{{identity},shard="0"}} 1.0',
        f'pushpull_lease_expiries_total{{{identity},shard="0"}} 0.0',
        f'pushpull_block_version_spread{{{identity},shard="0"}} 0.0',
        f'pushpull_apply_queue_jobs{{{identity},shard="0"}} 0.0',
        f'pushpull_job_shard_linked{{{identity},shard="0"}} 1.0',
        f'pushpull_job_phase{{{identity},phase="training",shard="0"}} 1.0',
        f'pushpull_job_worker_clock{{{identity},shard="0",worker="0"}} 3.0',
        f'pushpull_job_worker_behind_clocks{{{identity},shard="0",worker="0"}} 0.0',
        f'pushpull_job_worker_state{{{identity},shard="0",state="active",worker="0"}} 1.0',
        f'pushpull_refusals_total{{{identity},reason="BAD_FRAME",shard="0"}} 0.0',
        f'process_resident_memory_bytes{{{identity},shard="0"}}',
        f'pushpull_memory_limit_bytes{{{identity},shard="0"}}',
    ):
        assert line in text, f"{line} is missing"
    labels = set(re.findall(r"(\w+)=\"", text))
    bounded = {
        "job_id",
        "shard",
        "le",
        "outcome",
        "reason",
        "phase",
        "state",
        "part",
        "worker",
        "host",
        "layout",
        "address",
        "door",
    }
    settings = {"name", "mode", "push_codec", "pull_codec", "optimizer_state", "damping", "quorum"}
    assert labels <= bounded | settings, "a label whose values may grow"
    assert not [line for line in text.splitlines() if "_bucket" in line and 'worker="' in line]


def test_a_worker_that_has_gone_is_shown_no_more() -> None:
    with one_server() as server:
        worker = RawWorker(server.address).start()
        worker.activate()
        assert 'worker="0"' in scrape(server)
        worker.leave()
        text = scrape(server)
    assert 'worker="0"' not in text
    assert re.search(r"pushpull_live_workers\{.*\} 0.0", text)


def test_counts_the_calls_that_hold_a_thread() -> None:
    with one_server() as server:
        before = figure(server, "pushpull_rpc_threads_busy")
        worker = RawWorker(server.address).start()
        assert figure(server, "pushpull_rpc_threads_busy") > before
        assert figure(server, "pushpull_rpc_threads") > 128
        assert figure(server, "pushpull_rpc_calls_waiting") == 0
        worker.leave()


def test_refusals_are_counted_by_reason() -> None:
    with one_server() as server:
        worker = RawWorker(server.address).start()
        worker.activate()
        frames = worker.frames(0, 1.0)
        frames.lengths[0] += 4
        worker.streams[0].send(frames=frames)
        worker.streams[0].send(commit=worker.commit_message(0, frames))
        worker.finish()
        assert re.search(r'pushpull_refusals_total\{.*reason="BAD_FRAME".*\} 1.0', scrape(server))
        worker.close()


def test_health_says_accepting_at_once_and_trained_when_initialised() -> None:
    with one_server() as server, grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def state(service: str) -> int:
            return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status

        assert state("") == health_pb2.HealthCheckResponse.SERVING
        assert state(TRAINED) == health_pb2.HealthCheckResponse.NOT_SERVING
        worker = RawWorker(server.address).start()
        for answer in stub.Watch(health_pb2.HealthCheckRequest(service=TRAINED), timeout=20):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                break
        worker.leave()


@pytest.mark.parametrize("reflection", [False, True])
def test_reflection_is_off_unless_asked_for(reflection: bool) -> None:
    with one_server(reflection=reflection) as server, grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = stub.ServerReflectionInfo(iter([request]), timeout=10)
        if not reflection:
            with pytest.raises(grpc.RpcError) as refused:
                next(answers)
            assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
            return
        names = {service.name for service in next(answers).list_services_response.service}
        assert {"pushpull.v1.Registrar", "pushpull.v1.Shard"} <= names


def test_a_shard_that_cannot_carry_out_an_order_ends_with_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would live on without a link, and everybody would wait for it."""

    def refuse(order: RegistrarOrder) -> None:
        raise MemoryError("no room for the plan")

    with cluster(2) as (first, second), grpc.insecure_channel(first.address) as channel:
        monkeypatch.setattr(second._engine, "on_order", refuse)
        joining = RegistrarStub(channel).Join.future(JoinRequest(worker_id=-1))
        with pytest.raises(MemoryError, match="no room for the plan"):
            second.wait()
        joining.cancel()


def test_a_reading_that_fails_ends_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_descriptors(process: psutil.Process) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with one_server() as server:
        known = server._engine.status().memory_bytes
        monkeypatch.setattr(psutil.Process, "memory_info", out_of_descriptors)
        assert server._engine.status().memory_bytes >= known > 0
        monkeypatch.setattr(server._engine, "beat", lambda: out_of_descriptors(psutil.Process()))
        assert not server._stopped.wait(3 * BEAT_SECONDS)
        worker = RawWorker(server.address).start()
        worker.activate()
        worker.train(1.0)
        worker.leave()


def test_a_server_may_open_as_many_files_as_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
        assert raise_descriptor_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_room_for_connections_leaves_descriptors_for_everything_else() -> None:
    config = ServerConfig(shard=0, num_shards=1, job=JobSettings(), max_workers=100)
    assert most_connections(config, most_descriptors=1 << 20) == 2448
    assert most_connections(config, most_descriptors=1024) == 768
