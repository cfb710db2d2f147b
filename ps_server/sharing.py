"""Data for workers: the dealer's answers, and whether a round waits for the one who asks. Pure; owned by the registrar."""

from ..protos.errors import BadRequestError
from ..protos.registrar_pb2 import DealRequest, DealResponse
from .dealing import DataDealer
from .roster import Roster
from .rounds import Rounds

NOTHING_NOW = (DealResponse.STATE_WAIT, DealResponse.STATE_EXHAUSTED)


class Sharing:
    """Answers requests of live workers."""

    def __init__(self, roster: Roster, rounds: Rounds | None, dealer: DataDealer) -> None:
        self.dealer = dealer
        """To be read only."""
        self._roster = roster
        self._rounds = rounds

    def deal(self, now: float, request: DealRequest) -> DealResponse:
        """Lots, or what to do without: nobody's round waits for a worker that waits for data.

        Raises:
            BadRequestError: an observer asks; what `DataDealer.deal` does.
        """
        if self._roster[request.worker_id].observer:
            raise BadRequestError("an observer takes no data: others would wait for what it has")
        members = self._roster.members
        live = [worker.worker_id for worker in self._roster.trainers()] if request.strided else ()
        answer = self.dealer.deal(request, members.keys(), live)
        if answer.lots and request.worker_id not in members:
            self._roster[request.worker_id].last_progress = now  # it takes no steps: this is how it advances
        if self._rounds is not None and answer.state in NOTHING_NOW:
            answer.take_part = request.worker_id in self._rounds.waiting_for(members)
        return answer
