"""Clusters of real servers and real workers: in threads of this process for speed, or as processes of `pushpull launch`."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc

from pushpull.protos.registrar_pb2 import JobStatus, JobStatusRequest
from pushpull.protos.registrar_pb2_grpc import RegistrarStub
from pushpull.ps_server.config import JobSettings, ServerConfig
from pushpull.ps_server.server import Server
from pushpull.ps_server.step_observer import StepObserver
from pushpull.worker import Worker, connect

ROOT = Path(__file__).resolve().parents[2]

Body = Callable[[Worker], Any]


class Cluster:
    """Servers in this process, on free ports."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = servers

    @property
    def addresses(self) -> list[str]:
        return [server.address for server in self.servers]

    def status(self) -> JobStatus:
        """The registrar's, with every shard's figures of this moment."""
        with grpc.insecure_channel(self.addresses[0]) as channel:
            status: JobStatus = RegistrarStub(channel).Status(JobStatusRequest())
        del status.shards[:]
        status.shards.extend(server._engine.status() for server in self.servers)
        return status

    def train(self, *bodies: Body) -> list[Any]:
        """Runs one worker thread for each body; what they return. The first error of any is raised."""
        results: list[Any] = [None] * len(bodies)
        errors: list[BaseException] = []

        def run(number: int, body: Body) -> None:
            try:
                with connect(self.addresses, number) as worker:
                    results[number] = body(worker)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(bodies)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
            assert not thread.is_alive(), "a worker hangs"
        if errors:
            raise errors[0]
        return results


@contextmanager
def local_cluster(
    num_shards: int = 2,
    *,
    observers: Sequence[StepObserver | None] = (),
    init: Path | None = None,
    **settings: Any,
) -> Iterator[Cluster]:
    """Starts servers for a job with these settings; `observers` of their steps, by shard; `init` has their first values."""
    with ExitStack() as stack:
        servers: list[Server] = []
        job = JobSettings(**{"lease_seconds": 20.0, "server_patience_seconds": 20.0, **settings})
        for shard in range(num_shards):
            server = Server(
                ServerConfig(
                    shard=shard,
                    num_shards=num_shards,
                    job=job if shard == 0 else None,
                    registrar=servers[0].address if shard else None,
                    init=None if init is None else str(init),
                    metrics_listen=None,
                    num_apply_threads=1,
                ),
                observers[shard] if observers else None,
            )
            server.start()
            stack.callback(server.stop, 0.1)
            servers.append(server)
        yield Cluster(servers)


def launch_command(
    script: Path, *arguments: str, workers: int = 2, settings: Sequence[str] = (), options: Sequence[str] = ()
) -> list[str]:
    """The command line of a cluster of processes on this machine."""
    sets = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "pushpull.deploy.cli", "launch", "--json", "--servers", "2"]
    return [*command, "--workers", str(workers), *options, *sets, str(script), *arguments]


def launch(
    script: Path,
    *arguments: str,
    workers: int = 2,
    settings: Sequence[str] = (),
    options: Sequence[str] = (),
    timeout_seconds: float = 110,
) -> dict[str, Any]:
    """Runs a cluster of processes to its end; the summary object."""
    done = subprocess.run(
        launch_command(script, *arguments, workers=workers, settings=settings, options=options),
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
    )
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary
