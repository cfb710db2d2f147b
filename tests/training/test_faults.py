"""Deaths: of a worker, of a server, and a worker that comes late. Real processes, killed with SIGKILL."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from clusters import launch_command

from pushpull.protos.registrar_pb2 import JobStatus, JobStatusRequest
from pushpull.protos.registrar_pb2_grpc import RegistrarStub

LEASE_SECONDS = 3.0
DEADLINE_SECONDS = 60.0

SCRIPT = """
import sys, time, torch
from pushpull.worker import connect

num_steps, pause = int(sys.argv[1]), float(sys.argv[2])
torch.manual_seed(0)
model = torch.nn.Linear(32, 8)
with connect() as worker:
    optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.01)
    if not worker.clock:
        assert model.weight.abs().sum() > 0
    print("clock", worker.clock, flush=True)
    for step in range(num_steps):
        model(torch.ones(4, 32)).square().mean().backward()
        optimizer.step(num_samples=4)
        optimizer.zero_grad()
        worker.log(loss=float(step))
        time.sleep(pause)
"""


class Run:
    """A launched cluster that is watched while it runs."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self._errors = errors

    @property
    def said(self) -> str:
        return self._errors.read_text(encoding="utf-8")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, f"{what} did not happen: {self.said}"
            time.sleep(0.05)

    @property
    def registrar(self) -> str:
        self.wait(lambda: "--servers " in self.said, "servers")
        return self.said.split("--servers ")[1].split()[0].split(",")[0]

    def status(self) -> JobStatus:
        with grpc.insecure_channel(self.registrar) as channel:
            status: JobStatus = RegistrarStub(channel).Status(JobStatusRequest(), timeout=10)
            return status

    def wait_for_steps(self, num_steps: int) -> None:
        """Of every worker that is active."""

        def far_enough() -> bool:
            workers = self.status().workers
            return len(workers) >= 2 and all(worker.report.num_steps >= num_steps for worker in workers)

        self.wait(far_enough, f"{num_steps} steps")

    def child(self, *words: str) -> psutil.Process:
        """The process below the launcher with these words in its command line."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            line = process.cmdline()
            if all(word in line for word in words):
                return process
        raise AssertionError(f"no process with {words}")

    def finish(self) -> tuple[int, dict[str, Any]]:
        output, _ = self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode, json.loads(output.splitlines()[-1])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    runs: list[Run] = []

    def begin(num_steps: int, pause: float, mode: str) -> Run:
        errors = tmp_path / "errors.txt"
        settings = (f"mode={mode}", f"lease_seconds={LEASE_SECONDS}")
        with errors.open("w") as stream:
            process = subprocess.Popen(
                launch_command(script, str(num_steps), str(pause), settings=settings),
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )
        runs.append(Run(process, errors))
        return runs[-1]

    yield begin
    for run in runs:
        with ending(run.process):
            pass


@contextmanager
def ending(process: "subprocess.Popen[str]") -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


@pytest.mark.parametrize("mode", ["sync", "bounded:2", "async"])
def test_a_killed_worker_is_counted_and_the_others_finish(start: Callable[..., Run], mode: str) -> None:
    pause = 0.05
    run = start(300, pause, mode)
    run.wait_for_steps(20)
    run.child("worker", "--id", "1").kill()
    status, summary = run.finish()
    assert status == 0
    assert summary["failures"] == 1
    assert {worker["id"]: worker["steps"] for worker in summary["workers"]}[0] == 300
    if mode == "sync":
        ordinary = 4 * pause  # sleep, compute and exchange on a busy machine
        assert summary["longest_round_gap_seconds"] <= LEASE_SECONDS + 1 + 2 * ordinary


@pytest.mark.parametrize("shard", [0, 1])
def test_a_killed_server_ends_the_run_at_once_and_is_named(start: Callable[..., Run], shard: int) -> None:
    run = start(100_000, 0.01, "sync")
    run.wait_for_steps(5)
    address = run.status().shards[shard].address
    run.child("server", "--shard", str(shard)).kill()
    killed = time.monotonic()
    status, summary = run.finish()
    assert time.monotonic() - killed < 15
    assert status != 0
    assert not summary["success"]
    assert f"Shard {shard} at" in summary["error"]
    assert address in summary["error"]


def test_a_server_that_is_told_to_end_ends_the_run_with_its_message(start: Callable[..., Run]) -> None:
    run = start(100_000, 0.01, "sync")
    run.wait_for_steps(5)
    address = run.status().shards[1].address
    run.child("server", "--shard", "1").terminate()
    told = time.monotonic()
    status, summary = run.finish()
    assert time.monotonic() - told < 15
    assert status == 1
    assert summary["error"].startswith(f"Shard 1 at {address} is shutting down")


def test_a_late_worker_starts_from_the_servers_state_and_holds_nobody_up(
    start: Callable[..., Run], tmp_path: Path
) -> None:
    run = start(300, 0.03, "sync")
    run.wait_for_steps(20)
    script = tmp_path / "script.py"
    late = subprocess.run(
        [*launch_command(script)[:3], "worker", "--servers", run.registrar, str(script), "10", "0.0"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert late.returncode == 0, late.stderr
    assert int(late.stdout.split("clock ")[1].split()[0]) >= 20
    status, summary = run.finish()
    assert status == 0
    assert summary["failures"] == 0
    assert {worker["id"]: worker["steps"] for worker in summary["workers"]} == {0: 300, 1: 300, 2: 10}
    assert summary["longest_round_gap_seconds"] < 1.5
