"""What shards report of steps: whose clock advances, which data come back, who is stuck. Pure; owned by the registrar."""

from collections.abc import Callable

from ..protos.errors import BadRequestError
from ..protos.registrar_pb2 import StepRefused, StepSettled, StepStaged
from .dealing import DataDealer
from .roster import Roster
from .rounds import Rounds
from .workers import Worker


class Progress:
    """Steps as shards report them; `resume(now, worker, clock)` lets a suspended worker count again."""

    def __init__(
        self,
        roster: Roster,
        rounds: Rounds | None,
        dealer: DataDealer,
        resume: Callable[[float, Worker, int], None],
    ) -> None:
        self._roster = roster
        self._rounds = rounds
        self._dealer = dealer
        self._resume = resume
        self.last_applied: float | None = None
        """When a step that waits for no round was applied."""

    @property
    def job_clock(self) -> int:
        """Rounds closed, else the smallest clock of an active worker."""
        return self._rounds.closed if self._rounds is not None else self._roster.smallest_clock()

    def staged(self, now: float, shard: int, staged: StepStaged) -> None:
        """A shard holds a whole step that waits for its round."""
        if self._rounds is None:
            raise BadRequestError("a shard reported a staged step, but the job has no rounds")
        if not self._roster.is_live(staged.worker_id, staged.incarnation):
            return
        worker = self._roster[staged.worker_id]
        if worker.state == "paused":
            self._resume(now, worker, worker.clock)
        worker.last_progress = now
        self._dealer.give_back(self._rounds.staged(shard, staged))
        if shard == 0 and not staged.lots:
            self._dealer.not_sharing(staged.worker_id)

    def refused(self, refused: StepRefused) -> None:
        """A shard refused a step; where there are no rounds, what became of it is all that counts."""
        if self._rounds is not None and self._roster.is_live(refused.worker_id, refused.incarnation):
            self._dealer.give_back(self._rounds.refused(refused))

    def settled(self, now: float, shard: int, settled: StepSettled) -> None:
        """What became of a step that waits for no round."""
        worker = self._roster.find(settled.worker_id, settled.incarnation)
        if worker is None:
            return
        if settled.applied:
            worker.settled[shard] = max(worker.settled.get(shard, 0), settled.step)
        if shard != 0:
            return
        if settled.applied:
            self.last_applied = now
        worker.last_progress = now
        self._roster.advance(worker)
        if worker.state == "paused":
            # Only a suspended worker ends steps: one that paused by itself has all its outcomes. It counts again.
            self._resume(now, worker, worker.clock)
        if settled.lots_done:
            self._dealer.done(list(settled.lots))
        else:
            self._dealer.give_back(list(settled.lots))

    def stuck(self, now: float, timeout_seconds: float) -> list[Worker]:
        """Members that others wait for and that have ended no step for too long; a timeout of 0 is for ever."""
        members = self._roster.members
        if timeout_seconds == 0 or len(members) < 2:
            return []
        if self._rounds is not None:
            waited_for = self._rounds.waiting_for(members)
        else:
            slowest = self.job_clock
            waited_for = [worker for worker in members if self._roster[worker].clock == slowest]
        return [
            self._roster[worker] for worker in waited_for if now - self._roster[worker].last_progress > timeout_seconds
        ]
