"""One pass over one data set: which positions are dealt, to whom, and which came back. Pure; owned by the dealer."""

from collections import deque
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum

from ..protos.registrar_pb2 import Lot

MOST_READ_FAILURES = 2
"""Workers that said that they could not read a lot; then it is given up."""
MOST_DEATHS = 3
"""Workers that were lost while they held a lot, whatever they died of; then it is given up."""


class Waits(Enum):
    """What a reader that got nothing waits for."""

    NOT = "not"
    FOR_MEMBERS = "members"
    """Others have not come to this epoch yet."""
    FOR_LOTS = "lots"
    """All positions are dealt, but not all are done: some may come back."""


@dataclass
class Reader:
    """A worker inside an epoch."""

    batch_size: int
    drop_last: bool
    dealt: dict[int, Lot] = field(default_factory=dict)
    """Its own already, and not fetched yet, by id in the order in which they were dealt."""

    def fetch(self) -> Lot | None:
        """The next of those."""
        return self.dealt.pop(next(iter(self.dealt))) if self.dealt else None

    waits: Waits = Waits.NOT


@dataclass
class Span:
    """Positions that came back."""

    first: int
    size: int
    read_failures: int = 0
    deaths: int = 0

    @property
    def suspect(self) -> bool:
        """Once more than one worker was lost with it: then it is dealt alone, so that what lay beside it is cleared."""
        return self.read_failures > 0 or self.deaths > 1

    @property
    def given_up(self) -> bool:
        return self.read_failures >= MOST_READ_FAILURES or self.deaths >= MOST_DEATHS


@dataclass
class OpenLot:
    """Positions that a worker has and that are not done."""

    worker: int
    span: Span
    kept: bool = False
    """In the hands of user code that has come to the end of its data, or left its loop: nobody waits for it."""


class Epoch:
    """One pass over `size` positions. Every one is ahead of the cursor, in the pool, open, done, or given up."""

    def __init__(self, number: int, size: int, books: "LotBooks") -> None:
        self.number = number
        self.size = size
        self.readers: dict[int, Reader] = {}
        self.open: dict[int, OpenLot] = {}
        self.pool: deque[Span] = deque()
        self.used = False
        """Some of it is done."""
        self.spoilt = False
        """Some of it is given up."""
        self.fingerprint: int | None = None
        """Of the order of its samples, as the first reader said."""
        self._cursor = 0
        self._books = books

    @property
    def in_first_turn(self) -> bool:
        """Nothing was dealt yet."""
        return self._cursor == 0 and not self.open

    @property
    def num_left(self) -> int:
        """Positions that nobody got yet."""
        return self.size - self._cursor

    @property
    def untouched(self) -> bool:
        """It is as if nobody had come."""
        blamed = any(span.read_failures or span.deaths for span in self.pool)
        return not (self.readers or self.used or self.open or self.spoilt or blamed)

    @property
    def outstanding(self) -> bool:
        """Whether lots that others wait for are open."""
        return any(not lot.kept for lot in self.open.values())

    @property
    def over(self) -> bool:
        """Nothing is left for any reader, and nothing will come back that somebody waits for."""
        return not self.pool and not self.outstanding and not any(map(self._may_cut, self.readers.values()))

    def holders(self) -> set[int]:
        """Who has lots that others wait for."""
        return {lot.worker for lot in self.open.values() if not lot.kept}

    def of(self, worker: int) -> list[int]:
        """Ids of a worker's open lots."""
        return [number for number, lot in self.open.items() if lot.worker == worker]

    def take_turn(self, members: list[int]) -> None:
        """Gives each of these readers its next lot."""
        for member in members:
            reader = self.readers[member]
            if (lot := self.cut(member)) is not None:
                reader.dealt[lot.id] = lot

    def cut(self, worker: int) -> Lot | None:
        """The next lot for a reader, of what came back without suspicion or of what nobody had yet."""
        reader = self.readers[worker]
        span = self._from_pool(reader.batch_size, suspect=False)
        if span is None and self._may_cut(reader):
            span = Span(self._cursor, min(reader.batch_size, self.num_left))
            self._cursor += span.size
        return None if span is None else self._open(worker, span)

    def cut_suspect(self, worker: int) -> Lot | None:
        """A lot that a worker died of, perhaps: to be dealt alone."""
        span = self._from_pool(self.readers[worker].batch_size, suspect=True)
        return None if span is None else self._open(worker, span)

    def done(self, number: int) -> None:
        """The step that used this lot is applied."""
        self._close(number)
        self.used = True

    def take_back(self, number: int) -> Span:
        """An open lot goes back to the pool."""
        reader = self.readers.get(self.open[number].worker)
        if reader is not None:
            reader.dealt.pop(number, None)
        span = self._close(number)
        self.pool.append(span)
        return span

    def fetched(self, number: int) -> bool:
        """Whether the worker that an open lot was dealt to has got it."""
        reader = self.readers.get(self.open[number].worker)
        return reader is None or number not in reader.dealt

    def take_back_strays(self, worker: int, held: AbstractSet[int]) -> bool:
        """What a worker has fetched and does not hold goes back; whether there was any."""
        strays = [number for number in self.of(worker) if self.fetched(number) and number not in held]
        for number in strays:
            self.take_back(number)
        return bool(strays)

    def keep(self, worker: int, held: AbstractSet[int]) -> None:
        """What user code of a worker holds stays its own, and nobody waits for it any more."""
        for number in held & self.open.keys():
            if self.open[number].worker == worker:
                self.open[number].kept = True

    def end(self) -> None:
        """Nothing of it is open any more: what user code still holds counts as seen."""
        for number in list(self.open):
            self._close(number)

    def give_up(self) -> Iterator[Span]:
        """Takes out of the pool what must not be dealt again."""
        for span in [span for span in self.pool if span.given_up]:
            self.pool.remove(span)
            self.spoilt = True
            yield span

    def _may_cut(self, reader: Reader) -> bool:
        return self.num_left >= (reader.batch_size if reader.drop_last else 1)

    def _from_pool(self, batch_size: int, suspect: bool) -> Span | None:
        span = next((span for span in self.pool if span.suspect == suspect), None)
        if span is None:
            return None
        self.pool.remove(span)
        if span.size > batch_size:
            rest = Span(span.first + batch_size, span.size - batch_size, span.read_failures, span.deaths)
            self.pool.appendleft(rest)
            span = Span(span.first, batch_size, span.read_failures, span.deaths)
        return span

    def _open(self, worker: int, span: Span) -> Lot:
        lot = Lot(id=self._books.next_id(), epoch=self.number, first=span.first, size=span.size)
        self.open[lot.id] = OpenLot(worker, span)
        self._books.epoch_of[lot.id] = self
        return lot

    def _close(self, number: int) -> Span:
        del self._books.epoch_of[number]
        return self.open.pop(number).span


class LotBooks:
    """Where each open lot of the job lies. Ids only grow: a lot that is dealt again has another one."""

    def __init__(self) -> None:
        self.epoch_of: dict[int, Epoch] = {}
        self._newest_id = 0

    def next_id(self) -> int:
        self._newest_id += 1
        return self._newest_id
