"""Who has joined: incarnations, fences, leases, and the views that tell the shards. Pure; owned by the registrar."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..protos.common_pb2 import ErrorCode
from ..protos.errors import BadRequestError, ExpiredError, ReplacedError, StepError, UnknownIncarnationError
from ..protos.registrar_pb2 import Fence, JoinRequest, Member, Role, View, WorkerReport, WorkersAlive, WorkerStatus
from ..protos.status_terms import LIVE_STATES
from .leases import Leases


@dataclass
class Worker:
    """One incarnation of a worker as the registrar knows it."""

    worker_id: int
    incarnation: int
    observer: bool
    host: str
    pid: int
    num_ranks: int = 1
    layout: str = ""
    life: int = 0
    """Incarnations of this id before this one."""
    state: str = "joined"
    """joined, enrolled, active, paused; then left, failed, expired or replaced."""
    first_round: int = 0
    start_clock: int = 0
    clock: int = 0
    last_progress: float = 0.0
    settled: dict[int, int] = field(default_factory=dict)
    """Newest step applied, by shard."""
    reports: list[WorkerReport] = field(default_factory=list)
    """As each rank said last, by rank."""
    reported_at: float = 0.0
    """When rank 0 said last how it is."""
    silent_rank: int | None = None
    """Whose lease ran out."""
    failure: str = ""
    """What went wrong, as it said itself."""

    def __post_init__(self) -> None:
        self.reports = [WorkerReport() for _ in range(self.num_ranks)]

    @property
    def live(self) -> bool:
        return self.state in LIVE_STATES

    @property
    def report(self) -> WorkerReport:
        """Of rank 0, with what other ranks logged under names that no lower rank has."""
        merged = WorkerReport()
        merged.CopyFrom(self.reports[0])
        for other in self.reports[1:]:
            for mine, theirs in ((merged.first_metrics, other.first_metrics), (merged.metrics, other.metrics)):
                for name, value in theirs.items():
                    mine.setdefault(name, value)
        return merged

    def take_report(self, now: float, rank: int, report: WorkerReport) -> None:
        """Of one rank; raises BadRequestError for one that the worker does not have."""
        self.check_rank(rank)
        self.reports[rank].CopyFrom(report)
        if rank == 0:
            self.reported_at = now

    def check_rank(self, rank: int) -> None:
        """Raises BadRequestError for a rank that the worker does not have."""
        if rank >= self.num_ranks:
            raise BadRequestError(f"worker {self.worker_id} has num_ranks={self.num_ranks}; there is no rank {rank}")

    @property
    def who_was_silent(self) -> str:
        """For people."""
        several = self.num_ranks > 1 and self.silent_rank is not None
        return f"rank {self.silent_rank} of worker {self.worker_id}" if several else f"worker {self.worker_id}"


class Roster:
    """All workers, newest incarnation of each id.

    Invariants: incarnations only grow; of one worker id at most one incarnation is live; a fenced incarnation never
    becomes live again.
    """

    def __init__(self, num_shards: int, leases: Leases, newest_incarnation: int = 0) -> None:
        self._num_shards = num_shards
        self._leases = leases
        self._workers: dict[int, Worker] = {}
        self._fences: dict[int, Fence] = {}
        self._newest_incarnation = newest_incarnation
        self._split_of_replaced = 0

    def __iter__(self) -> Iterator[Worker]:
        return iter([worker for _, worker in sorted(self._workers.items())])

    def __getitem__(self, worker_id: int) -> Worker:
        return self._workers[worker_id]

    def live_holder(self, worker_id: int) -> Worker | None:
        """The live incarnation of an id."""
        worker = self._workers.get(worker_id)
        return worker if worker is not None and worker.live else None

    def add(self, now: float, worker_id: int, request: JoinRequest) -> Worker:
        """Grants an incarnation and a lease for each rank; the id's earlier one must have ended."""
        previous = self._workers.get(worker_id)
        self._newest_incarnation += 1
        worker = Worker(
            worker_id,
            self._newest_incarnation,
            observer=request.role == Role.ROLE_OBSERVER,
            host=request.host,
            pid=request.pid,
            num_ranks=max(1, request.num_ranks),
            layout=request.layout,
            last_progress=now,
            reported_at=now,
        )
        if previous is not None:
            worker.life = previous.life + 1
            worker.clock = previous.clock
            self._split_of_replaced += self._split(previous)
        self._workers[worker_id] = worker
        self._leases.grant(worker.incarnation, worker.num_ranks, now)
        return worker

    def free_id(self) -> int:
        """The smallest id that nobody ever had: figures of workers that left stay theirs."""
        return next(number for number in range(len(self._workers) + 1) if number not in self._workers)

    def caller(self, now: float, worker_id: int, incarnation: int, rank: int = 0) -> Worker:
        """The worker of a call, the lease of the rank that calls renewed.

        Raises:
            ReplacedError, ExpiredError, StepError, UnknownIncarnationError: the incarnation is not live.
            BadRequestError: it has no such rank.
        """
        worker = self._workers.get(worker_id)
        if worker is not None and worker.incarnation == incarnation and worker.live:
            worker.check_rank(rank)
            self._leases.renew(incarnation, rank, now)
            return worker
        if worker is None or incarnation > self._newest_incarnation:
            raise UnknownIncarnationError(f"no worker {worker_id} with incarnation {incarnation} has joined")
        if worker.incarnation == incarnation and worker.state == "expired":
            raise ExpiredError(f"the lease of {worker.who_was_silent} ran out while it was silent")
        if worker.incarnation == incarnation:
            raise StepError(f"worker {worker_id} has left the job")
        raise ReplacedError(f"a newer process has taken the place of worker {worker_id}")

    def find(self, worker_id: int, incarnation: int) -> Worker | None:
        """The worker with this incarnation, live or not; None if it is not the newest."""
        worker = self._workers.get(worker_id)
        return worker if worker is not None and worker.incarnation == incarnation else None

    def is_live(self, worker_id: int, incarnation: int) -> bool:
        worker = self.find(worker_id, incarnation)
        return worker is not None and worker.live

    def renew(self, now: float, alive: WorkersAlive) -> None:
        """Ranks were heard of by a shard."""
        live = {worker.incarnation for worker in self if worker.live}
        ranks = alive.ranks or [0] * len(alive.incarnations)
        for incarnation, rank in zip(alive.incarnations, ranks, strict=False):
            if incarnation in live:
                self._leases.renew(incarnation, rank, now)

    def expired(self, now: float) -> list[Worker]:
        """Live workers with a rank whose lease has run out; to be called once per tick."""
        silent = dict(reversed(self._leases.expired(now)))
        for worker in (workers := [w for w in self if w.live and w.incarnation in silent]):
            worker.silent_rank = silent[worker.incarnation]
        return workers

    def end_rank(self, worker: Worker, rank: int) -> None:
        """Nothing more is expected of one rank; its worker lives on."""
        self._leases.end_rank(worker.incarnation, rank)

    def end(self, worker: Worker, state: str, reason: ErrorCode) -> None:
        """Fences an incarnation for good."""
        worker.state = state
        self._leases.end(worker.incarnation)
        self._fences[worker.worker_id] = Fence(
            worker_id=worker.worker_id, incarnation=worker.incarnation, reason=reason
        )

    def trainers(self) -> list[Worker]:
        """Live ones."""
        return [worker for worker in self if worker.live and not worker.observer]

    def members(self) -> dict[int, int]:
        """Active workers: id -> incarnation."""
        return {worker.worker_id: worker.incarnation for worker in self if worker.state == "active"}

    def smallest_clock(self) -> int:
        """Over the active workers; with none, the largest any worker had."""
        active = [worker.clock for worker in self if worker.state == "active"]
        return min(active, default=max((worker.clock for worker in self), default=0))

    def view(self, number: int) -> View:
        """What shards are told."""
        view = View(number=number, newest_incarnation=self._newest_incarnation)
        for worker in self:
            if worker.live:
                view.members.append(
                    Member(
                        worker_id=worker.worker_id,
                        incarnation=worker.incarnation,
                        active=worker.state == "active",
                        first_round=worker.first_round,
                        start_clock=worker.start_clock,
                        observer=worker.observer,
                        num_ranks=worker.num_ranks,
                    )
                )
        view.fences.extend(fence for _, fence in sorted(self._fences.items()))
        return view

    def statuses(self, now: float) -> list[WorkerStatus]:
        """Of every trainer there has been, by id."""
        return [
            WorkerStatus(
                worker_id=worker.worker_id,
                incarnation=worker.incarnation,
                state=worker.state,
                clock=worker.clock,
                report=worker.report,
                host=worker.host,
                pid=worker.pid,
                layout=worker.layout,
                ranks=worker.reports,
                failure=worker.failure,
                heard_seconds_ago=self._leases.silent_seconds(worker.incarnation, now),
                reported_seconds_ago=max(0.0, now - worker.reported_at),
            )
            for worker in self
            if not worker.observer
        ]

    @property
    def split_steps(self) -> int:
        """Steps of workers that are gone that ended applied on some shards only."""
        return self._split_of_replaced + sum(self._split(worker) for worker in self)

    def _split(self, worker: Worker) -> bool:
        newest = [worker.settled.get(shard, 0) for shard in range(self._num_shards)]
        return not worker.live and max(newest) != min(newest)
