"""Servers and workers as containers: unlike processors, a worker that dies, one that comes, all watched from outside."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_job import FOR_EVER, NUM_SERVERS, ContainerJob, Watch, about_four, accuracy_in, status_command
from expressions import Facts, check_expressions
from podman import Podman
from prometheus_server import prometheus

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

FAST, SLOW = 0.32, 0.08
"""Shares of a processor."""
LEASE_SECONDS = 5
END_SECONDS = 12.0
"""From SIGTERM to the end of a process."""


@pytest.fixture
def job(podman: Podman, image: str) -> Iterator[ContainerJob]:
    yield ContainerJob(podman, image)
    podman.clean()


def watch(job: ContainerJob) -> Watch:
    names = [f"server-{shard}" for shard in range(NUM_SERVERS)] + [f"worker-{worker}" for worker in range(4)]

    def logs() -> str:
        return "\n".join(f"== {name}\n{job.podman.logs(job.container(name))[-2000:]}" for name in names)

    return Watch(job.published(), logs)


def ended_in_time(seconds: float) -> bool:
    """On a machine that others keep busy, time says little."""
    return seconds <= (END_SECONDS if os.getloadavg()[0] < 4 else 3 * END_SECONDS)


def test_unlike_containers_train_together_while_some_die_and_others_come(job: ContainerJob, tmp_path: Path) -> None:
    job.start_servers("mode=async", "expected_workers=3", f"lease_seconds={LEASE_SECONDS}")
    for worker in range(3):
        job.start_worker(worker, "--steps", FOR_EVER, "--batch-size", "128")
    seen = watch(job)
    for worker in range(3):
        seen.wait_for_steps(worker, 1)

    for worker, cpus in enumerate((FAST, FAST, SLOW)):
        job.limit(f"worker-{worker}", cpus)
    seen.wait_for_steps(2, 10)
    ratios = seen.ratios_of_steps(2, 0, 1)
    assert about_four(ratios), ratios

    names = [f"server-{shard}" for shard in range(NUM_SERVERS)] + [f"worker-{worker}" for worker in range(3)]
    with prometheus(tmp_path, [f"{job.address(name)}:9477" for name in names]) as address:
        report = check_expressions(address, Facts(mode="async", num_workers=3), timeout_seconds=90)
    print(report)
    assert report.ok, report

    job.podman("kill", "-s", "KILL", job.container("worker-1"))
    job.start_worker(3, "--steps", "300", "--batch-size", "128")
    seen.wait_until(lambda: seen.state(1) not in ("active", "unknown"), "the dead worker no longer counts")
    seen.wait_for_steps(0, 20)  # nobody waits for the dead one
    assert job.podman.exit_status(job.container("worker-3")) == 0
    assert accuracy_in(job.podman.logs(job.container("worker-3"))) >= 0.96

    outside = status_command(seen.address)
    assert outside["failures"] == 1
    states = {worker["worker_id"]: worker["state"] for worker in outside["workers"]}
    assert states == {0: "active", 1: "expired", 2: "active", 3: "left"}
    assert sum(shard["steps_applied"] for shard in outside["shards"]) > 0

    status, seconds = job.stop("worker-0")
    assert (status, ended_in_time(seconds)) == (143, True), seconds
    seen.wait_until(lambda: seen.state(0) == "left", "the worker that got SIGTERM has left")
    status, slow_seconds = job.stop("worker-2")  # a twelfth of a processor takes its time
    assert status == 143
    last = seen.status()
    assert last is not None
    assert last.failures == 1, "who leaves on SIGTERM is no failure"
    status, server_seconds = job.stop("server-1")
    assert (status, ended_in_time(server_seconds)) == (0, True), server_seconds
    assert job.podman.exit_status(job.container("server-0")) == 0, "a drained server ends the job"
    print(
        f"SIGTERM to exit: worker {seconds:.1f} s, limited worker {slow_seconds:.1f} s, server {server_seconds:.1f} s"
    )
