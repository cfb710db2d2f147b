"""Strangers, hostile or unlucky, beside a job that trains: it goes on at its rate, in its memory, with its health."""

import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from attacks import ATTACKS
from trained_job import Seen, TrainedJob, trained_job

TURN_SECONDS = 2.0
NUM_TURNS = 5
LEAST_RATE = 0.8
MOST_MEMORY_BYTES = 64 << 20
MOST_HEALTH_SECONDS = 1.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainedJob]:
    with trained_job(tmp_path_factory.mktemp("job")) as job:
        yield job


def worker_of(job: TrainedJob) -> tuple[int, str]:
    """Its incarnation and state."""
    (honest,) = [worker for worker in job.status().workers if worker.pid == job.worker.pid]
    return honest.incarnation, honest.state


def number_of(attacker: "subprocess.Popen[str]") -> int:
    """How often one that has ended did what it does."""
    assert attacker.stdout is not None
    return int(attacker.stdout.read())


@pytest.mark.parametrize(("attack", "least_num_times"), [(each.__name__, least) for each, least in ATTACKS.items()])
def test_a_job_goes_on_beside(job: TrainedJob, attack: str, least_num_times: int) -> None:
    memory_bytes, honest = job.memory_bytes(), worker_of(job)
    calm: list[Seen] = []
    beside: list[Seen] = []
    seconds = NUM_TURNS * 2 * TURN_SECONDS + 10.0
    with job.attacked(attack, seconds, least_num_times) as attacker:
        job.watch(TURN_SECONDS)  # it begins
        for _ in range(NUM_TURNS):
            # by turns, so that what else this machine does is the same for both
            beside.append(job.watch(TURN_SECONDS))
            with job.paused(attacker):
                calm.append(job.watch(TURN_SECONDS))
        while attacker.poll() is None:
            beside.append(job.watch(TURN_SECONDS))
        num_times = number_of(attacker)
    seen = Figures(
        num_times,
        statistics.median(each.rate for each in beside) / statistics.median(each.rate for each in calm),
        max(each.memory_bytes for each in beside) - memory_bytes,
        max(each.health_seconds for each in beside),
    )
    print(f"\n{attack}: {seen}")
    assert num_times >= least_num_times
    assert worker_of(job) == honest, "the worker's lease ran out"
    assert all(server.poll() is None for server in job.servers)
    assert seen.memory_bytes <= MOST_MEMORY_BYTES
    assert seen.health_seconds <= MOST_HEALTH_SECONDS
    assert seen.rate >= LEAST_RATE


@dataclass
class Figures:
    """Beside an attack."""

    num_times: int
    """It happened."""
    rate: float
    """Of what it is without."""
    memory_bytes: int
    """More than without."""
    health_seconds: float

    def __str__(self) -> str:
        memory = f"memory {self.memory_bytes / (1 << 20):+.0f} MiB"
        return f"{self.num_times} times, rate x {self.rate:.2f}, {memory}, slowest health {self.health_seconds * 1000:.0f} ms"
