"""Who has joined: incarnations, fences, leases, and the views that tell the shards. Pure; owned by the registrar."""

from collections.abc import Iterator, Mapping

from ..protos.common_pb2 import ErrorCode
from ..protos.errors import ExpiredError, ReplacedError, StepError, UnknownIncarnationError
from ..protos.registrar_pb2 import Fence, JoinRequest, Member, Role, View, WorkerReport, WorkersAlive, WorkerStatus
from .ended_workers import EndedWorkers
from .fencing import gone_long_ago
from .leases import Leases
from .worker_figures import WorkerFigures
from .worker_ids import WorkerIds
from .workers import Worker


class Roster:
    """All workers, newest incarnation of each id; of those that have ended only the last, see `EndedWorkers`.

    Invariants: incarnations only grow; of one worker id at most one incarnation is live; a fenced incarnation never
    becomes live again. What is asked with every report or heartbeat costs the same however many workers there are, and a
    join the same however many there were.
    """

    def __init__(self, num_shards: int, leases: Leases, newest_incarnation: int = 0, reserved_ids: int = 0) -> None:
        self._leases = leases
        self._live: dict[int, Worker] = {}
        self._ended = EndedWorkers(num_shards)
        self._ids = WorkerIds(reserved_ids)
        self._members: dict[int, int] = {}
        self._num_enrolled = 0
        self._num_joins = 0
        self._fences: list[Fence] = []
        """Of those that ended since the newest view."""
        self._changed: dict[int, Worker] = {}
        self._newest_incarnation = newest_incarnation
        self._largest_clock = 0

    def __iter__(self) -> Iterator[Worker]:
        """Ascending by id."""
        return iter(sorted((*self._live.values(), *self._ended), key=lambda worker: worker.worker_id))

    def __getitem__(self, worker_id: int) -> Worker:
        worker = self._newest(worker_id)
        if worker is None:
            raise KeyError(worker_id)
        return worker

    def live_holder(self, worker_id: int) -> Worker | None:
        """The live incarnation of an id."""
        return self._live.get(worker_id)

    def add(self, now: float, worker_id: int, request: JoinRequest) -> Worker:
        """Grants an incarnation and a lease for each rank; the id's earlier one must have ended."""
        previous = self._ended.take(worker_id)
        self._newest_incarnation += 1
        self._num_joins += 1
        worker = Worker(
            worker_id,
            self._newest_incarnation,
            observer=request.role == Role.ROLE_OBSERVER,
            host=request.host,
            pid=request.pid,
            num_ranks=max(1, request.num_ranks),
            layout=request.layout,
            automatic=request.worker_id < 0,
            last_progress=now,
            reported_at=now,
        )
        if previous is not None:
            worker.life = previous.life + 1
            worker.clock = previous.clock
            worker.automatic |= previous.automatic and request.replaces == previous.incarnation
        elif self._ids.was_taken(worker_id):
            # How many lives it had is forgotten: no id had as many as there were joins.
            worker.life = self._num_joins
        worker.reports[:] = self._ended.reclaim(worker_id, request.replaces, worker.num_ranks) or worker.reports
        self._ids.take(worker_id)
        self._live[worker_id] = worker
        self._leases.grant(worker.incarnation, worker.num_ranks, now)
        self._changed[worker.incarnation] = worker
        return worker

    def free_id(self) -> int:
        """The smallest id that nobody ever had and that is not reserved: figures of workers that left stay theirs."""
        return self._ids.free

    def caller(self, now: float, worker_id: int, incarnation: int, rank: int = 0) -> Worker:
        """The worker of a call, the lease of the rank that calls renewed.

        Raises:
            ReplacedError, ExpiredError, StepError, UnknownIncarnationError: the incarnation is not live.
            BadRequestError: it has no such rank.
        """
        worker = self._newest(worker_id)
        if worker is not None and worker.incarnation == incarnation and worker.live:
            worker.check_rank(rank)
            worker.heard = True
            self._leases.renew(incarnation, rank, now)
            return worker
        if incarnation > self._newest_incarnation or not (worker or self._ids.was_taken(worker_id)):
            raise UnknownIncarnationError(f"no worker {worker_id} with incarnation {incarnation} has joined")
        if worker is None:
            raise ReplacedError(gone_long_ago(worker_id, incarnation))
        if worker.incarnation == incarnation and worker.state == "expired":
            raise ExpiredError(f"the lease of {worker.who_was_silent} ran out while it was silent")
        if worker.incarnation == incarnation:
            raise StepError(f"worker {worker_id} has left the job")
        raise ReplacedError(f"a newer process has taken the place of worker {worker_id}: {worker.origin}")

    def find(self, worker_id: int, incarnation: int) -> Worker | None:
        """The worker with this incarnation, live or not; None if it is not the newest, or forgotten."""
        worker = self._newest(worker_id)
        return worker if worker is not None and worker.incarnation == incarnation else None

    def is_live(self, worker_id: int, incarnation: int) -> bool:
        worker = self._live.get(worker_id)
        return worker is not None and worker.incarnation == incarnation

    def renew(self, now: float, alive: WorkersAlive) -> None:
        """Ranks were heard of by a shard."""
        ranks = alive.ranks or [0] * len(alive.incarnations)
        for incarnation, rank in zip(alive.incarnations, ranks, strict=False):
            self._leases.renew(incarnation, rank, now)

    def expired(self, now: float) -> list[Worker]:
        """Live workers with a rank whose lease has run out; to be called once per tick."""
        silent = dict(reversed(self._leases.expired(now)))
        if not silent:
            return []
        for worker in (workers := [w for w in self.live() if w.incarnation in silent]):
            worker.silent_rank = silent[worker.incarnation]
        return workers

    def end_rank(self, worker: Worker, rank: int) -> None:
        """Nothing more is expected of one rank; its worker lives on."""
        self._leases.end_rank(worker.incarnation, rank)

    def move(self, worker: Worker, state: str) -> None:
        """A live worker is in another live state from now on."""
        worker.state = state
        if state == "active":
            self._members[worker.worker_id] = worker.incarnation
        else:
            self._members.pop(worker.worker_id, None)
        self._changed[worker.incarnation] = worker

    def enrol(self, worker: Worker) -> None:
        """A worker has brought a model: from now on it is one of those that train."""
        worker.enrolled = True
        self._num_enrolled += not worker.observer
        self.move(worker, "enrolled")

    def start_counting(self, worker: Worker, clock: int) -> None:
        """A worker is active from now on, with this clock or its own earlier one."""
        worker.start_clock = worker.clock = max(clock, worker.clock)
        self._largest_clock = max(self._largest_clock, worker.clock)
        self.move(worker, "active")

    def advance(self, worker: Worker) -> None:
        """It has taken part in one more round, or step."""
        worker.clock += 1
        self._largest_clock = max(self._largest_clock, worker.clock)

    def end(self, worker: Worker, state: str, reason: ErrorCode) -> None:
        """Fences an incarnation for good."""
        self.move(worker, state)
        self._leases.end(worker.incarnation)
        del self._live[worker.worker_id]
        self._num_enrolled -= worker.enrolled and not worker.observer
        self._ended.add(worker)
        self._fences.append(Fence(worker_id=worker.worker_id, incarnation=worker.incarnation, reason=reason))

    def live(self) -> list[Worker]:
        """Ascending by id."""
        return [worker for _, worker in sorted(self._live.items())]

    def trainers(self) -> list[Worker]:
        """Live ones, ascending by id."""
        return [worker for worker in self.live() if not worker.observer]

    @property
    def num_enrolled(self) -> int:
        """Live trainers that have brought a model."""
        return self._num_enrolled

    def enrolled_trainers(self) -> list[Worker]:
        """Those, ascending by id."""
        return [worker for worker in self.trainers() if worker.enrolled]

    def ended_trainers(self) -> list[Worker]:
        """Those that ended last and have not joined again."""
        return [worker for worker in self._ended if not worker.observer]

    @property
    def members(self) -> Mapping[int, int]:
        """Active workers: id -> incarnation. Changes with the roster."""
        return self._members

    @property
    def largest_clock(self) -> int:
        """That any worker ever had."""
        return self._largest_clock

    def smallest_clock(self) -> int:
        """Over the active workers; with none, the largest any worker had."""
        return min((self._live[member].clock for member in self._members), default=self._largest_clock)

    def take_changed(self) -> list[Worker]:
        """Workers that have come, gone or changed their state since the last call, by incarnation."""
        changed, self._changed = self._changed, {}
        return [worker for _, worker in sorted(changed.items())]

    def view(self, number: int) -> View:
        """What shards are told: everybody who is live, and who ended since the view before."""
        members = [
            Member(
                worker_id=worker.worker_id,
                incarnation=worker.incarnation,
                active=worker.state == "active",
                first_round=worker.first_round,
                start_clock=worker.start_clock,
                observer=worker.observer,
                num_ranks=worker.num_ranks,
            )
            for worker in self.live()
        ]
        fences, self._fences = self._fences, []
        return View(number=number, members=members, fences=fences, newest_incarnation=self._newest_incarnation)

    def figures(self, now: float) -> list[WorkerFigures]:
        """Of live trainers and of those that ended last, in no order."""
        silent_seconds = self._leases.silent_seconds
        return [
            worker.figures(silent_seconds(worker.incarnation, now))
            for workers in (self._live.values(), self._ended)
            for worker in workers
            if not worker.observer
        ]

    def statuses(self, now: float) -> list[WorkerStatus]:
        """The same for people, by id."""
        return [worker.status(now) for worker in sorted(self.figures(now), key=lambda worker: worker.worker_id)]

    @property
    def num_forgotten(self) -> int:
        """Trainers that ended so long ago that they have no status any more."""
        return self._ended.num_forgotten

    @property
    def forgotten(self) -> WorkerReport:
        """What these did, together."""
        return self._ended.forgotten

    @property
    def split_steps(self) -> int:
        """Steps of workers that are gone that ended applied on some shards only."""
        return self._ended.split_steps

    @property
    def split_steps_of_others(self) -> int:
        """Those of workers that have no figures any more."""
        return self._ended.split_steps_of_others

    def _newest(self, worker_id: int) -> Worker | None:
        return self._live.get(worker_id) or self._ended.find(worker_id)
