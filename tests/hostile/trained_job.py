"""Two real servers whose standard error nobody reads, a real worker that trains, and what is seen of them from outside."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pushpull.protos.registrar_pb2 import JobStatus, JobStatusRequest
from pushpull.protos.registrar_pb2_grpc import RegistrarStub
from pushpull.protos.transport import dial

ATTACKS = Path(__file__).with_name("attacks.py")
TRAINS = """
import time, torch
from pushpull.worker import connect

with connect() as worker:
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 4))
    optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.01)
    while True:
        model(torch.randn(8, 64)).square().mean().backward()
        time.sleep(0.03)  # what an accelerator would take: the processors are the servers'
        optimizer.step(num_samples=8)
        optimizer.zero_grad()
"""
"""No end: it is ended."""


@dataclass
class Seen:
    """From outside, over some seconds."""

    rate: float
    """Rounds a second."""
    health_seconds: float
    """The slowest answer of both servers' health."""
    memory_bytes: int
    """The largest resident set of a server."""


@dataclass
class TrainedJob:
    """The processes of one job."""

    servers: list[subprocess.Popen[str]]
    addresses: list[str]
    metrics: list[str]
    worker: subprocess.Popen[bytes]

    def status(self) -> JobStatus:
        with dial(self.addresses[0]) as channel:
            for _ in range(20):
                with suppress(grpc.RpcError):
                    return RegistrarStub(channel).Status(JobStatusRequest(), timeout=5)
                time.sleep(0.2)
        raise AssertionError("shard 0 does not say how the job is")

    def memory_bytes(self) -> int:
        return max(psutil.Process(server.pid).memory_info().rss for server in self.servers)

    def watch(self, seconds: float) -> Seen:
        """Looks for so long."""
        stop = threading.Event()
        slowest: list[float] = [0.0]
        asking = [threading.Thread(target=self._ask, args=(each, stop, slowest)) for each in self.addresses]
        before, begun = self.status().round, time.monotonic()
        for thread in asking:
            thread.start()
        memory_bytes = 0
        while time.monotonic() < begun + seconds:
            memory_bytes = max(memory_bytes, self.memory_bytes())
            time.sleep(0.1)
        after, ended = self.status().round, time.monotonic()
        stop.set()
        for thread in asking:
            thread.join()
        return Seen((after - before) / (ended - begun), slowest[0], memory_bytes)

    @contextmanager
    def attacked(self, name: str, seconds: float, least_num_times: int) -> Iterator[subprocess.Popen[str]]:
        """Shard 0 is, for so long, and until it was so often."""
        words = [name, self.addresses[0], self.metrics[0], str(seconds), str(least_num_times)]
        command = [sys.executable, str(ATTACKS), *words]
        attack = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert attack.stdout is not None
            assert attack.stdout.readline() == "begins\n"
            yield attack
        finally:
            attack.kill()
            attack.wait()

    @contextmanager
    def paused(self, attacker: "subprocess.Popen[str]") -> Iterator[None]:
        """Its connections stay."""
        attacker.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            attacker.send_signal(signal.SIGCONT)

    def _ask(self, address: str, stop: threading.Event, slowest: list[float]) -> None:
        while not stop.wait(0.1):
            begun = time.monotonic()
            try:
                with dial(address) as channel:
                    health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            except grpc.RpcError:
                slowest[0] = max(slowest[0], 10.0)
            slowest[0] = max(slowest[0], time.monotonic() - begun)


@contextmanager
def trained_job(folder: Path) -> Iterator[TrainedJob]:
    """Trains until the block is left."""
    processes: list[subprocess.Popen] = []  # type: ignore[type-arg]
    pushpull = [sys.executable, "-m", "pushpull.deploy.cli"]
    try:
        addresses: list[str] = []
        metrics: list[str] = []
        for shard in range(2):
            place = ["--num-shards", "2", "--shard", str(shard), "--listen", "127.0.0.1:0"]
            place += ["--registrar", addresses[0]] if shard else ["--set", "lease_seconds=10"]
            server = subprocess.Popen(
                [*pushpull, "server", *place], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            processes.append(server)
            assert server.stdout is not None
            found = re.search(r"serves at (\S+); metrics at (\S+)\.$", server.stdout.readline())
            assert found is not None
            addresses.append(found[1])
            metrics.append(found[2])
        script = folder / "script.py"
        script.write_text(TRAINS)
        worker = subprocess.Popen(
            [*pushpull, "worker", "--servers", ",".join(addresses), str(script)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        processes.append(worker)
        job = TrainedJob(processes[:2], addresses, metrics, worker)
        deadline = time.monotonic() + 60
        while job.status().round < 20:
            assert time.monotonic() < deadline, "nothing is trained"
            time.sleep(0.1)
        yield job
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()
