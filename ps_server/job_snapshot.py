"""The job at one moment, for whoever asks how it stands. Taken under the registrar's lock, read and told without it.

What is taken is a row of references for each worker that is shown: messages are copied, merged and added up only once the lock
is free again, however much workers say of themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..protos.common_pb2 import JobSpecification
from ..protos.registrar_pb2 import JobStatus, Origin, ShardStatus, WorkerReport
from ..protos.status_terms import LIVE_STATES
from .acknowledgements import statuses_at
from .contacts import Contacts
from .registrar import Registrar
from .worker_figures import WorkerFigures, ends_on_some_shards_only


@dataclass(frozen=True)
class JobSnapshot:
    """Times are the registrar's clock."""

    now: float
    phase: str
    clock: int
    round: int
    last_progress: float | None
    longest_round_gap_seconds: float
    ending: str
    origin: Origin | None
    """Where the values came from, without what they are told apart by."""
    lease_expiries: int
    failures: int
    samples_given_up: int
    workers: Sequence[WorkerFigures]
    """Live trainers and those that ended last, in no order."""
    split_steps_of_others: int
    """Steps on some shards only, of workers that are not shown."""
    num_forgotten: int
    forgotten: WorkerReport
    shards: Sequence[tuple[float, ShardStatus]]
    """As each shard said last, and when."""
    contacts: Contacts

    @property
    def live(self) -> list[WorkerFigures]:
        """Trainers, ascending by id."""
        return [worker for worker in self.by_id if worker.state in LIVE_STATES]

    @property
    def by_id(self) -> list[WorkerFigures]:
        """All that are shown, ascending by id."""
        return sorted(self.workers, key=lambda worker: worker.worker_id)

    def split_steps(self, num_shards: int) -> int:
        """Steps of workers that are gone that ended applied on some shards only."""
        ended = [worker for worker in self.workers if worker.state not in LIVE_STATES]
        return self.split_steps_of_others + sum(ends_on_some_shards_only(w.settled, num_shards) for w in ended)

    def status(self, job: JobSpecification, age_seconds: float) -> JobStatus:
        """For people."""
        return JobStatus(
            job=job,
            phase=self.phase,
            round=self.round,
            workers=[worker.status(self.now) for worker in self.by_id],
            shards=statuses_at(self.now, self.shards),
            lease_expiries=self.lease_expiries,
            failures=self.failures,
            split_steps=self.split_steps(job.num_shards),
            longest_round_gap_seconds=self.longest_round_gap_seconds,
            ending=self.ending,
            age_seconds=age_seconds,
            clock=self.clock,
            num_forgotten=self.num_forgotten,
            forgotten=self.forgotten,
            origin=self.origin,
        )


def snapshot(registrar: Registrar, now: float) -> JobSnapshot:
    """To be called with the lock held, and by nobody else."""
    roster = registrar.roster
    return JobSnapshot(
        now=now,
        phase=registrar.phase,
        clock=registrar.job_clock,
        round=registrar.rounds_closed,
        last_progress=registrar.last_progress,
        longest_round_gap_seconds=registrar.longest_round_gap_seconds,
        ending=registrar.ending,
        origin=registrar.origin_for_people(now),
        lease_expiries=registrar.lease_expiries,
        failures=registrar.failures,
        samples_given_up=registrar.sharing.dealer.num_samples_given_up,
        workers=roster.figures(now),
        split_steps_of_others=roster.split_steps_of_others,
        num_forgotten=roster.num_forgotten,
        forgotten=roster.forgotten,
        shards=registrar.shards_said(),
        contacts=registrar.contacts.as_of_now(),
    )
