"""Calls that say nothing, say too much, or are too many: others are served all the same."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_worker import RawWorker, cluster
from structlog.testing import capture_logs

from pushpull.protos.common_pb2 import Plan
from pushpull.protos.errors import BadRequestError, BusyError, error_of_call
from pushpull.protos.payloads import PADDING_FIELD, join_payload
from pushpull.protos.registrar_pb2 import (
    EnrolRequest,
    HeartbeatRequest,
    JobStatusRequest,
    ShardReport,
    StepStaged,
    WorkerReport,
)
from pushpull.protos.registrar_pb2_grpc import RegistrarStub
from pushpull.protos.shard_pb2 import Commit, WorkerMessage
from pushpull.protos.transport import MOST_REQUEST_BYTES, dial
from pushpull.ps_server.calls import HEALTH, MOST_PLAN_BYTES, MOST_REPORT_BYTES, REGISTRAR, SHARD
from pushpull.ps_server.envelope import MOST_QUESTION_BYTES
from pushpull.ps_server.reading import Reader
from pushpull.ps_server.server import Server
from pushpull.ps_server.silent_call_log import Seldom
from pushpull.ps_server.silent_calls import SilentCalls
from pushpull.worker.registrar_client import TRANSIENT_STATUSES
from pushpull.worker.retry import Patience

EVERY_METHOD = [
    *(f"/pushpull.v1.Registrar/{name}" for name in REGISTRAR),
    *(f"/pushpull.v1.Shard/{name}" for name in SHARD),
    *(f"/grpc.health.v1.Health/{name}" for name in HEALTH),
]
ONE_OF_EACH_DOOR = [
    *("/pushpull.v1.Shard/Exchange", "/pushpull.v1.Registrar/Link", "/pushpull.v1.Registrar/Join"),
    *("/pushpull.v1.Registrar/Heartbeat", "/pushpull.v1.Registrar/Status"),
    *("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"),
]
MANY = 200
"""More silent calls of one kind than there are threads behind any door."""


@pytest.fixture
def server() -> Iterator[Server]:
    with cluster(1) as (server,):
        yield server


def silence(until: threading.Event) -> Iterator[bytes]:
    """No message, and no end before that."""
    until.wait()
    yield from ()


class Silent:
    """Calls that are opened and never say anything, over as many connections as it takes."""

    def __init__(self, address: str, method: str, num_calls: int) -> None:
        self._channels = [dial(address) for _ in range(1 + num_calls // 10)]
        self._never = threading.Event()
        self.calls = [
            self._channels[index % len(self._channels)].stream_stream(method)(silence(self._never))
            for index in range(num_calls)
        ]

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *exception: object) -> None:
        self._never.set()
        for channel in self._channels:
            channel.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def patiently(method: Callable[..., object], request: object) -> None:
    """As all our clients ask: a call that was cut off or found no room is made again."""
    patience = Patience(5.0)
    while True:
        try:
            method(request, timeout=5)
            return
        except grpc.RpcError as failure:
            delay = patience.delay_after_failure(time.monotonic())
            if delay is None or failure.code() not in TRANSIENT_STATUSES:
                raise
            time.sleep(delay)


def served(address: str) -> None:
    """Every kind of call that a job lives by is answered."""
    with dial(address) as channel:
        patiently(health_pb2_grpc.HealthStub(channel).Check, health_pb2.HealthCheckRequest())
        patiently(RegistrarStub(channel).Status, JobStatusRequest())
    worker = RawWorker(address).start()
    worker.activate()
    worker.heartbeat()
    worker.train(1.0)
    worker.leave()


@pytest.mark.parametrize("method", ONE_OF_EACH_DOOR)
def test_calls_that_say_nothing_keep_nobody_from_being_served(server: Server, method: str) -> None:
    with Silent(server.address, method, MANY):
        served(server.address)


def test_who_says_nothing_for_too_long_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for door in server._doors._doors.values():
        monkeypatch.setattr(door._silent, "_patience_seconds", 0.1)
    with Silent(server.address, "/pushpull.v1.Shard/Exchange", 1) as silent, pytest.raises(grpc.RpcError) as ended:
        next(silent.calls[0])
    assert ended.value.code() == grpc.StatusCode.CANCELLED


def test_a_stream_that_has_spoken_may_be_silent_as_long_as_it_likes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for door in server._doors._doors.values():
        monkeypatch.setattr(door._silent, "_patience_seconds", 0.05)
    worker = RawWorker(server.address).start()
    time.sleep(1.2)  # two sweeps
    worker.activate()
    worker.train(1.0)
    worker.leave()


def test_one_call_too_many_is_told_to_ask_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server._doors._doors["status"], "_most_waiting", 0)
    with dial(server.address) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            RegistrarStub(channel).Status(JobStatusRequest(), timeout=5)
        assert isinstance(error_of_call(refused.value), BusyError)
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status


def test_a_report_beyond_its_bytes_is_refused_and_others_go_on(server: Server) -> None:
    report = WorkerReport(metrics={f"name {index}": 1.0 for index in range(MOST_REPORT_BYTES // 10)})
    worker = RawWorker(server.address).start()
    request = HeartbeatRequest(worker_id=worker.id, incarnation=worker.incarnation, report=report)
    with pytest.raises(grpc.RpcError) as refused:
        worker.registrar.Heartbeat(request, timeout=5)
    error = error_of_call(refused.value)
    assert isinstance(error, BadRequestError)
    assert str(MOST_REPORT_BYTES) in str(error)
    served(server.address)


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_bytes_that_are_no_message_are_refused_with_a_sentence(server: Server, method: str) -> None:
    with dial(server.address) as channel, pytest.raises(grpc.RpcError) as refused:
        next(channel.stream_stream(method)(iter([b"\xff" * 9]), timeout=5))
    assert isinstance(error_of_call(refused.value), BadRequestError)
    assert "cannot be read" in str(error_of_call(refused.value))


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_not_taken(server: Server, compression: grpc.Compression) -> None:
    with dial(server.address) as channel:
        beat = channel.unary_unary("/pushpull.v1.Registrar/Heartbeat")
        with pytest.raises(grpc.RpcError) as refused:
            beat(bytes(8 << 20), timeout=5, compression=compression)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_connections_that_never_speak_http_2_end_nothing(server: Server) -> None:
    host, _, port = server.address.rpartition(":")
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection((host, int(port))))
        served(server.address)


def told_of_silence(lines: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    return [line for line in lines if line["event"] in ("call said nothing", "call refused")]


@pytest.mark.parametrize("method", EVERY_METHOD)
@pytest.mark.parametrize("ends", ["deadline", "cancel", "half-close"])
def test_a_call_that_ends_without_a_word_is_named_as_what_it_is_once(server: Server, method: str, ends: str) -> None:
    with dial(server.address) as channel, capture_logs() as lines:
        for _ in range(3):
            never = threading.Event()
            messages = iter(()) if ends == "half-close" else silence(never)
            call = channel.stream_stream(method)(messages, timeout=0.3 if ends == "deadline" else 20)
            if ends == "cancel":
                threading.Timer(0.2, call.cancel).start()
            with pytest.raises(grpc.RpcError) as ended:
                next(call)
            if ends == "half-close":
                assert "without a message" in str(error_of_call(ended.value))
            never.set()
        counted = server._metrics.silent_calls._value
        wait_until(lambda: counted.get() == 3)
        wait_until(lambda: bool(told_of_silence(lines)))
    (line,) = told_of_silence(lines)
    assert (line["event"], line["method"]) == ("call said nothing", method.rpartition("/")[2])
    assert str(line["peer"]).startswith("ipv4:127.0.0.1:")
    assert line["ended"] == "by its caller"


def test_a_call_that_is_cut_off_is_told_with_its_address(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for door in server._doors._doors.values():
        monkeypatch.setattr(door._silent, "_patience_seconds", 0.1)
    with capture_logs() as lines, Silent(server.address, "/pushpull.v1.Registrar/Link", 2) as silent:
        for call in silent.calls:
            with pytest.raises(grpc.RpcError):
                next(call)
        wait_until(lambda: bool(told_of_silence(lines)))
    (line,) = told_of_silence(lines)
    assert (line["method"], line["ended"]) == ("Link", "cut off here")
    assert str(line["peer"]).startswith("ipv4:127.0.0.1:")


def test_each_kind_is_worth_a_line_now_and_then() -> None:
    seldom = Seldom(60.0)
    assert [seldom.happened(float(now), "Join") for now in (0, 1, 59, 60, 61)] == [0, None, None, 2, None]
    assert seldom.happened(61.0, "Link") == 0


class TestSilentCalls:
    def test_the_oldest_makes_room(self) -> None:
        silent: SilentCalls[str] = SilentCalls(2, 10.0)
        assert silent.opened(0.0, "a") == []
        assert silent.opened(1.0, "b") == []
        assert silent.opened(2.0, "c") == ["a"]
        assert silent.make_room() == "b"
        assert len(silent) == 1

    def test_who_has_spoken_makes_no_room(self) -> None:
        silent: SilentCalls[str] = SilentCalls(2, 10.0)
        silent.opened(0.0, "a")
        assert silent.heard("a")
        assert not silent.heard("a")
        assert silent.make_room() is None
        assert silent.overdue(99.0) == []

    def test_each_has_the_same_time(self) -> None:
        silent: SilentCalls[str] = SilentCalls(9, 10.0)
        silent.opened(0.0, "a")
        silent.opened(5.0, "b")
        assert silent.overdue(10.0) == []
        assert silent.overdue(10.1) == ["a"]
        assert silent.overdue(15.1) == ["b"]


def test_a_message_is_measured_before_it_is_parsed() -> None:
    parsed: list[bytes] = []
    with pytest.raises(BadRequestError, match="at most 3"):
        Reader(parsed.append, most_bytes=3).read(b"1234")
    assert parsed == []


def of_empty(num_bytes: int, field: int, inner_field: int) -> bytes:
    """A message of one message, which is a list of empty ones: forty to eighty bytes in memory for each two here."""
    return join_payload(field, bytes([inner_field << 3 | 2, 0]) * (num_bytes // 2), PADDING_FIELD, memoryview(b""))


ENROL = {"field": EnrolRequest.PLAN_FIELD_NUMBER, "inner_field": Plan.BLOCKS_FIELD_NUMBER}
LINK = {"field": ShardReport.STAGED_FIELD_NUMBER, "inner_field": StepStaged.GROUPS_FIELD_NUMBER}
EXCHANGE = {"field": WorkerMessage.COMMIT_FIELD_NUMBER, "inner_field": Commit.GROUPS_FIELD_NUMBER}


@pytest.mark.parametrize(
    ("method", "num_bytes", "fields"),
    [
        ("/pushpull.v1.Registrar/Enrol", MOST_PLAN_BYTES - 99, ENROL),
        ("/pushpull.v1.Registrar/Link", MOST_REQUEST_BYTES - 99, LINK),
        ("/pushpull.v1.Shard/Exchange", MOST_REQUEST_BYTES - 99, EXCHANGE),
        ("/pushpull.v1.Shard/Exchange", MOST_QUESTION_BYTES - 99, EXCHANGE),
    ],
)
def test_a_message_that_would_become_large_is_refused_unread(
    server: Server, method: str, num_bytes: int, fields: dict[str, int]
) -> None:
    with dial(server.address) as channel, pytest.raises(grpc.RpcError) as refused:
        list(channel.stream_stream(method)(iter([of_empty(num_bytes, **fields)]), timeout=30))
    assert "too large" in str(error_of_call(refused.value))
