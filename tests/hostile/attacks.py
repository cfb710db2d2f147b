"""What a stranger with the port can do, one function each. Run as `attacks.py NAME SERVER METRICS SECONDS`, only against
servers of this machine: each opens a bounded number of connections, for a bounded time.
"""

import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc

from pushpull.protos.common_pb2 import Block, OptimizerSpecification, Parameter, Plan
from pushpull.protos.registrar_pb2 import (
    EnrolRequest,
    HeartbeatRequest,
    JobStatusRequest,
    JoinRequest,
    LeaveRequest,
    Role,
    WorkerReport,
)
from pushpull.protos.registrar_pb2_grpc import RegistrarStub
from pushpull.protos.shard_pb2 import Pull, WorkerMessage
from pushpull.protos.transport import dial

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
HEADERS, END_HEADERS = 1, 4
MOST_OBSERVERS = 8


class Target:
    """Whom to attack, and until when."""

    def __init__(self, server: str, metrics: str, seconds: float) -> None:
        self.server, self.metrics = server, metrics
        self._deadline = time.monotonic() + seconds

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self._deadline

    def connect(self, address: str) -> socket.socket:
        host, _, port = address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=5.0)


def idle_connections(target: Target) -> None:
    """2,000 at once: half of them speak HTTP/2 and call nothing, the others say nothing at all."""
    held = []
    while target.goes_on:
        while len(held) < 2_000 and target.goes_on:
            held.append(target.connect(target.server))
            if len(held) % 2:
                held[-1].sendall(PREFACE + SETTINGS)
        time.sleep(0.1)


def silent_streams(target: Target) -> None:
    """1,000 at once, of every kind of call, opened again as they are ended."""
    methods = ("Shard/Exchange", "Registrar/Link", "Registrar/Heartbeat", "Registrar/Join", "Registrar/Status")
    paths = [*(f"/pushpull.v1.{method}" for method in methods), "/grpc.health.v1.Health/Check"]
    while target.goes_on:
        held = []
        for _ in range(20):
            held.append(connection := target.connect(target.server))
            calls = (_headers(1 + 2 * number, random.choice(paths)) for number in range(50))
            connection.sendall(PREFACE + SETTINGS + b"".join(calls))
        until = time.monotonic() + 2.0
        while target.goes_on and time.monotonic() < until:
            time.sleep(0.1)
        for connection in held:
            connection.close()


def joins_and_leaves(target: Target) -> None:
    """5,000 of them, one behind the other."""
    with dial(target.server) as channel:
        registrar = RegistrarStub(channel)
        num_joins = 0
        while num_joins < 5_000 and target.goes_on:
            num_joins += 1
            with suppress(grpc.RpcError):
                joined = registrar.Join(_join(), timeout=10)
                registrar.Leave(LeaveRequest(worker_id=joined.worker_id, incarnation=joined.incarnation), timeout=10)
    print(num_joins, "joins")


def large_reports(target: Target) -> None:
    """Heartbeats of 63 MiB, and of as much as is taken, twelve at once."""
    names = {f"name {number}": 1.0 for number in range(4_000)}
    fitting = HeartbeatRequest(report=WorkerReport(metrics=names)).SerializeToString()
    _at_once(
        12, target, lambda stub: stub("/pushpull.v1.Registrar/Heartbeat", random.choice([bytes(63 << 20), fitting]))
    )


def gzip_bombs(target: Target) -> None:
    """Zeros, a thousand times smaller on the wire, twelve at once."""
    bomb = bytes(60 << 20)
    options = {"compression": grpc.Compression.Gzip}
    _at_once(12, target, lambda stub: stub("/pushpull.v1.Registrar/Heartbeat", bomb, **options))


def plans_with_many_blocks(target: Target) -> None:
    """400,000 blocks, which are too many bytes, and as many as are taken."""
    plans = []
    for num_blocks in (400_000, 150_000):
        plan = Plan(num_shards=2, block_elements=1, fingerprint="x")
        plan.parameters.append(Parameter(name="p", shape=[num_blocks], trainable=True))
        plan.blocks.extend(Block(offsets=[number], sizes=[1], shard=number % 2) for number in range(num_blocks))
        plans.append(plan)
    optimizer = OptimizerSpecification(name="SGD")
    with dial(target.server) as channel:
        registrar = RegistrarStub(channel)
        joined = registrar.Join(_join(), timeout=10)
        while target.goes_on:
            for plan in plans:
                request = EnrolRequest(
                    worker_id=joined.worker_id, incarnation=joined.incarnation, plan=plan, optimizer=optimizer
                )
                with suppress(grpc.RpcError):
                    registrar.Enrol(request, timeout=20)
            time.sleep(0.2)
        registrar.Leave(LeaveRequest(worker_id=joined.worker_id, incarnation=joined.incarnation), timeout=10)


def slow_reader(target: Target) -> None:
    """A worker that has joined with the job's model, asks for it 200,000 times and reads nothing."""
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
            while target.goes_on and num_sent < 200_000:
                num_sent += 1
                yield WorkerMessage(pull=Pull(request=num_sent)).SerializeToString()
            while target.goes_on:
                time.sleep(0.1)

        while target.goes_on:
            with dial(target.server) as channel:
                call = channel.stream_stream("/pushpull.v1.Shard/Exchange")(pulls())
                while target.goes_on and call.is_active():
                    time.sleep(0.1)
        print(num_sent, "pulls")


def garbage(target: Target) -> None:
    """Bytes that are no HTTP, no message, and no frame."""
    with dial(target.server) as channel:
        exchange = channel.stream_stream("/pushpull.v1.Shard/Exchange")
        while target.goes_on:
            with target.connect(target.server) as connection, suppress(OSError):
                connection.sendall(random.randbytes(random.randrange(1, 5_000)))
            with suppress(grpc.RpcError):
                list(exchange(iter([random.randbytes(100)]), timeout=5))
            time.sleep(0.002)


def questions(target: Target) -> None:
    """Status again and again, and scrapes that are never read."""
    held = []
    while len(held) < 100:
        held.append(target.connect(target.metrics))
        held[-1].sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    _at_once(4, target, lambda stub: stub("/pushpull.v1.Registrar/Status", JobStatusRequest().SerializeToString()))


ATTACKS: dict[str, Callable[[Target], None]] = {
    attack.__name__: attack
    for attack in (
        *(idle_connections, silent_streams, joins_and_leaves, large_reports, gzip_bombs, plans_with_many_blocks),
        *(slow_reader, garbage, questions),
    )
}


def _join() -> JoinRequest:
    return JoinRequest(worker_id=-1, role=Role.ROLE_OBSERVER, host="stranger", nonce=random.getrandbits(63))


def _at_once(num_threads: int, target: Target, call: Callable[[Callable[..., object]], object]) -> None:
    def repeat(_: int) -> None:
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        while target.goes_on:
            with grpc.insecure_channel(target.server, options=options) as channel, suppress(grpc.RpcError):
                call(lambda method, data, **how: channel.unary_unary(method)(data, timeout=10, **how))
            time.sleep(0.02)

    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(repeat, range(num_threads)))


def _headers(stream: int, path: str) -> bytes:
    """The HTTP/2 frame that begins a gRPC call, and nothing of its message."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
    fields |= {"te": "trailers", "content-type": "application/grpc"}
    block = b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields.items()
    )
    return len(block).to_bytes(3, "big") + bytes([HEADERS, END_HEADERS]) + stream.to_bytes(4, "big") + block


if __name__ == "__main__":
    print("begins", flush=True)
    os.nice(19)  # what is measured is what servers do with it, not who gets the processor
    ATTACKS[sys.argv[1]](Target(sys.argv[2], sys.argv[3], float(sys.argv[4])))
