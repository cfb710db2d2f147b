"""What a job has done, added up over its workers: no end and no return of a worker makes it less, and nothing counts twice."""

from collections.abc import Callable

import pytest
from registrar_script import Key, Script

from pushpull.protos.common_pb2 import JobSpecification
from pushpull.protos.registrar_pb2 import AbsentRequest, JoinRequest, WorkerReport
from pushpull.ps_server.ended_workers import ENDED_KEPT, RETURNS_KNOWN
from pushpull.ps_server.job_snapshot import snapshot

LEASE_SECONDS = 3.0


class Job(Script):
    """Processes say what they did; `num_samples` is what `status` adds up."""

    def __init__(self) -> None:
        super().__init__(lease_seconds=LEASE_SECONDS, expected_workers=2)

    def start(self, worker: int = -1, replaces: int = 0, num_ranks: int = 1) -> Key:
        request = JoinRequest(worker_id=worker, replaces=replaces, pid=1, num_ranks=num_ranks)
        answer = self.registrar.join(self.now, request)
        return answer.worker_id, answer.incarnation

    def say(self, key: Key, num_samples: int, rank: int = 0) -> None:
        report = WorkerReport(num_steps=num_samples, num_samples=num_samples, bytes_pushed=num_samples)
        self.registrar.heartbeat(self.now, *key, report, rank)

    def leave(self, key: Key, num_samples: int, failure: str = "") -> None:
        report = WorkerReport(num_steps=num_samples, num_samples=num_samples, bytes_pushed=num_samples)
        self.registrar.leave(self.now, *key, report, failure)

    def expire(self) -> None:
        self.at(self.now + LEASE_SECONDS + 1)

    def push_out_of_sight(self) -> None:
        """Just so many others end that who ended before is shown no more."""
        for _ in range(ENDED_KEPT):
            self.leave(self.start(), 0)

    @property
    def num_samples(self) -> float:
        status = snapshot(self.registrar, self.now).status(JobSpecification(num_shards=2), 0.0)
        steps = status.forgotten.num_steps + sum(worker.report.num_steps for worker in status.workers)
        samples = status.forgotten.num_samples + sum(worker.report.num_samples for worker in status.workers)
        assert steps == samples
        return samples

    @property
    def bytes_pushed(self) -> int:
        status = snapshot(self.registrar, self.now).status(JobSpecification(num_shards=2), 0.0)
        shown = sum(rank.bytes_pushed for worker in status.workers for rank in worker.ranks)
        return status.forgotten.bytes_pushed + shown

    @property
    def num_forgotten(self) -> int:
        return self.registrar.roster.num_forgotten


def _lives_on(job: Job, key: Key) -> None:
    """A new process takes the id of one that still lives."""


ENDS: dict[str, Callable[[Job, Key], None]] = {
    "replaced": _lives_on,
    "left": lambda job, key: job.leave(key, 8),
    "failed": lambda job, key: job.leave(key, 8, "boom"),
    "expired": lambda job, key: job.expire(),
    "said to be absent": lambda job, key: job.registrar.absent(
        job.now, AbsentRequest(worker_id=key[0], pids=[1], failure="it was killed")
    ),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("out_of_sight", [False, True])
def test_another_process_in_a_workers_place_takes_nothing_from_the_sums(
    end: Callable[[Job, Key], None], out_of_sight: bool
) -> None:
    job = Job()
    first = job.start(0)
    job.say(first, 8)
    end(job, first)
    assert job.num_samples == 8
    if out_of_sight:
        job.push_out_of_sight()
    second = job.start(0)
    assert job.num_samples == 8
    job.say(second, 5)
    third = job.start(0)
    assert job.num_samples == 13
    job.say(third, 1)
    assert (job.num_samples, job.bytes_pushed) == (14, 14)


@pytest.mark.parametrize("out_of_sight", [False, True])
def test_a_process_that_joins_again_goes_on_where_it_was(out_of_sight: bool) -> None:
    job = Job()
    worker, incarnation = job.start(0)
    job.say((worker, incarnation), 8)
    for said in (9, 10):
        job.expire()
        if out_of_sight:
            job.push_out_of_sight()
        before, forgotten = job.num_samples, job.num_forgotten
        worker, incarnation = job.start(0, replaces=incarnation)
        assert job.num_samples == before
        job.say((worker, incarnation), said)
        assert job.num_samples == job.bytes_pushed == said
        assert job.num_forgotten == forgotten - out_of_sight


def test_a_process_that_takes_its_id_back_from_another_counts_once() -> None:
    job = Job()
    mine = job.start(0)
    job.say(mine, 8)
    job.expire()
    other = job.start(0)
    job.say(other, 5)
    again = job.start(0, replaces=mine[1])
    assert (job.num_samples, job.num_forgotten) == (13, 1)
    job.say(again, 9)
    assert (job.num_samples, job.num_forgotten) == (14, 1)


def test_who_names_an_incarnation_that_was_not_its_own_takes_nothing_away() -> None:
    job = Job()
    first = job.start(0)
    job.say(first, 8)
    job.start(0)
    job.start(7, replaces=first[1])
    job.start(0, replaces=first[1], num_ranks=2)
    assert job.num_samples == 8


def test_every_rank_keeps_its_bytes() -> None:
    job = Job()
    first = job.start(0, num_ranks=2)
    job.say(first, 8, rank=0)
    job.say(first, 8, rank=1)
    again = job.start(0, replaces=first[1], num_ranks=2)
    assert job.bytes_pushed == 16
    job.say(again, 9, rank=1)
    assert job.bytes_pushed == 17
    job.start(0, num_ranks=2)
    assert job.bytes_pushed == 17


def test_a_report_that_comes_late_or_says_nothing_does_not_make_less_of_a_worker() -> None:
    job = Job()
    key = job.start(0)
    job.say(key, 8)
    job.say(key, 7)
    job.leave(key, 0, "it was killed")
    assert job.num_samples == 8


def test_what_is_kept_to_know_processes_again_is_bounded() -> None:
    job = Job()
    first = job.start(0)
    job.say(first, 8)
    for _ in range(RETURNS_KNOWN + 1):
        job.say(job.start(0), 1)
    assert job.num_samples == 8 + RETURNS_KNOWN + 1
    job.start(0, replaces=first[1])
    assert job.num_samples == 8 + RETURNS_KNOWN + 1
