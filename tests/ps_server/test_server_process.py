"""What a server shows to the outside beside its own services: metrics, health, reflection."""

import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from raw_worker import RawWorker

from pushpull.protos.health import TRAINED
from pushpull.ps_server.config import JobSettings, ServerConfig
from pushpull.ps_server.server import Server


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


def test_metrics_after_a_few_steps() -> None:
    with one_server() as server:
        worker = RawWorker(server.address).start()
        worker.activate()
        for _ in range(3):
            worker.train(1.0)
        text = scrape(server)
        worker.leave()
    for line in (
        'pushpull_pushes_total{outcome="applied"} 3.0',
        "pushpull_pulls_total 4.0",
        "pushpull_push_seconds_count 3.0",
        "pushpull_version_staleness_count 3.0",
        "pushpull_optimizer_step_seconds_count 3.0",
        "pushpull_live_workers 1.0",
        "pushpull_rounds_closed 3.0",
        "pushpull_block_version_spread",
        "pushpull_lease_expiries 0.0",
        "process_resident_memory_bytes",
    ):
        assert line in text, f"{line} is missing"
    labels = set(re.findall(r"(\w+)=\"", text))
    assert labels <= {"outcome", "reason", "shard", "le"}, "a label whose values may grow"


def test_refusals_are_counted_by_reason() -> None:
    with one_server() as server:
        worker = RawWorker(server.address).start()
        worker.activate()
        frames = worker.frames(0, 1.0)
        frames.lengths[0] += 4
        worker.streams[0].send(frames=frames)
        worker.streams[0].send(commit=worker.commit_message(0, frames))
        worker.finish()
        assert 'pushpull_refusals_total{reason="BAD_FRAME"} 1.0' in scrape(server)
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
