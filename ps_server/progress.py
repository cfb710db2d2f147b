"""What shards report of steps: whose clock advances, which data come back. Pure; owned by the registrar."""

from collections.abc import Callable

from ..protos.errors import BadRequestError
from ..protos.registrar_pb2 import StepRefused, StepSettled, StepStaged
from .contacts import Contacts
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
        contacts: Contacts,
        resume: Callable[[float, Worker, int], None],
    ) -> None:
        self._roster = roster
        self._rounds = rounds
        self._dealer = dealer
        self._contacts = contacts
        self._resume = resume
        self.last_applied: float | None = None
        """When a step that waits for no round was applied."""

    @property
    def job_clock(self) -> int:
        """Rounds that changed something, else the smallest clock of an active worker."""
        return self._rounds.applied if self._rounds is not None else self._roster.smallest_clock()

    def staged(self, now: float, shard: int, staged: StepStaged) -> None:
        """A shard holds a whole step that waits for its round."""
        if self._rounds is None:
            raise BadRequestError("a shard reported a staged step, but the job has no rounds")
        self._contacts.whole_step(shard, staged.incarnation)
        if not self._roster.is_live(staged.worker_id, staged.incarnation):
            return
        worker = self._roster[staged.worker_id]
        self._count_again(now, worker)
        worker.last_progress = now
        if self._dealer.was_recalled(staged.worker_id, staged.lots):
            return self._refuse(_refusal_of(staged))
        staged.lots[:] = self._dealer.own(staged.worker_id, staged.lots)
        self._dealer.give_back(self._rounds.staged(shard, staged))
        if shard == 0:
            self._dealer.not_sharing(staged.worker_id)

    def refused(self, shard: int, refused: StepRefused) -> None:
        """A shard refused a step; where there are no rounds, what became of it is all that counts."""
        self._contacts.whole_step(shard, refused.incarnation)
        if self._rounds is not None and self._roster.is_live(refused.worker_id, refused.incarnation):
            refused.lots[:] = self._dealer.own(refused.worker_id, refused.lots)
            self._refuse(refused)

    def settled(self, now: float, shard: int, settled: StepSettled) -> None:
        """What became of a step that waits for no round."""
        self._contacts.whole_step(shard, settled.incarnation)
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
        self._count_again(now, worker)
        lots = self._dealer.own(settled.worker_id, settled.lots)
        if settled.lots_done:
            self._dealer.done(lots)
        else:
            self._dealer.give_back(lots)

    def _count_again(self, now: float, worker: Worker) -> None:
        """Only a suspended worker ends steps: one that paused by itself has all its outcomes. It counts again, but while it is
        cut off from a shard others would wait for it in vain."""
        if worker.state == "paused" and self._contacts.too_long_silence(worker.incarnation) is None:
            self._resume(now, worker, worker.clock)

    def _refuse(self, refused: StepRefused) -> None:
        """The step takes part in its round as a skip."""
        if self._rounds is not None:
            self._dealer.give_back(self._rounds.refused(refused))


def _refusal_of(staged: StepStaged) -> StepRefused:
    """Of a step whose data went back while its worker was suspended: others may have used them."""
    return StepRefused(worker_id=staged.worker_id, incarnation=staged.incarnation, step=staged.step, round=staged.round)
