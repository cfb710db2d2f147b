"""Dealing data: which worker takes which positions of an epoch's permutation. Pure; owned by the registrar.

A *lot* is a range of positions used in one step. It is done when that step is applied and goes back to the pool when its
worker is lost, late or out of the loop: no sample is lost and none is applied twice.

In synchronous jobs (`in_turns`) lots are dealt in turns: whenever one member has none left, every member gets its next one,
in the order of worker ids. Who asks first does not matter, so two runs deal alike. In the other modes lots go to whoever
asks.
"""

from collections import deque
from collections.abc import Collection, Set
from dataclasses import dataclass, field

from ..protos.errors import SettingError
from ..protos.registrar_pb2 import DealRequest, DealResponse, Lot

MOST_LOTS_AT_ONCE = 64
FEW_LOTS = 4
"""That anybody may have at once, near the end of an epoch, too."""


@dataclass
class Reader:
    """A worker inside an epoch."""

    batch_size: int
    drop_last: bool
    dealt: deque[Lot] = field(default_factory=deque)


@dataclass
class Epoch:
    """One pass over the data. `readers` are the workers inside it."""

    size: int
    cursor: int = 0
    pool: deque[Lot] = field(default_factory=deque)
    readers: dict[int, Reader] = field(default_factory=dict)


class DataDealer:
    """Deals lots and keeps account of every one until it is done."""

    def __init__(self, in_turns: bool) -> None:
        self._in_turns = in_turns
        self._epochs: dict[int, Epoch] = {}
        self._open: dict[int, tuple[int, Lot]] = {}
        self._next_lot = 1
        self._size: int | None = None
        self._started: dict[int, int] = {}

    def begin_anew(self) -> None:
        """The next epoch is the first again, of any data set."""
        self._epochs.clear()
        self._open.clear()
        self._started.clear()
        self._size = None

    def deal(self, request: DealRequest, members: Set[int]) -> DealResponse:
        """Answers a worker; `members` are the workers that data are dealt to in turns.

        Raises:
            SettingError: the data set has another size than another worker's.
        """
        worker = request.worker_id
        if request.leave_epoch:
            self._leave(worker, request.epoch)
            return DealResponse(state=DealResponse.STATE_OVER)
        if self._gone_by(request.epoch):
            return DealResponse(state=DealResponse.STATE_OVER)
        epoch = self._enter(request)
        if self._in_turns and worker in members and self._missing(request.epoch, members):
            return DealResponse(state=DealResponse.STATE_WAIT)
        lots = []
        for _ in range(self._most_lots(epoch, request)):
            lot = self._next(epoch, request.epoch, worker, members)
            if lot is None:
                break
            lots.append(lot)
        if lots:
            return DealResponse(state=DealResponse.STATE_LOTS, lots=lots)
        if self._in_turns and self._outstanding(request.epoch):
            return DealResponse(state=DealResponse.STATE_EXHAUSTED)
        epoch.readers.pop(worker, None)
        return DealResponse(state=DealResponse.STATE_OVER)

    def done(self, lots: list[int]) -> None:
        """The step that used these lots is applied."""
        for lot in lots:
            self._open.pop(lot, None)

    def give_back(self, lots: list[int]) -> None:
        """These lots were used in a step that did not count."""
        for lot in lots:
            owner_and_lot = self._open.pop(lot, None)
            if owner_and_lot is not None:
                self._return(owner_and_lot[1])

    def lose(self, worker: int) -> None:
        """A worker is gone, or starts anew: everything it held goes back."""
        for lot in [lot for lot, (owner, _) in self._open.items() if owner == worker]:
            self.give_back([lot])
        for epoch in self._epochs.values():
            epoch.readers.pop(worker, None)

    def recall(self, worker: int, held: Collection[int] = ()) -> None:
        """A worker pauses, or is suspended: everything it has goes back, but for what is held by a step under way."""
        for lot in [lot for lot, (owner, _) in self._open.items() if owner == worker and lot not in held]:
            self.give_back([lot])

    def waiting_for(self, members: Set[int]) -> set[int]:
        """Whom others wait for: members that have not come to the newest epoch, and who holds data of an epoch without more."""
        if not self._in_turns or not self._epochs:
            return set()
        newest = max(self._epochs)
        epoch = self._epochs[newest]
        if epoch.readers and self._missing(newest, members):
            return {member for member in members if self._started.get(member, -1) < newest}
        exhausted = epoch.cursor >= epoch.size and not epoch.pool
        return {owner for owner, lot in self._open.values() if lot.epoch == newest} if exhausted else set()

    def not_sharing(self, worker: int) -> None:
        """A member ended a step without coming to the newest epoch: others need not wait for it there."""
        if self._epochs:
            newest = max(self._epochs)
            if worker not in self._epochs[newest].readers:
                self._started[worker] = max(self._started.get(worker, -1), newest)

    def _gone_by(self, number: int) -> bool:
        """Whether everybody has left this epoch for a later one: a late joiner comes to the one that goes on."""
        if not self._epochs or number >= max(self._epochs):
            return False
        return number not in self._epochs or not self._epochs[number].readers

    def _enter(self, request: DealRequest) -> Epoch:
        if request.dataset_size == 0 or request.batch_size == 0:
            raise SettingError("share() needs at least one sample and a batch size of at least 1")
        if self._size is None:
            self._size = request.dataset_size
        if request.dataset_size != self._size:
            raise SettingError(
                f"worker {request.worker_id} shares a data set of {request.dataset_size} samples, but others share one of "
                f"{self._size}; give every worker the same data set"
            )
        epoch = self._epochs.setdefault(request.epoch, Epoch(self._size))
        if request.worker_id not in epoch.readers:
            for number in [number for number in self._epochs if number < request.epoch]:
                self._leave(request.worker_id, number)
            epoch.readers[request.worker_id] = Reader(int(request.batch_size), request.drop_last)
            self._started[request.worker_id] = max(self._started.get(request.worker_id, -1), int(request.epoch))
            self._forget_old_epochs()
        return epoch

    def _missing(self, number: int, members: Set[int]) -> bool:
        """Whether a member has not come to this epoch yet. Only the first turn waits: later joiners just join in."""
        epoch = self._epochs[number]
        first_turn = epoch.cursor == 0 and not self._outstanding(number)
        return first_turn and any(self._started.get(member, -1) < number for member in members)

    def _most_lots(self, epoch: Epoch, request: DealRequest) -> int:
        """In turns all get alike. Else what is left is not for one worker: the epoch would end when the slowest is done."""
        wanted = min(max(1, request.num_lots), MOST_LOTS_AT_ONCE)
        if self._in_turns or len(epoch.readers) == 1:
            return wanted
        num_left = (epoch.size - epoch.cursor) // request.batch_size
        return min(wanted, max(FEW_LOTS, num_left // (2 * len(epoch.readers))))

    def _next(self, epoch: Epoch, number: int, worker: int, members: Set[int]) -> Lot | None:
        reader = epoch.readers[worker]
        if self._in_turns and worker in members and not reader.dealt:
            for member in sorted(members & epoch.readers.keys()):
                lot = self._cut(epoch, number, member)
                if lot is not None:
                    epoch.readers[member].dealt.append(lot)
        if reader.dealt:
            return reader.dealt.popleft()
        if self._in_turns and worker in members:
            return None
        return self._cut(epoch, number, worker)

    def _cut(self, epoch: Epoch, number: int, worker: int) -> Lot | None:
        reader = epoch.readers[worker]
        lot = self._from_pools(number, reader.batch_size)
        if lot is None:
            size = min(reader.batch_size, epoch.size - epoch.cursor)
            if size == 0 or (reader.drop_last and size < reader.batch_size):
                return None
            lot = self._lot(number, epoch.cursor, size)
            epoch.cursor += size
        self._open[lot.id] = (worker, lot)
        return lot

    def _from_pools(self, number: int, batch_size: int) -> Lot | None:
        """A lot that came back, of this epoch or of an earlier one; a larger one is split."""
        for candidate in sorted(self._epochs):
            pool = self._epochs[candidate].pool
            if candidate > number or not pool:
                continue
            lot = pool.popleft()
            if lot.size > batch_size:
                pool.appendleft(self._lot(lot.epoch, lot.first + batch_size, lot.size - batch_size))
                lot = self._lot(lot.epoch, lot.first, batch_size)
            return lot
        return None

    def _lot(self, epoch: int, first: int, size: int) -> Lot:
        lot = Lot(id=self._next_lot, epoch=epoch, first=first, size=size)
        self._next_lot += 1
        return lot

    def _return(self, lot: Lot) -> None:
        epoch = self._epochs.get(lot.epoch)
        if epoch is not None:
            epoch.pool.append(lot)

    def _leave(self, worker: int, number: int) -> None:
        epoch = self._epochs.get(number)
        if epoch is None or epoch.readers.pop(worker, None) is None:
            return
        for lot, (owner, what) in list(self._open.items()):
            if owner == worker and what.epoch == number:
                self.give_back([lot])

    def _outstanding(self, number: int) -> bool:
        return any(lot.epoch == number for _, lot in self._open.values())

    def _forget_old_epochs(self) -> None:
        """An epoch without readers, returned lots and open lots holds nothing any more."""
        newest = max(self._epochs)
        for number in list(self._epochs):
            epoch = self._epochs[number]
            if number < newest and not epoch.readers and not epoch.pool and not self._outstanding(number):
                del self._epochs[number]
