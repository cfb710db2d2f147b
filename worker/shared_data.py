"""What `worker.share()` gives: data that are divided between the workers of a job, one epoch in each loop over them."""

import logging
import math
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..protos.errors import SettingError
from ..protos.registrar_pb2 import DealRequest, DealResponse
from .asking_pace import Polling
from .data_ledger import DataLedger
from .division import divider_of
from .lot_source import LotSource, Part, dealt_loader, leave_epoch
from .open_workers import HERE
from .share import DataCalls, Reading, share_dealt, share_strided
from .user_numbers import count_of

logger = logging.getLogger(__name__)


@dataclass
class DataSetRecord:
    """One data set of the script, over all objects that `worker.share()` makes of it.

    Its number says when the script shared it first, so it is the same on every worker.
    """

    name: str
    next_epoch: int = 0
    kind: object = None
    """What another object must be like to take the place of one that is gone."""
    alive: Callable[[], object] = lambda: None
    """The data set, or None once it is gone."""
    loop: Callable[[], "SharedLoop | None"] = lambda: None
    """The newest loop over it, while the script holds it."""
    left: "Left | None" = None
    """The newest loop, if it was left before its end."""


@dataclass(frozen=True)
class Left:
    """A loop that was left before its end, with a batch in hand perhaps."""

    epoch: int
    given: set[int]
    """Ids of the lots that user code got of it."""


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What shared data need of the worker."""

    calls: DataCalls
    ledger: DataLedger
    seed: int
    part: Part
    num_workers: Callable[[], int]
    """In the job at this moment."""


@dataclass
class SharedDataSets:
    """Which of the objects that a script shares are the same data set."""

    sharing: Sharing
    _records: list[DataSetRecord] = field(default_factory=list)
    _named: dict[str, DataSetRecord] = field(default_factory=dict)

    def share(self, loader: DataLoader[Any], name: str | None, start_epoch: int) -> "SharedData":
        """The data of a loader; see `Worker.share`."""
        record = self._record(loader) if name is None else self._named.setdefault(name, DataSetRecord(name))
        record.next_epoch = max(record.next_epoch, count_of("start_epoch", start_epoch, 0))
        return SharedData(loader, record, self.sharing)

    def _record(self, loader: DataLoader[Any]) -> DataSetRecord:
        data = loader.dataset
        kind = type(data), _length(data), loader.batch_size
        for record in self._records:
            if record.alive() is data:
                return record
        # A script that makes its data anew in each epoch: the object is gone, the data are the same.
        again = next((each for each in self._records if each.alive() is None and each.kind == kind), None)
        record = again or DataSetRecord(f"#{len(self._records)}")
        if again is None:
            self._records.append(record)
        record.kind, record.alive = kind, _reference(data)
        return record


class SharedData:
    """Data that are divided between the workers: every loop over it is one epoch of this worker's batches.

    What it gives is what the loader would give. Several can be read at once, but not one twice at once.
    """

    def __init__(self, loader: DataLoader[Any], record: DataSetRecord, sharing: Sharing) -> None:
        self.loader = loader
        """As it was given to `worker.share()`."""
        self._record = record
        self._sharing = sharing
        self._reading = None if _only_in_order(loader) else self._divided(loader)
        self._told = False

    @property
    def name(self) -> str:
        """The same on every worker; see `Worker.share`."""
        return self._record.name

    @property
    def dataset(self) -> Dataset[Any]:
        return self.loader.dataset

    @property
    def batch_size(self) -> int | None:
        return self.loader.batch_size

    @property
    def epoch(self) -> int:
        """Which epoch the next loop is over."""
        return self._record.next_epoch

    def set_epoch(self, epoch: int) -> None:
        """The next loop is over this epoch, as with torch's DistributedSampler.

        Epochs that are over in the job hold nothing any more: a worker that joins late comes to the one that goes on. One that
        this worker has read itself begins a new series behind the newest (cross-validation, say).
        """
        epoch = count_of("set_epoch: epoch", epoch, 0)
        self._record.next_epoch = max(epoch, self._record.next_epoch)
        for sampler in (self.loader.sampler, self.loader.batch_sampler):
            follow = getattr(sampler, "set_epoch", None)
            if follow is not None:
                follow(epoch)

    def __len__(self) -> int:
        """Batches that this worker may expect of an epoch, if the workers of this moment stay and are alike fast.

        Raises:
            TypeError: the data have no length.
        """
        if self._reading is not None:
            return len(self._reading.source)
        return math.ceil(len(self.loader) / self._sharing.num_workers())

    def __iter__(self) -> "SharedLoop":
        HERE.let_replaced_leave()
        return SharedLoop(self._batches, self._record)

    # ---- inside ----

    def _divided(self, loader: DataLoader[Any]) -> Reading:
        sharing = self._sharing
        divider = divider_of(loader, sharing.seed)
        source = LotSource(
            self.name,
            divider,
            sharing.calls.deal,
            sharing.ledger,
            sharing.part,
            length=lambda: math.ceil(divider.num_lots() / sharing.num_workers()),
        )
        return Reading(loader=dealt_loader(loader, source), source=source, data_set=self.name, part=sharing.part)

    def _batches(self) -> Iterator[Any]:
        """Of the next epoch."""
        record = self._record
        self._sharing.calls.early.catch_up()
        if record.left is not None:
            self._come_back(record.left)
        epoch, record.next_epoch = record.next_epoch, record.next_epoch + 1
        over = False
        try:
            yield from self._dealt(epoch) if self._reading is not None else self._strided(epoch)
            over = True
        finally:
            if not over:
                record.left = Left(epoch, self._reading.source.given if self._reading is not None else {0})

    def _come_back(self, left: "Left") -> None:
        """What is still in hand of a loop that was left was looked at only. If that is all of it, its epoch is read again."""
        calls, ledger, record = self._sharing.calls, self._sharing.ledger, self._record
        if left.given <= set(ledger.held) and record.next_epoch == left.epoch + 1:
            record.next_epoch = left.epoch
        ledger.take_back(record.name)
        leave_epoch(calls.deal, ledger, record.name, left.epoch)
        record.left = None

    def _dealt(self, epoch: int) -> Iterator[Any]:
        assert self._reading is not None
        return share_dealt(self._reading, epoch, self._sharing.calls, self._sharing.ledger)

    def _strided(self, epoch: int) -> Iterator[Any]:
        """Every so manieth batch."""
        calls = self._sharing.calls
        request = DealRequest(data_set=self.name, epoch=epoch, strided=True)
        polling = Polling()
        while (answer := calls.deal(request)).state == DealResponse.STATE_WAIT:
            time.sleep(polling.next_delay_seconds())
        if answer.state == DealResponse.STATE_OVER:
            return iter(())
        if not self._told:
            self._told = True
            logger.warning(
                "worker.share() cannot address these data by index (%s): %s. The data must come in the same order on "
                "every worker, and what a worker that leaves has not read is skipped in that epoch",
                type(self.dataset).__name__,
                strided_in_words(answer.num_places),
            )
        place = answer.place, lambda: int(answer.num_places)
        return share_strided(self.loader, place, calls, self._sharing.ledger, self.name)


def strided_in_words(num_workers: int) -> str:
    """Who reads what, for people; `num_workers` is at least 1."""
    if num_workers == 1:
        return "the only worker that is there when an epoch begins takes every batch"
    return f"each of the {num_workers} workers that are there when an epoch begins takes every {_ordinal(num_workers)} batch"


def _ordinal(number: int) -> str:
    if number == 2:
        return "second"
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


class SharedLoop:
    """One loop over shared data. It ends for good when another one over the same data begins."""

    def __init__(self, batches: Callable[[], Iterator[Any]], record: DataSetRecord) -> None:
        self._batches = batches
        self._record = record
        self._begun: Any = None
        self._replaced = False

    def __iter__(self) -> "SharedLoop":
        return self

    def __next__(self) -> Any:
        if self._replaced:
            raise SettingError(
                f"another loop over the same data (data set {self._record.name}) began inside this one; to read them twice at "
                "once share them under two names, worker.share(..., name=...)"
            )
        if self._begun is None:
            before = self._record.loop()
            if before is not None:
                before.end()
            self._record.loop = weakref.ref(self)
            self._begun = self._batches()
        return next(self._begun)

    def end(self) -> None:
        """As if the script had left it."""
        self._replaced = True
        self._begun.close()


def loader_of(data: Any, batch_size: int | None, shuffle: bool) -> DataLoader[Any]:
    """The loader itself, or one around a data set.

    Raises:
        SettingError: a data set without batch size, a loader with another one, or something else.
    """
    if isinstance(data, DataLoader):
        if batch_size is not None and batch_size != data.batch_size:
            raise SettingError(
                f"batch_size={batch_size} differs from the loader's {data.batch_size}; give it to the DataLoader only"
            )
        return data
    if not isinstance(data, IterableDataset) and not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise SettingError(
            f"worker.share() was given {type(data).__name__}, which it cannot divide: it takes a DataLoader, or a data set "
            "with __getitem__ and __len__. Wrap what only yields batches in an IterableDataset (DataLoader(..., "
            "batch_size=None)), or iterate over it without worker.share(): then this worker reads all of it"
        )
    if batch_size is None:
        raise SettingError(
            "worker.share(dataset) needs batch_size=..., the samples of one worker's step"
            + (" (a list is taken for a data set: one element is one sample)" if isinstance(data, list | tuple) else "")
        )
    batch_size = count_of("batch_size", batch_size, 1)
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size=batch_size)
    return DataLoader(data, batch_size=batch_size, shuffle=shuffle)


def _only_in_order(loader: DataLoader[Any]) -> bool:
    """Whether the data cannot be addressed by index."""
    if not isinstance(loader.dataset, IterableDataset):
        return False
    if loader.num_workers > 1 and not getattr(loader, "in_order", True):
        raise SettingError(
            "worker.share() divides an IterableDataset by the order of its batches, which in_order=False leaves to chance; "
            "leave it out, or iterate over the loader without worker.share(): then this worker reads all of it"
        )
    return True


def _length(data: object) -> int | None:
    try:
        return len(data)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def _reference(data: object) -> Callable[[], object]:
    """Gives the data as long as they are there; a list, say, is kept."""
    try:
        return weakref.ref(data)
    except TypeError:
        return lambda: data
