"""One data set of a job: its epochs, and which of them are over for whom. Pure; owned by the dealer."""

from collections.abc import Collection
from collections.abc import Set as AbstractSet

from .epochs import Epoch, LotBooks, Reader, Waits

MOST_EPOCHS_AHEAD = 1000
"""That may be over although an earlier one is not; beyond that the earlier ones count as over."""
MOST_OPEN_EPOCHS = 64
"""Of a data set, that hold something."""


class EpochsOver:
    """Which epochs are over, in bounded memory."""

    def __init__(self) -> None:
        self._below = 0
        self._beyond: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return number < self._below or number in self._beyond

    def add(self, number: int) -> None:
        if number >= self._below:
            self._beyond.add(number)
        if len(self._beyond) > MOST_EPOCHS_AHEAD:
            self._below = min(self._beyond)
        while self._below in self._beyond:
            self._beyond.remove(self._below)
            self._below += 1


class DataSet:
    """Data that every worker can address alike.

    Invariants: a worker is a reader of one epoch at most; an epoch that is over holds nothing and never opens again.
    """

    def __init__(self, name: str, size: int, introduced_by: int, books: LotBooks) -> None:
        self.name = name
        self.size = size
        self.introduced_by = introduced_by
        self.epochs: dict[int, Epoch] = {}
        """Those that hold something, by number."""
        self.newest_of: dict[int, int] = {}
        """The newest epoch that each live worker has come to."""
        self._over = EpochsOver()
        self._elsewhere: dict[int, int] = {}
        """Up to which epoch others need not wait for a member: it ended a step without coming."""
        self._books = books

    def is_over(self, number: int, worker: int, members: Collection[int]) -> bool:
        """Whether an epoch holds nothing for this worker any more: a late joiner comes to the one that goes on."""
        if number in self._over:
            return True
        others = [self.newest_of[m] for m in members if m != worker and m in self.newest_of]
        return worker not in self.newest_of and bool(others) and min(others) > number

    def make_room(self, number: int) -> bool:
        """Whether one more epoch may be open; the earliest that nobody reads makes room."""
        if number in self.epochs or len(self.epochs) < MOST_OPEN_EPOCHS:
            return True
        unread = min((n for n, epoch in self.epochs.items() if not epoch.readers), default=None)
        if unread is not None:
            self.close(self.epochs[unread])
        return unread is not None

    def enter(self, number: int, worker: int, reader: Reader) -> Epoch:
        """The worker is a reader of this epoch, and of no other. Earlier ones that everybody has left are over."""
        for other in [other for other in self.epochs.values() if other.number != number]:
            self.leave(other.number, worker, held=frozenset())
            if other.number < number and other.used and not other.readers and other.number in self.epochs:
                self.close(other)
        epoch = self.epochs.get(number)
        if epoch is None:
            epoch = self.epochs[number] = Epoch(number, self.size, self._books)
        known = epoch.readers.setdefault(worker, reader)
        known.batch_size, known.drop_last = reader.batch_size, reader.drop_last
        self.newest_of[worker] = max(number, self.newest_of.get(worker, -1))
        return epoch

    def leave(self, number: int, worker: int, held: AbstractSet[int]) -> None:
        """A reader leaves before the end; what it has goes back, but what user code still holds. It may come again."""
        epoch = self.epochs.get(number)
        if epoch is None:
            return
        self._release(epoch, worker, held)
        epoch.readers.pop(worker, None)
        if epoch.untouched:
            del self.epochs[number]

    def release(self, worker: int, held: AbstractSet[int]) -> list[int]:
        """A worker's lots go back, but those that user code holds; ids of those that went back."""
        return [number for epoch in self.epochs.values() for number in self._release(epoch, worker, held)]

    def _release(self, epoch: Epoch, worker: int, held: AbstractSet[int]) -> list[int]:
        epoch.keep(worker, held)
        back = [number for number in epoch.of(worker) if number not in held]
        for number in back:
            epoch.take_back(number)
        return back

    def close(self, epoch: Epoch) -> None:
        """The epoch is over, and so are earlier ones that nobody reads."""
        earlier = [n for n, other in self.epochs.items() if n < epoch.number and not other.readers]
        for number in [epoch.number, *earlier]:
            self.epochs.pop(number).end()
            self._over.add(number)

    def forget(self, worker: int) -> None:
        """A worker is gone: nothing of it stays but what others may read. Its lots have gone back."""
        self.newest_of.pop(worker, None)
        self._elsewhere.pop(worker, None)
        for epoch in list(self.epochs.values()):
            epoch.readers.pop(worker, None)
            if epoch.untouched:
                del self.epochs[epoch.number]

    def lose(self, worker: int, blamed: bool) -> None:
        """A worker is gone, or suspended: everything it has goes back; blamed: its lots may have been its end."""
        for epoch in list(self.epochs.values()):
            for number in epoch.of(worker):
                fetched = epoch.fetched(number)
                span = epoch.take_back(number)
                span.deaths += blamed and fetched

    def missing(self, epoch: Epoch, members: Collection[int]) -> set[int]:
        """Members that have not come to this epoch yet. Only its first turn waits: later joiners just join in."""
        if not epoch.in_first_turn:
            return set()
        return {
            member
            for member in members
            if max(self.newest_of.get(member, -1), self._elsewhere.get(member, -1)) < epoch.number
        }

    def not_sharing(self, worker: int) -> None:
        """A member ended a step without coming to the epoch whose first turn waits for it."""
        for epoch in self.epochs.values():
            if worker not in epoch.readers and any(r.waits is Waits.FOR_MEMBERS for r in epoch.readers.values()):
                self._elsewhere[worker] = max(epoch.number, self._elsewhere.get(worker, -1))
