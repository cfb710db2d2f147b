"""A job whose servers and workers are containers on a network of their own, watched from outside."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from podman import Podman

from pushpull.deploy.status import StatusClient
from pushpull.protos.errors import ServerUnreachableError
from pushpull.protos.registrar_pb2 import JobStatus, WorkerStatus

NUM_SERVERS = 2
SERVERS = ",".join(f"server-{shard}:7077" for shard in range(NUM_SERVERS))
DIGITS = "/opt/pushpull/examples/digits.py"
FOR_EVER = "1000000000"

HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
DEADLINE_SECONDS = 120.0


class ContainerJob:
    """Two servers, and workers by id. Names of containers begin with the prefix of `podman`, or with `project`."""

    def __init__(self, podman: Podman, image: str) -> None:
        self.podman = podman
        self._image = image
        self.network = f"{podman.prefix}-network"
        podman("network", "create", self.network)

    def start_servers(self, *settings: str) -> None:
        """Starts both servers; `settings` are key=value."""
        sets = [word for setting in settings for word in ("--set", setting)]
        for shard in range(NUM_SERVERS):
            publish = ("-p", "127.0.0.1::7077") if shard == 0 else ()
            command = ("server", "--servers", SERVERS, "--shard", str(shard), *sets)
            self._start(f"server-{shard}", *publish, command=(*command, "--metrics-listen", "0.0.0.0:9477"))

    def start_worker(self, worker_id: int, *arguments: str) -> None:
        """Starts a worker that trains on digits."""
        command = ("worker", "--servers", SERVERS, "--id", str(worker_id), "--metrics-listen", "0.0.0.0:9477")
        options = ("--network-alias", "worker", "--no-healthcheck")
        self._start(f"worker-{worker_id}", *options, command=(*command, DIGITS, *arguments))

    def container(self, name: str) -> str:
        """The whole name of `server-0`, `worker-3`, ..."""
        return f"{self.podman.prefix}-{name}"

    def address(self, name: str) -> str:
        """Of a container on its network."""
        networks = self.podman.inspect(self.container(name))["NetworkSettings"]["Networks"]
        return str(networks[self.network]["IPAddress"])

    def published(self) -> str:
        """host:port of shard 0 outside the network."""
        return self.podman("port", self.container("server-0"), "7077/tcp")

    def limit(self, name: str, cpus: float) -> None:
        """From now on the container gets this share of a processor."""
        self.podman("update", "--cpus", str(cpus), self.container(name))

    def stop(self, name: str) -> tuple[int, float]:
        """SIGTERM, as an orchestrator sends it; (exit status, seconds until the end)."""
        started = time.time()
        self.podman("stop", "-t", "30", self.container(name))
        state = self.podman.inspect(self.container(name))["State"]
        return int(state["ExitCode"]), datetime.fromisoformat(state["FinishedAt"]).timestamp() - started

    def _start(self, name: str, *options: str, command: tuple[str, ...]) -> None:
        whole = self.container(name)
        place = ("--name", whole, "--network", self.network, "--network-alias", name)
        self.podman("run", "-d", *place, *HARDENED, "-e", "OMP_NUM_THREADS=1", *options, self._image, *command)


class Watch:
    """What a job says of itself at the published address of its shard 0."""

    def __init__(self, address: str, what_went_wrong: Callable[[], str]) -> None:
        """`what_went_wrong` is asked for what a test should show when something does not happen."""
        self.address = address
        self._what_went_wrong = what_went_wrong

    def status(self) -> JobStatus | None:
        """None while nobody answers."""
        with StatusClient(self.address) as client:
            try:
                return client.ask()
            except ServerUnreachableError:
                return None

    def workers(self) -> dict[int, WorkerStatus]:
        """By id."""
        status = self.status()
        return {} if status is None else {worker.worker_id: worker for worker in status.workers}

    def clock(self, worker_id: int) -> int:
        """0 for a worker that nobody has heard of."""
        worker = self.workers().get(worker_id)
        return 0 if worker is None else worker.clock

    def state(self, worker_id: int) -> str:
        worker = self.workers().get(worker_id)
        return "unknown" if worker is None else worker.state

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}\n{self._what_went_wrong()}"
            time.sleep(0.1)

    def wait_for_steps(self, worker_id: int, num_steps: int) -> None:
        """Until the worker has taken so many steps more."""
        wanted = self.clock(worker_id) + num_steps
        self.wait_until(lambda: self.clock(worker_id) >= wanted, f"{num_steps} more steps of worker {worker_id}")

    def steps_within(self, *worker_ids: int, num_steps: int) -> list[int]:
        """Steps of each of these workers while the first takes at least `num_steps`."""
        before = self.workers()
        self.wait_for_steps(worker_ids[0], num_steps)
        after = self.workers()
        return [after[worker_id].clock - before[worker_id].clock for worker_id in worker_ids]

    def ratios_of_steps(self, slow: int, *others: int) -> list[float]:
        """How many steps each of the others takes for one of the slow worker."""
        steps, *more = self.steps_within(slow, *others, num_steps=40)
        print(f"steps in the same time: {steps} of worker {slow}, {more} of the others")
        return [each / steps for each in more]


def about_four(ratios: list[float]) -> bool:
    """What a quarter of the processor makes of a worker's speed; a busy machine gives nobody his due."""
    most = 8.0 if os.getloadavg()[0] < 4 else 16.0
    return all(2.0 <= ratio <= most for ratio in ratios)


def accuracy_in(logs: str) -> float:
    """What digits.py says at its end."""
    found = re.search(r"accuracy on \d+ held-out images: ([0-9.]+)", logs)
    assert found is not None, logs
    print(found[0])
    return float(found[1])


def status_command(address: str) -> dict[str, Any]:
    """What `pushpull status --json` says on this machine, outside the containers."""
    command = [sys.executable, "-m", "pushpull.deploy.cli", "status", "--servers", address, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    status: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return status
