"""What a stranger with the port can do, one function each, which returns how often it did. Run as `attacks.py NAME SERVER
METRICS SECONDS LEAST`, only against servers of this machine: each opens a bounded number of connections, for so long and
until it did it so often, but not for ever.
"""

import gzip
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc

from pushpull.protos.common_pb2 import Block, OptimizerSpecification, Parameter, Plan
from pushpull.protos.payloads import PADDING_FIELD, join_payload
from pushpull.protos.registrar_pb2 import (
    EnrolRequest,
    HeartbeatRequest,
    JobStatusRequest,
    JoinRequest,
    LeaveRequest,
    Role,
    ShardReport,
    StepStaged,
    WorkerReport,
)
from pushpull.protos.registrar_pb2_grpc import RegistrarStub
from pushpull.protos.shard_pb2 import Commit, Pull, WorkerMessage
from pushpull.protos.transport import dial

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
DATA, HEADERS, RESET, GO_AWAY = 0, 1, 3, 7
END_HEADERS = 4
LARGEST_FRAME, FIRST_WINDOW = 1 << 14, (1 << 16) - 1
"""Bytes of a frame, and of a call, that any server takes."""
MOST_SECONDS = 120.0


class Target:
    """Whom to attack, and until when."""

    def __init__(self, server: str, metrics: str, seconds: float, least_num_times: int) -> None:
        self.server, self.metrics = server, metrics
        self._begun, self._seconds, self._least_num_times = time.monotonic(), seconds, least_num_times

    def goes_on(self, num_times: int) -> bool:
        seconds = time.monotonic() - self._begun
        return seconds < (self._seconds if num_times >= self._least_num_times else MOST_SECONDS)

    def connect(self, address: str) -> socket.socket:
        host, _, port = address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=5.0)


def idle_connections(target: Target) -> int:
    """2,000 at once: half of them speak HTTP/2 and call nothing, the others say nothing at all."""
    held = []
    while target.goes_on(len(held)):
        while len(held) < 2_000 and target.goes_on(len(held)):
            held.append(target.connect(target.server))
            if len(held) % 2:
                held[-1].sendall(PREFACE + SETTINGS)
        time.sleep(0.1)
    return len(held)


def silent_streams(target: Target) -> int:
    """1,000 at once, of every kind of call, as many on a connection as servers take, opened again as they are ended."""
    methods = ("Shard/Exchange", "Registrar/Link", "Registrar/Heartbeat", "Registrar/Join", "Registrar/Status")
    paths = [*(f"/pushpull.v1.{method}" for method in methods), "/grpc.health.v1.Health/Check"]
    num_calls = 0
    while target.goes_on(num_calls):
        held = []
        for _ in range(63):
            held.append(connection := target.connect(target.server))
            calls = [_headers(1 + 2 * number, random.choice(paths)) for number in range(16)]
            connection.sendall(PREFACE + SETTINGS + b"".join(calls))
            num_calls += len(calls)
        until = time.monotonic() + 2.0
        while target.goes_on(num_calls) and time.monotonic() < until:
            time.sleep(0.1)
        for connection in held:
            connection.close()
    return num_calls


def joins_and_leaves(target: Target) -> int:
    """One behind the other."""
    num_joins = 0
    with dial(target.server) as channel:
        registrar = RegistrarStub(channel)
        while target.goes_on(num_joins):
            with suppress(grpc.RpcError):
                joined = registrar.Join(_join(), timeout=10)
                num_joins += 1
                registrar.Leave(LeaveRequest(worker_id=joined.worker_id, incarnation=joined.incarnation), timeout=10)
    return num_joins


def large_reports(target: Target) -> int:
    """Heartbeats of 63 MiB, as they begin, and of as much as is taken, twelve at once."""
    names = {f"name {number}": 1.0 for number in range(4_000)}
    fitting = HeartbeatRequest(report=WorkerReport(metrics=names)).SerializeToString()
    large = struct.pack(">BI", 0, 63 << 20) + bytes(FIRST_WINDOW - 5)
    attacks: list[Callable[[], object]] = [
        lambda: _call_by_hand(target, "/pushpull.v1.Registrar/Heartbeat", large),
        lambda: _call(target, "/pushpull.v1.Registrar/Heartbeat", fitting),
    ]
    return _at_once(12, target, lambda: random.choice(attacks)(), pause_seconds=0.2)


def gzip_bombs(target: Target) -> int:
    """60 MiB of zeros, a thousand times smaller on the wire, twelve at once."""
    zeros = gzip.compress(bytes(60 << 20))
    bomb = struct.pack(">BI", 1, len(zeros)) + zeros
    assert len(bomb) < FIRST_WINDOW
    path = "/pushpull.v1.Registrar/Heartbeat"
    return _at_once(12, target, lambda: _call_by_hand(target, path, bomb, "gzip"), pause_seconds=0.2)


def plans_with_many_blocks(target: Target) -> int:
    """400,000 blocks, which are too many bytes, and as many as are taken."""
    plans = []
    for num_blocks in (400_000, 150_000):
        plan = Plan(num_shards=2, block_elements=1, fingerprint="x")
        plan.parameters.append(Parameter(name="p", shape=[num_blocks], trainable=True))
        plan.blocks.extend(Block(offsets=[number], sizes=[1], shard=number % 2) for number in range(num_blocks))
        plans.append(plan)
    optimizer = OptimizerSpecification(name="SGD")
    num_plans = 0
    with dial(target.server) as channel:
        registrar = RegistrarStub(channel)
        joined = registrar.Join(_join(), timeout=10)
        while target.goes_on(num_plans):
            for plan in plans:
                request = EnrolRequest(
                    worker_id=joined.worker_id, incarnation=joined.incarnation, plan=plan, optimizer=optimizer
                )
                with suppress(grpc.RpcError):
                    registrar.Enrol(request, timeout=20)
                num_plans += 1
            time.sleep(0.2)
        registrar.Leave(LeaveRequest(worker_id=joined.worker_id, incarnation=joined.incarnation), timeout=10)
    return num_plans


def messages_of_many_parts(target: Target) -> int:
    """Each two bytes are an empty message, as many as doors take of a stranger, twelve at once."""
    groups = bytes([Commit.GROUPS_FIELD_NUMBER << 3 | 2, 0])
    staged = bytes([StepStaged.GROUPS_FIELD_NUMBER << 3 | 2, 0])
    blocks = bytes([Plan.BLOCKS_FIELD_NUMBER << 3 | 2, 0])
    nothing = memoryview(b"")
    exchange = join_payload(WorkerMessage.COMMIT_FIELD_NUMBER, groups * ((1 << 19) - 50), PADDING_FIELD, nothing)
    link = join_payload(ShardReport.STAGED_FIELD_NUMBER, staged * ((1 << 15) - 50), PADDING_FIELD, nothing)
    enrol = join_payload(EnrolRequest.PLAN_FIELD_NUMBER, blocks * ((2 << 20) - 50), PADDING_FIELD, nothing)
    calls = [
        ("/pushpull.v1.Shard/Exchange", exchange),
        ("/pushpull.v1.Registrar/Link", link),
        ("/pushpull.v1.Registrar/Enrol", enrol),
    ]
    # As fast as a network of 150 Mbit/s brings them: what a machine's memory can bring costs others half of their rate.
    return _at_once(12, target, lambda: _call(target, *random.choice(calls)), pause_seconds=1.0)


def slow_reader(target: Target) -> int:
    """A worker that has joined with the job's model, asks for it again and again and reads nothing."""
    import torch

    from pushpull.worker import connect

    with connect(servers=[target.server]) as worker:
        model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 4))
        worker.optimizer(model, torch.optim.SGD, lr=0.01)
        replica = worker._training.replica
        assert replica is not None
        hello = replica._shards.clients[0].target.hello
        num_sent = 0

        def pulls() -> Iterator[bytes]:
            nonlocal num_sent
            yield WorkerMessage(hello=hello).SerializeToString()
            while target.goes_on(num_sent):
                num_sent += 1
                yield WorkerMessage(pull=Pull(request=num_sent)).SerializeToString()

        while target.goes_on(num_sent):
            with dial(target.server) as channel:
                call = channel.stream_stream("/pushpull.v1.Shard/Exchange")(pulls())
                while target.goes_on(num_sent) and call.is_active():
                    time.sleep(0.1)
    return num_sent


def garbage(target: Target) -> int:
    """Bytes that are no HTTP, no message, and no frame."""
    num_times = 0
    with dial(target.server) as channel:
        exchange = channel.stream_stream("/pushpull.v1.Shard/Exchange")
        while target.goes_on(num_times):
            with target.connect(target.server) as connection, suppress(OSError):
                connection.sendall(random.randbytes(random.randrange(1, 5_000)))
            with suppress(grpc.RpcError):
                list(exchange(iter([random.randbytes(100)]), timeout=5))
            num_times += 1
            time.sleep(0.002)
    return num_times


def questions(target: Target) -> int:
    """Status again and again, and scrapes that are never read."""
    held = []
    while len(held) < 100:
        held.append(target.connect(target.metrics))
        held[-1].sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    question = JobStatusRequest().SerializeToString()
    return _at_once(4, target, lambda: _call(target, "/pushpull.v1.Registrar/Status", question), pause_seconds=0.02)


ATTACKS: dict[Callable[[Target], int], int] = {
    idle_connections: 2_000,
    silent_streams: 1_000,
    joins_and_leaves: 5_000,
    large_reports: 50,
    gzip_bombs: 50,
    plans_with_many_blocks: 50,
    messages_of_many_parts: 50,
    slow_reader: 200_000,
    garbage: 500,
    questions: 100,
}
"""And how often each must have happened, or it was no attack."""


def _join() -> JoinRequest:
    return JoinRequest(worker_id=-1, role=Role.ROLE_OBSERVER, host="stranger", nonce=random.getrandbits(63))


def _at_once(num_threads: int, target: Target, attack: Callable[[], object], pause_seconds: float) -> int:
    """Each thread again and again, with pauses: so many strangers."""

    def repeat(_: int) -> int:
        num_calls = 0
        while target.goes_on(num_calls * num_threads):
            attack()
            num_calls += 1
            time.sleep(pause_seconds)
        return num_calls

    with ThreadPoolExecutor(num_threads) as pool:
        return sum(pool.map(repeat, range(num_threads)))


def _call(target: Target, path: str, message: bytes) -> None:
    """By gRPC, on a connection of its own."""
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target.server, options=options) as channel, suppress(grpc.RpcError):
        channel.unary_unary(path)(message, timeout=10)


def _call_by_hand(target: Target, path: str, message: bytes, encoding: str = "identity") -> None:
    """What gRPC would work on for long before it sends it. `message` is no larger than the window that a server opens with.

    Returns once the server has answered, or has hung up.
    """
    frames = [message[first : first + LARGEST_FRAME] for first in range(0, len(message), LARGEST_FRAME)]
    data = b"".join(_frame(DATA, 0, 1, part) for part in frames)
    with target.connect(target.server) as connection, suppress(OSError):
        connection.sendall(PREFACE + SETTINGS + _headers(1, path, encoding) + data)
        with connection.makefile("rb") as answers:
            while header := answers.read(9):
                size, kind = int.from_bytes(header[:3], "big"), header[3]
                if kind in (HEADERS, RESET, GO_AWAY):
                    return
                answers.read(size)


def _headers(stream: int, path: str, encoding: str = "identity") -> bytes:
    """The HTTP/2 frame that begins a gRPC call, and nothing of its message."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
    fields |= {"te": "trailers", "content-type": "application/grpc", "grpc-encoding": encoding}
    block = b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields.items()
    )
    return _frame(HEADERS, END_HEADERS, stream, block)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


if __name__ == "__main__":
    print("begins", flush=True)
    os.nice(19)  # what is measured is what servers do with it, not who gets the processor
    (attack,) = (each for each in ATTACKS if each.__name__ == sys.argv[1])
    print(attack(Target(sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5]))), flush=True)
