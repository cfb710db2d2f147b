"""Whoever asks how a job stands, and whoever writes its log, keeps nobody waiting for the registrar's lock."""

import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any
from unittest.mock import MagicMock

import pytest
import structlog
from prometheus_client import CollectorRegistry

from pushpull.protos.registrar_pb2 import (
    HeartbeatRequest,
    JobStatusRequest,
    JoinRequest,
    LeaveRequest,
    RegistrarOrder,
    ShardReport,
    ViewInstalled,
    WorkerReport,
)
from pushpull.ps_server.config import JobSettings
from pushpull.ps_server.held_lines import MOST_HELD, HeldLines
from pushpull.ps_server.metrics import ServerMetrics
from pushpull.ps_server.registrar_service import RegistrarService

NO_TICK_SECONDS = 600.0
"""Nobody but the test takes the lock."""
LINES_OF_ONE_WORKER = 50
"""Of Python, at most, that a worker costs under the lock when somebody asks how the job stands."""


class Obedient:
    """A shard in this process that installs every view at once."""

    job = None

    def __init__(self, service: RegistrarService) -> None:
        self._service = service

    def on_order(self, order: RegistrarOrder) -> None:
        if order.WhichOneof("order") == "view":
            installed = ViewInstalled(number=order.view.number)
            self._service.take_report(0, ShardReport(view_installed=installed))


@pytest.fixture
def service() -> Iterator[RegistrarService]:
    metrics = ServerMetrics(CollectorRegistry(), 0)
    service = RegistrarService(JobSettings(lease_seconds=600), 1, "job", NO_TICK_SECONDS, metrics)
    service.start(Obedient(service), "a:1", 1)  # type: ignore[arg-type]
    yield service
    service.stop()


def join(service: RegistrarService, num_ranks: int = 1) -> tuple[int, int]:
    answer = service.Join(JoinRequest(worker_id=-1, num_ranks=num_ranks), MagicMock())
    return answer.worker_id, answer.incarnation


def say(service: RegistrarService, key: tuple[int, int], rank: int, report: WorkerReport) -> None:
    service.Heartbeat(HeartbeatRequest(worker_id=key[0], incarnation=key[1], rank=rank, report=report), MagicMock())


class Counted:
    """A lock that counts the lines of Python that run while it is held."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.num_lines = 0

    def __enter__(self) -> None:
        self._lock.__enter__()
        sys.settrace(self._trace)

    def __exit__(self, *error: Any) -> None:
        sys.settrace(None)
        self._lock.__exit__(*error)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        self.num_lines += event == "line"
        return self._trace


def cost_of_asking(service: RegistrarService, ask: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """Lines under the lock."""
    before = sys.gettrace()
    counted = Counted(service._held)
    with monkeypatch.context() as patched:
        patched.setattr(service, "_held", counted)
        try:
            ask()
        finally:
            sys.settrace(before)
    assert counted.num_lines > 0
    return counted.num_lines


@pytest.mark.parametrize("question", ["status", "scrape"])
def test_how_a_large_job_stands_is_put_into_words_without_the_lock(
    service: RegistrarService, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> None:
        if question == "status":
            service.Status(JobStatusRequest(), MagicMock())
        else:
            list(service._readings())

    say_much = WorkerReport(metrics={f"name {number}": 1.0 for number in range(100)})
    costs = {}
    keys = [join(service, num_ranks=8) for _ in range(4)]
    costs["few"] = cost_of_asking(service, ask, monkeypatch)
    for key in keys:
        for rank in range(8):
            say(service, key, rank, say_much)
    costs["that say much"] = cost_of_asking(service, ask, monkeypatch)
    for _ in range(60):
        join(service)
    costs["many"] = cost_of_asking(service, ask, monkeypatch)
    assert costs["that say much"] == costs["few"]
    assert costs["many"] - costs["few"] < 60 * LINES_OF_ONE_WORKER


def test_the_status_is_that_of_one_moment(service: RegistrarService) -> None:
    key = join(service)
    say(service, key, 0, WorkerReport(num_steps=3, metrics={"loss": 0.5}))
    status = service.Status(JobStatusRequest(), MagicMock())
    (worker,) = status.workers
    assert (worker.worker_id, worker.report.num_steps, worker.ranks[0].metrics["loss"]) == (key[0], 3, 0.5)
    assert (status.phase, status.job.job_id, list(status.job.shard_addresses)) == ("waiting", "job", ["a:1"])


def test_a_report_that_is_shown_is_not_written_in(service: RegistrarService) -> None:
    key = join(service)
    say(service, key, 0, WorkerReport(num_steps=3))
    (shown,) = service._registrar.roster.figures(0.0)
    say(service, key, 0, WorkerReport(num_steps=4))
    assert shown.report.num_steps == 3


def test_no_line_is_written_while_the_lock_is_held(service: RegistrarService) -> None:
    told: list[tuple[str, bool]] = []

    def write(logger: object, method: str, line: Any) -> Any:
        free = service._changed.acquire(blocking=False)
        if free:
            service._changed.release()
        told.append((line["event"], free))
        raise structlog.DropEvent

    configured = structlog.get_config()
    structlog.configure(processors=[write])
    try:
        for failure in ("", "disk full"):
            worker, incarnation = join(service)
            service.Leave(LeaveRequest(worker_id=worker, incarnation=incarnation, failure=failure), MagicMock())
        service.stop()
    finally:
        structlog.configure(**configured)
    events = [event for event, _ in told if event.startswith("worker")]
    assert events == ["worker joined", "worker left", "worker joined", "worker failed"]
    assert all(free for _, free in told)


class TestHeldLines:
    def test_lines_come_in_order_whoever_writes_them(self) -> None:
        lines, told, begun, go_on = HeldLines(), list[int](), threading.Event(), threading.Event()

        def slowly(number: int) -> None:
            begun.set()
            assert go_on.wait(10)
            told.append(number)

        lines.say(slowly, 1)
        writer = threading.Thread(target=lines.write)
        writer.start()
        assert begun.wait(10)
        lines.say(told.append, 2)
        lines.write()  # the other one is about it: this neither waits nor goes before it
        assert told == []
        go_on.set()
        writer.join(10)
        assert told == [1, 2]

    def test_what_nobody_writes_is_counted_beyond_a_bound(self) -> None:
        lines, told = HeldLines(), list[int]()
        for number in range(MOST_HELD + 5):
            lines.say(told.append, number)
        lines.write()
        with structlog.testing.capture_logs() as warned:
            lines.say(told.append, -1)
            lines.write()
        assert (len(told), told[-1]) == (MOST_HELD + 1, -1)
        assert [line["lines"] for line in warned] == [5]
