"""What closing a round decides for clocks, data and shards, where the job has rounds. Pure; owned by the registrar."""

from ..protos.registrar_pb2 import RegistrarOrder
from .dealing import DataDealer
from .roster import Roster
from .rounds import Rounds
from .unlike_numbers import UnlikeNumbers
from .workers import Worker


class RoundClosing:
    """Closes the rounds of a job, one after the other; without rounds it never closes any."""

    def __init__(self, rounds: Rounds | None, roster: Roster, dealer: DataDealer) -> None:
        self.last: float | None = None
        """When a round closed; before that, when training began."""
        self.longest_gap_seconds = 0.0
        self.unlike = UnlikeNumbers(roster)
        self._rounds = rounds
        self._roster = roster
        self._dealer = dealer

    def forget(self, worker: Worker) -> None:
        """Its step is in no round, unless that round is closed already."""
        if self._rounds is not None:
            self._rounds.forget(worker.worker_id, worker.incarnation)

    def lots_of(self, worker: Worker) -> list[int]:
        """Data of its step that shards have reported and that is in no round yet."""
        return [] if self._rounds is None else self._rounds.lots_of(worker.worker_id, worker.incarnation)

    def close_next(self, now: float) -> list[RegistrarOrder]:
        """What all shards are told if the next round of the members is complete; else nothing."""
        closed = self._rounds.close_next(now, self._roster.members) if self._rounds is not None else None
        if closed is None:
            return []
        self._dealer.done(closed.lots_done)
        self._dealer.give_back(closed.lots_returned)
        self.unlike.compare(closed.record.round, closed.applied)
        contributions = closed.record.contributions
        if any(contribution.apply for contribution in contributions):
            for contribution in contributions:
                self._roster.advance(self._roster[contribution.worker_id])
        self.longest_gap_seconds = max(self.longest_gap_seconds, now - (now if self.last is None else self.last))
        self.last = now
        return [RegistrarOrder(close=closed.record)]
