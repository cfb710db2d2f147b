"""A registrar whose process is gone: whoever has joined learns it within seconds, wherever it stands; who has not, waits."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from pushpull.protos import absence
from pushpull.protos.common_pb2 import JobSpecification, OptimizerSpecification, Plan
from pushpull.protos.errors import PushpullError, ServerLostError, ServerUnreachableError
from pushpull.protos.registrar_pb2 import DealRequest, JoinResponse, WorkerReport
from pushpull.worker.heartbeat import Heartbeat
from pushpull.worker.registrar_client import RegistrarClient


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence, "GONE_SECONDS", 0.3)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that refuses connections, also of others who look for a free port."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def joined(nobody: str) -> Iterator[RegistrarClient]:
    """A worker whose registrar has died since it joined; its patience is that of a job."""
    registrar = RegistrarClient(nobody, patience_seconds=60.0, patience_setting="patience")
    registrar.speak_for(JoinResponse(worker_id=3, incarnation=7))
    registrar.follow(JobSpecification(server_patience_seconds=600.0, lease_seconds=0.3))
    yield registrar
    registrar.close()


CALLS: dict[str, Callable[[RegistrarClient], object]] = {
    "before the servers are initialised": lambda registrar: registrar.enrol(Plan(), OptimizerSpecification()),
    "before the first step": lambda registrar: registrar.activate(0),
    "at pause()": lambda registrar: registrar.pause(),
    "in a loop over data": lambda registrar: registrar.deal(DealRequest()),
    "joining again": lambda registrar: registrar.join(3),
}


@pytest.mark.parametrize("where", CALLS)
def test_a_call_ends_in_spite_of_patience(joined: RegistrarClient, where: str) -> None:
    with pytest.raises(ServerLostError, match=r"shard 0, the registrar, is gone \(nobody listens at"):
        CALLS[where](joined)


def test_a_heartbeat_tells_who_calls_nothing(joined: RegistrarClient) -> None:
    told: list[PushpullError] = []
    ended = threading.Event()

    def on_end(error: PushpullError) -> None:
        told.append(error)
        ended.set()

    heartbeat = Heartbeat(joined, 0.3, WorkerReport, on_end, lambda unlike: None)
    heartbeat.start()
    assert ended.wait(20.0)
    heartbeat.stop()
    assert [type(error) for error in told] == [ServerLostError]


def test_who_never_found_it_waits_as_long_as_it_was_told_to(nobody: str) -> None:
    registrar = RegistrarClient(nobody, patience_seconds=1.0, patience_setting="patience_seconds")
    with pytest.raises(ServerUnreachableError, match="raise patience_seconds"):
        registrar.join(-1)
    registrar.close()
