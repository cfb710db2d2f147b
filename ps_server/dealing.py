"""Dealing data: which worker takes which positions of an epoch's permutation. Pure; owned by the registrar.

A *lot* is a range of positions used in one step. It is done when that step is applied and goes back to the pool when its
worker is lost, late, suspended or out of the loop: no sample is lost and none is applied twice. An epoch is over when all its
lots are done; until then a worker without data waits, because some may come back.

In synchronous jobs (`in_turns`) lots are dealt in turns: whenever one member has none left, every member gets its next one,
in the order of worker ids. Who asks first does not matter, so two runs deal alike. In the other modes lots go to whoever
asks.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ..protos.errors import SettingError
from ..protos.registrar_pb2 import DealRequest, DealResponse, Lot
from .data_sets import MOST_OPEN_EPOCHS, DataSet
from .epochs import Epoch, LotBooks, Reader, Waits
from .striding import Strides

MOST_LOTS_AT_ONCE = 64
LOTS_AT_ONCE_NEAR_THE_END = 1
"""Of an epoch, for anybody: everybody else waits for what a slow worker holds then."""
MOST_DATA_SETS = 4096
MOST_DATA_SETS_OF_A_WORKER = 64
"""That one worker may be the first to name."""
MOST_NAME_CHARACTERS = 200
MOST_SAMPLES = 1 << 48
"""Of a data set, or of a batch."""
MOST_EPOCHS = 1 << 31
MOST_GIVEN_UP_KEPT = 100
"""Lots given up of which it is kept where they lie; all of them are counted."""


@dataclass(frozen=True)
class GivenUp:
    """Positions of an epoch that no worker could read."""

    data_set: str
    epoch: int
    first: int
    size: int
    read_failures: int
    """Workers that said so."""
    deaths: int
    """Workers that were lost with them in hand."""


class DataDealer:
    """Deals lots and keeps account of every one until it is done."""

    def __init__(self, in_turns: bool) -> None:
        self._in_turns = in_turns
        self._books = LotBooks()
        self._open = self._books.epoch_of
        self.given_up: list[GivenUp] = []
        """The newest."""
        self.num_lots_given_up = 0
        self.num_samples_given_up = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        """A new run of the job: every data set begins with its first epoch again. Ids of lots go on."""
        self._sets: dict[str, DataSet] = {}
        self._open.clear()
        self._recalled: dict[int, set[int]] = {}
        self._answered: dict[int, tuple[int, DealResponse]] = {}
        self._strides = Strides()

    # ---- what workers ask ----

    def deal(self, request: DealRequest, members: Collection[int], live: Collection[int] = ()) -> DealResponse:
        """Answers a worker; `members` are the workers that data are dealt to in turns, `live` all that may read. A repeated
        request is answered as it was.

        Raises:
            SettingError: numbers out of bounds, or other data than another worker's under the same name.
        """
        worker = request.worker_id
        number, answer = self._answered.get(worker, (0, DealResponse()))
        if request.number and request.number == number:
            return answer
        if request.number and request.number < number:
            return DealResponse(state=DealResponse.STATE_WAIT)  # delayed on its way: its sender has gone on long since
        _check(request)
        if request.strided:
            return self._strides.place(request.data_set, request.epoch, worker, live)
        answer = self._answer(request, members)
        answer.recalled = bool(self._recalled.pop(worker, None))
        if request.number:
            self._answered[worker] = request.number, answer
        return answer

    def waiting_for(self, members: Collection[int]) -> set[int]:
        """Whom readers wait for that got nothing: members that have not come to the epoch, and workers that hold lots of it.

        Of the latter some need not be members. Nobody is named who waits itself.
        """
        waited_for: set[int] = set()
        for data in self._sets.values():
            for epoch in data.epochs.values():
                waits = {reader.waits for reader in epoch.readers.values()}
                if Waits.FOR_MEMBERS in waits:
                    waited_for |= data.missing(epoch, members)
                if Waits.FOR_LOTS in waits:
                    waited_for |= epoch.holders()
        return waited_for - self._waiting()

    # ---- what becomes of lots ----

    def own(self, worker: int, lots: Iterable[int]) -> list[int]:
        """Those of these lots that are this worker's."""
        return [lot for lot in lots if lot in self._open and self._open[lot].open[lot].worker == worker]

    def was_recalled(self, worker: int, lots: Iterable[int]) -> bool:
        """Whether a worker names lots that went back while it was suspended: others may have used them since."""
        return not self._recalled.get(worker, set()).isdisjoint(lots)

    def done(self, lots: Iterable[int]) -> None:
        """The step that used these lots is applied."""
        for lot in lots:
            if lot in self._open:
                self._open[lot].done(lot)

    def give_back(self, lots: Iterable[int]) -> None:
        """These lots were used in a step that did not count."""
        for lot in lots:
            if lot in self._open:
                self._open[lot].take_back(lot)

    def lose(self, worker: int, died: bool = True) -> None:
        """A worker is gone, or starts anew: everything it held goes back."""
        for data in self._sets.values():
            data.lose(worker, blamed=died)
            self._give_up_hopeless(data)
            data.forget(worker)
        self._recalled.pop(worker, None)
        self._answered.pop(worker, None)
        self._strides.forget(worker)

    def pause(self, worker: int, held: Collection[int], next_number: int = 0) -> bool:
        """A worker stops counting: what it has goes back, but the lots that user code holds. Nobody waits for those.

        False, and nothing is changed, if it has been answered the request for data that was to be its next: it has gone on.
        """
        if 0 < next_number <= self._answered.get(worker, (0, DealResponse()))[0]:
            return False
        kept = frozenset(held)
        for data in self._sets.values():
            data.release(worker, kept)
        return True

    def recall(self, worker: int, held: Collection[int] = ()) -> None:
        """A worker is suspended: what it has goes back but what a step under way holds. It learns so with its next answer."""
        kept = frozenset(held)
        back = {lot for data in self._sets.values() for lot in data.release(worker, kept)}
        if not back:
            return
        self._recalled.setdefault(worker, set()).update(back)
        number, answer = self._answered.get(worker, (0, DealResponse()))
        if any(lot.id in back for lot in answer.lots):
            # Should it ask for this answer again, its lots are others' now.
            self._answered[worker] = number, DealResponse(state=DealResponse.STATE_WAIT)

    def not_sharing(self, worker: int) -> None:
        """A member ended a step without coming to an epoch in which others wait for it: they need not."""
        for data in self._sets.values():
            data.not_sharing(worker)

    # ---- inside ----

    @property
    def _epochs(self) -> dict[tuple[str, int], Epoch]:
        """Those that hold something, by data set and number."""
        return {(data.name, epoch.number): epoch for data in self._sets.values() for epoch in data.epochs.values()}

    def _answer(self, request: DealRequest, members: Collection[int]) -> DealResponse:
        if request.leave_epoch:
            self._leave(request)
            return DealResponse(state=DealResponse.STATE_OVER)
        data = self._data_set(request)
        if data.is_over(request.epoch, request.worker_id, members):
            return DealResponse(state=DealResponse.STATE_OVER)
        epoch = self._enter(data, request)
        reader = epoch.readers[request.worker_id]
        if self._waits_for_members(data, epoch, request.worker_id, members):
            reader.waits = Waits.FOR_MEMBERS
            return DealResponse(state=DealResponse.STATE_WAIT)
        lots = self._lots(epoch, request, members)
        reader.waits = Waits.NOT if lots or request.ahead else Waits.FOR_LOTS
        if lots:
            return DealResponse(state=DealResponse.STATE_LOTS, lots=lots)
        if not request.ahead:
            epoch.keep(request.worker_id, frozenset(request.held))
        return DealResponse(state=_end_of(data, epoch, request.worker_id))

    def _data_set(self, request: DealRequest) -> DataSet:
        """The data set of this name; another one if nobody reads the old one any more."""
        data = self._sets.get(request.data_set)
        if data is not None and data.size != request.dataset_size:
            if data.newest_of:
                raise SettingError(
                    f"worker {request.worker_id} shares a data set of {request.dataset_size} samples as number or name "
                    f"{request.data_set!r}, but others share one of {data.size}; give every worker the same data set, and data "
                    "that differ a name of their own: worker.share(..., name=...)"
                )
            self._forget(data)
            data = None
        return data or self._new_data_set(request)

    def _new_data_set(self, request: DealRequest) -> DataSet:
        worker = request.worker_id
        if sum(data.introduced_by == worker for data in self._sets.values()) >= MOST_DATA_SETS_OF_A_WORKER:
            raise SettingError(
                f"worker {worker} shares more than {MOST_DATA_SETS_OF_A_WORKER} data sets; give the same ones to "
                "worker.share() in every epoch, or name them: worker.share(..., name=...)"
            )
        if len(self._sets) >= MOST_DATA_SETS:
            unread = next((data for data in self._sets.values() if not data.newest_of), None)
            if unread is None:
                raise SettingError(f"the job shares {MOST_DATA_SETS} data sets already, and workers read all of them")
            self._forget(unread)
        data = self._sets[request.data_set] = DataSet(request.data_set, request.dataset_size, worker, self._books)
        return data

    def _forget(self, data: DataSet) -> None:
        for epoch in data.epochs.values():
            epoch.end()
        del self._sets[data.name]

    def _enter(self, data: DataSet, request: DealRequest) -> Epoch:
        if not data.make_room(request.epoch):
            raise SettingError(
                f"{MOST_OPEN_EPOCHS} epochs of data set {data.name!r} are being read; epoch {request.epoch} is one too many"
            )
        epoch = data.enter(request.epoch, request.worker_id, Reader(int(request.batch_size), request.drop_last))
        if epoch.fingerprint is None:
            epoch.fingerprint = request.fingerprint
        if epoch.fingerprint != request.fingerprint:
            epoch.readers.pop(request.worker_id)
            raise SettingError(
                f"worker {request.worker_id} would read other samples of data set {data.name!r}, or in another order, than the "
                f"worker that came to epoch {request.epoch} first; a Subset, random_split or sampler must give the same on "
                "every worker: seed it alike everywhere (generator=torch.Generator().manual_seed(...)), or use shuffle=True"
            )
        return epoch

    def _waits_for_members(self, data: DataSet, epoch: Epoch, worker: int, members: Collection[int]) -> bool:
        """Whether the first turn waits: for members that have not come, and that can come."""
        if not (self._in_turns and worker in members and epoch.in_first_turn):
            return False
        return any(not self._kept_away(member, worker) for member in data.missing(epoch, members))

    def _kept_away(self, member: int, by: int) -> bool:
        """Whether a member waits for others elsewhere, or for lots that the one who asks holds: it would wait for ever."""
        for epoch in self._epochs.values():
            reader = epoch.readers.get(member)
            if reader is not None and (
                reader.waits is Waits.FOR_MEMBERS or (reader.waits is Waits.FOR_LOTS and by in epoch.holders())
            ):
                return True
        return False

    def _waiting(self) -> set[int]:
        return {
            worker
            for epoch in self._epochs.values()
            for worker, reader in epoch.readers.items()
            if reader.waits is not Waits.NOT
        }

    def _lots(self, epoch: Epoch, request: DealRequest, members: Collection[int]) -> list[Lot]:
        """What there is for a worker: what nobody died of first."""
        worker = request.worker_id
        lots: list[Lot] = []
        for _ in range(self._most_lots(epoch, request)):
            lot = self._next(epoch, worker, members)
            if lot is None:
                break
            lots.append(lot)
        if lots or request.ahead:
            return lots
        if not request.number and epoch.take_back_strays(worker, frozenset(request.held)):
            return self._lots(epoch, request, members)
        suspect = epoch.cut_suspect(worker)
        return [] if suspect is None else [suspect]

    def _most_lots(self, epoch: Epoch, request: DealRequest) -> int:
        """In turns all get alike. Else what is left is not for one worker: the epoch would end when the slowest is done."""
        wanted = min(max(1, request.num_lots), MOST_LOTS_AT_ONCE)
        if self._in_turns or len(epoch.readers) == 1:
            return wanted
        num_left = epoch.num_left // request.batch_size
        return min(wanted, max(LOTS_AT_ONCE_NEAR_THE_END, num_left // (2 * len(epoch.readers))))

    def _next(self, epoch: Epoch, worker: int, members: Collection[int]) -> Lot | None:
        if not (self._in_turns and worker in members):
            return epoch.cut(worker)
        reader = epoch.readers[worker]
        if not reader.dealt:
            epoch.take_turn(sorted(set(members) & epoch.readers.keys()))
        return reader.fetch()

    def _leave(self, request: DealRequest) -> None:
        data = self._sets.get(request.data_set)
        if data is None:
            return
        for lot in self.own(request.worker_id, request.unreadable):
            self._open[lot].take_back(lot).read_failures += 1
        self._give_up_hopeless(data)
        data.leave(request.epoch, request.worker_id, frozenset(request.held))

    def _give_up_hopeless(self, data: DataSet) -> None:
        for epoch in data.epochs.values():
            for span in epoch.give_up():
                self.num_lots_given_up += 1
                self.num_samples_given_up += span.size
                what = GivenUp(data.name, epoch.number, span.first, span.size, span.read_failures, span.deaths)
                self.given_up = [*self.given_up, what][-MOST_GIVEN_UP_KEPT:]


def _end_of(data: DataSet, epoch: Epoch, worker: int) -> DealResponse.State:
    """What a reader is told that gets nothing."""
    if epoch.over:
        data.close(epoch)
        return DealResponse.STATE_OVER
    if epoch.pool or epoch.outstanding:
        return DealResponse.STATE_EXHAUSTED
    epoch.readers.pop(worker)  # only a rest is left that is too small for it
    return DealResponse.STATE_OVER


def _check(request: DealRequest) -> None:
    """Raises SettingError for numbers that no honest worker sends."""
    if not (request.leave_epoch or request.strided) and (request.dataset_size == 0 or request.batch_size == 0):
        raise SettingError("share() needs at least one sample and a batch size of at least 1")
    for name, value, most in (
        ("dataset_size", request.dataset_size, MOST_SAMPLES),
        ("batch_size", request.batch_size, MOST_SAMPLES),
        ("epoch", request.epoch, MOST_EPOCHS),
        ("name of the data set", len(request.data_set), MOST_NAME_CHARACTERS),
    ):
        if value > most:
            raise SettingError(f"share() cannot have {name}={value}; it is at most {most}")
