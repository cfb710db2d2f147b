"""The right to give the servers their first values. Pure; owned by the registrar."""

from ..protos.registrar_pb2 import EnrolRequest, EnrolResponse, Initialise, Origin
from .contacts import Contacts
from .initial_table import InitialTable
from .roster import Roster
from .start import Start
from .workers import Worker

NOBODY = 0
"""Incarnation of no worker: of whoever initialises where a file does."""


class Initialisation:
    """Invariants: at most one grant is open; grants only grow; `done` never becomes false again."""

    def __init__(
        self,
        num_shards: int,
        start: Start,
        roster: Roster,
        contacts: Contacts,
        initial: InitialTable | None = None,
    ) -> None:
        self._num_shards = num_shards
        self._start = start
        self._roster = roster
        self._contacts = contacts
        self._initial = initial
        self._grant = 0
        self._holder: int | None = None
        """Incarnation that may initialise; None while nobody may."""
        self._granted_at = 0.0
        self._shards: set[int] = set()
        self._brought: Origin = Origin()
        """What the holder brings."""
        self._done_at = 0.0
        self.done = False
        """All shards hold their values."""

    @property
    def initialiser(self) -> int:
        """Incarnation whose values the servers hold, or were to hold."""
        return int(self._brought.incarnation)

    def origin(self, now: float) -> Origin | None:
        """Where the values came from; None until they are there."""
        if not self.done:
            return None
        origin = Origin()
        origin.CopyFrom(self._brought)
        origin.seconds_ago = now - self._done_at
        return origin

    def origin_for_people(self, now: float) -> Origin | None:
        """The same without what values are told apart by, which is long, and which people do not compare."""
        if not self.done:
            return None
        return Origin(incarnation=self._brought.incarnation, who=self._brought.who, seconds_ago=now - self._done_at)

    def offer(self, now: float, worker: Worker, request: EnrolRequest) -> tuple[EnrolResponse, Initialise | None]:
        """What an enrolled worker is told, and the order that opens a grant for it, if one does."""
        if self._initial is not None:
            return self._offer_none(self._initial)
        order = None
        if self._falls_to(now, worker):
            self._contacts.expect(worker.incarnation, worker.num_ranks)
            self._grant, self._holder, self._granted_at = self._grant + 1, worker.incarnation, now
            self._shards.clear()
            self._brought = Origin(incarnation=worker.incarnation, who=worker.origin, values=request.values)
            order = Initialise(grant=self._grant, incarnation=worker.incarnation)
        if self._holder == worker.incarnation:
            return EnrolResponse(state=EnrolResponse.STATE_INITIALISE, grant=self._grant), order
        holder = next((other for other in self._roster if other.incarnation == self._holder), None)
        who = "a worker with a smaller id" if holder is None else holder.origin
        return waiting(f"waiting for {who} to initialise the servers"), None

    def shard_initialised(self, now: float, shard: int, grant: int) -> Initialise | None:
        """A shard holds initial values of all its blocks. The order for when with this one all shards do."""
        if self.done or grant != self._grant or self._holder is None:
            return None
        self._shards.add(shard)
        self.done, self._done_at = len(self._shards) == self._num_shards, now
        return Initialise(grant=self._grant, done=True, incarnation=self._holder) if self.done else None

    def ended(self, incarnation: int) -> None:
        """A worker is gone: with it its grant, unless its values are there already."""
        if self._holder == incarnation and not self.done:
            self._holder = None

    def _offer_none(self, initial: InitialTable) -> tuple[EnrolResponse, Initialise | None]:
        """Every shard takes its values from the file, once the plan is known: no worker is asked for any."""
        order = None
        if self._holder is None:
            self._grant, self._holder = 1, NOBODY
            self._brought = Origin(incarnation=NOBODY, who=initial.label)
            order = Initialise(grant=self._grant, incarnation=NOBODY)
        return waiting(f"waiting for the servers to take their values from {initial.label}"), order

    def _falls_to(self, now: float, worker: Worker) -> bool:
        """Nobody has the grant and it is this worker's turn, or somebody lives with it and does not come to the end."""
        if self._holder is None:
            return self._start.may_initialise(now, worker, self._roster)
        taking_long = 0 < self._start.settings.progress_timeout_seconds < now - self._granted_at
        overdue = taking_long or self._contacts.too_long_silence(self._holder) is not None
        return overdue and self._holder != worker.incarnation and not worker.observer


def waiting(message: str) -> EnrolResponse:
    """The answer to a worker that must ask again; says for whom it waits."""
    return EnrolResponse(state=EnrolResponse.STATE_WAIT, message=message)
