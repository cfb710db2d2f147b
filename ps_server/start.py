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

    def enrolled(self, now: float) -> None:
        """A worker has enrolled: from the first on, the others are waited for."""
        if self.first_enrolled_at is None:
            self.first_enrolled_at = now

    def may_initialise(self, now: float, worker: Worker, roster: Roster) -> bool:
        """Whether this worker may send the initial values: the one with the smallest id that has enrolled.

        One that has chosen its id lets expected ones with smaller ids go first, so that it is always the same worker whoever
        is quicker; but not those that are gone, and not for longer than the start waits.
        """
        if worker.observer:
            return False
        if self._waited_enough(now):
            return True
        if any(other.worker_id < worker.worker_id for other in roster.enrolled_trainers()):
            return False
        before = range(min(worker.worker_id, self.settings.expected_workers))
        return worker.automatic or self._gone(roster).issuperset(before)

    def ready(self, now: float, roster: Roster, starting: bool) -> list[Worker] | None:
        """Whom training begins with; None if it goes on waiting. `starting`: somebody wants to take its first step."""
        ready = self._ready(roster)
        if not (ready or starting):
            return None
        accounted = self._gone(roster).union(worker.worker_id for worker in ready)
        if len(accounted) < self.settings.expected_workers and not self._waited_enough(now):
            return None
        return ready

    def missing_message(self, roster: Roster) -> str:
        """Who is waited for, for people."""
        expected, ready = self.settings.expected_workers, self._ready(roster)
        accounted = self._gone(roster).union(worker.worker_id for worker in ready)
        if any(worker.automatic for worker in ready):
            return f"waiting for {expected - len(accounted)} more of {expected} workers before the first step"
        missing = [str(number) for number in range(expected) if number not in accounted]
        return f"waiting for worker {', '.join(missing)} of {expected} before the first step"

    def _ready(self, roster: Roster) -> list[Worker]:
        return [worker for worker in roster.trainers() if worker.state in ("enrolled", "paused")]

    def _gone(self, roster: Roster) -> set[int]:
        """Ids of workers that nobody need wait for: they have ended, and not only lost their way between two calls."""
        ended = {worker.worker_id for worker in roster.ended_trainers() if not worker.only_passed_by}
        return ended | self._absent.keys()

    def _waited_enough(self, now: float) -> bool:
        enrolled = self.first_enrolled_at
        return enrolled is not None and now - enrolled > self.settings.start_timeout_seconds
