"""When training begins: for whom the first round waits, and how long. Pure; owned by the registrar."""

from dataclasses import dataclass, field

from ..protos.registrar_pb2 import AbsentRequest
from .config import JobSettings
from .roster import Roster
from .workers import Worker


@dataclass
class Start:
    """Only who has enrolled counts: a process that joins and is never heard of again is neither waited for nor counted.

    Invariant: what is open stays open.
    """

    settings: JobSettings
    open: bool = False
    """Training has begun."""
    first_enrolled_at: float | None = None
    _absent: dict[int, AbsentRequest] = field(default_factory=dict)
    """Expected workers that will not come, as whoever starts them has said, by id."""

    def absent(self, request: AbsentRequest, holder: Worker | None) -> Worker | None:
        """One of the expected workers has ended, before training began: `holder`, who has its id, if that is the same process.

        Once training has begun only leases count; and another process with that id is not meant.
        """
        if self.open or (holder is not None and not holder.is_process(request.host, request.pids)):
            return None
        if request.worker_id < self.settings.expected_workers:
            self._absent[request.worker_id] = request
        return holder

    def joined(self, worker: Worker) -> None:
        """Somebody has come after all, unless it is the process that has ended meanwhile."""
        said = self._absent.get(worker.worker_id)
        if said is not None and not worker.is_process(said.host, said.pids):
            del self._absent[worker.worker_id]

    def enrolled(self, now: float, worker: Worker) -> None:
        """A worker has enrolled, or asks again: from the first on, the others are waited for."""
        worker.last_progress = now
        if self.first_enrolled_at is None:
            self.first_enrolled_at = now

    def may_initialise(self, now: float, worker: Worker, roster: Roster) -> bool:
        """Whether this worker may send the initial values: the one with the smallest id that has enrolled.

        One that has chosen its id lets expected ones with smaller ids go first, so that it is always the same worker whoever
        is quicker; but not those that are gone or hang, and not for longer than the start waits.
        """
        if worker.observer:
            return False
        if self._waited_enough(now):
            return True
        hanging = self._hanging(now, roster)
        if any(o.worker_id < worker.worker_id and o.worker_id not in hanging for o in roster.enrolled_trainers()):
            return False
        before = range(min(worker.worker_id, self.settings.expected_workers))
        return worker.automatic or (self._gone(roster) | hanging).issuperset(before)

    def ready(self, now: float, roster: Roster, starting: bool) -> list[Worker] | None:
        """Whom training begins with; None if it goes on waiting. `starting`: somebody wants to take its first step."""
        ready = [worker for worker in self._ready(roster) if worker.worker_id not in self._hanging(now, roster)]
        if not (ready or starting):
            return None
        if len(self._accounted(now, roster)) < self.settings.expected_workers and not self._waited_enough(now):
            return None
        return ready

    def missing_message(self, now: float, roster: Roster) -> str:
        """Who is waited for, for people."""
        expected, accounted = self.settings.expected_workers, self._accounted(now, roster)
        if any(worker.automatic for worker in self._ready(roster)):
            return f"waiting for {expected - len(accounted)} more of {expected} workers before the first step"
        missing = [str(number) for number in range(expected) if number not in accounted]
        return f"waiting for worker {', '.join(missing)} of {expected} before the first step"

    def _ready(self, roster: Roster) -> list[Worker]:
        return [worker for worker in roster.trainers() if worker.state in ("enrolled", "paused")]

    def _gone(self, roster: Roster) -> set[int]:
        """Ids of workers that nobody need wait for: they have ended, and not only lost their way between two calls."""
        ended = {worker.worker_id for worker in roster.ended_trainers() if not worker.only_passed_by}
        return ended | self._absent.keys()

    def _accounted(self, now: float, roster: Roster) -> set[int]:
        """Ids of expected workers that are there, or that nobody waits for."""
        ready = (worker.worker_id for worker in self._ready(roster))
        return self._gone(roster).union(self._hanging(now, roster), ready)

    def _hanging(self, now: float, roster: Roster) -> set[int]:
        """Ids of live workers that nobody has to wait for any more: since a model is there, and for too long, they have neither
        brought theirs nor asked how it stands."""
        most_seconds, enrolled = self.settings.progress_timeout_seconds, self.first_enrolled_at
        if most_seconds <= 0 or enrolled is None:
            return set()
        waiting = [worker for worker in roster.trainers() if worker.state in ("joined", "enrolled")]
        return {worker.worker_id for worker in waiting if now - max(worker.last_progress, enrolled) > most_seconds}

    def _waited_enough(self, now: float) -> bool:
        enrolled = self.first_enrolled_at
        return enrolled is not None and now - enrolled > self.settings.start_timeout_seconds
