"""When training begins: for whom the first round waits, and how long. Pure; owned by the registrar."""

from dataclasses import dataclass

from .config import JobSettings
from .roster import Roster
from .workers import Worker


@dataclass
class Start:
    """Invariant: what is open stays open."""

    settings: JobSettings
    open: bool = False
    """Training has begun."""
    first_enrolled_at: float | None = None

    def enrolled(self, now: float) -> None:
        """A worker has enrolled: from the first on, the others are waited for."""
        if self.first_enrolled_at is None:
            self.first_enrolled_at = now

    def may_initialise(self, now: float, worker: Worker) -> bool:
        """Whether this worker may send the initial values; worker 0 does where ids are fixed, unless it does not come."""
        if worker.observer:
            return False
        fixed_ids = self.settings.expected_workers > 0
        return not fixed_ids or worker.worker_id == 0 or self._waited_enough(now)

    def ready(self, now: float, roster: Roster, starting: bool) -> list[Worker] | None:
        """Whom training begins with; None if it goes on waiting. `starting`: somebody wants to take its first step."""
        ready = [worker for worker in roster.trainers() if worker.state in ("enrolled", "paused")]
        gone = roster.ended_trainers()
        if not (ready or starting):
            return None
        if len(ready) + len(gone) < self.settings.expected_workers and not self._waited_enough(now):
            return None
        return ready

    def missing_message(self, roster: Roster) -> str:
        """Who is waited for, for people."""
        expected = self.settings.expected_workers
        ready = {worker.worker_id for worker in roster.live() if worker.state == "enrolled"}
        missing = [str(number) for number in range(expected) if number not in ready]
        return f"waiting for worker {', '.join(missing)} of {expected} before the first step"

    def _waited_enough(self, now: float) -> bool:
        enrolled = self.first_enrolled_at
        return enrolled is not None and now - enrolled > self.settings.start_timeout_seconds
