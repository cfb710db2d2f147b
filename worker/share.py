"""Dividing data between workers: a data loader whose batches are dealt by the registrar."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)
from torch.utils.data.distributed import DistributedSampler

from ..protos.errors import PushpullError, SettingError
from ..protos.registrar_pb2 import DealRequest, DealResponse, Lot
from .asking_pace import AskingPace
from .data_ledger import DataLedger
from .permutation import Order, epoch_order

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")

Place = tuple[int, Callable[[], int]]
"""Worker id, and the number of workers at the moment of asking (at least 1)."""

Part = tuple[int, int]
"""Which part of each batch this process works on, and the number of parts: of ranks that see different data."""

_END: Any = object()
ASK_AGAIN_SECONDS = 0.02


class EarlyLeaving:
    """What is due when user code has left a loop over data before its end.

    A worker of one process does it at once. The ranks of a worker do it when all of them take part in something next: a rank
    that leaves the loop alone, because of an error, would wait for the others in it, and they for the rank.
    """

    def __init__(self, at_once: bool) -> None:
        self._at_once = at_once
        self._due: list[Callable[[], None]] = []

    def add(self, action: Callable[[], None]) -> None:
        """A loop was left."""
        self._due.append(action)
        if self._at_once:
            self.catch_up()

    def catch_up(self) -> None:
        """Does what is due, if anything. All ranks call it together."""
        while self._due:
            self._due.pop()()


@dataclass(frozen=True, kw_only=True)
class DataCalls:
    """What sharing needs of the worker."""

    deal: Callable[[DealRequest], DealResponse]
    """Asks the registrar for lots."""
    skip_step: Callable[[], bool]
    """Takes part in a round without data; says whether the round brought new values."""
    pause: Callable[[], None]
    """Pushes what waits to be pushed, and stops counting until the next step."""
    out_of_data: Callable[[], None]
    """The epoch is over for this worker."""
    early: EarlyLeaving
    """What is due from epochs that were not."""


@dataclass(frozen=True, kw_only=True)
class SharedEpoch:
    """What one pass over a map-style data set needs."""

    loader: DataLoader[Any]
    epoch: int
    num_samples: int
    batch_size: int
    drop_last: bool
    shuffle: bool
    seed: int
    part: Part = (0, 1)


class LotSource:
    """Asks for lots and turns them into batches of indices: a batch sampler for one `DataLoader` iterator at a time.

    A `DataLoader` with worker processes asks ahead, in order; `used` gives the lots in the order of its batches.
    """

    def __init__(self, epoch: SharedEpoch, calls: DataCalls, ledger: DataLedger, order: Order) -> None:
        self.state: DealResponse.State = DealResponse.STATE_LOTS
        """The registrar's newest answer."""
        self._epoch = epoch
        self._calls = calls
        self._ledger = ledger
        self._orders = {epoch.epoch: order}
        self._dealt: deque[tuple[int, Lot]] = deque()
        self._ahead: deque[tuple[int, Lot]] = deque()
        self._strays_returned = False
        self._pace = AskingPace()

    def __iter__(self) -> Iterator[list[int]]:
        while (lot := self._next()) is not None:
            self._ahead.append((self._ledger.generation, lot))
            first, size = part_of(int(lot.size), self._epoch.part)
            yield self._order_of(lot.epoch)(int(lot.first) + first, size)

    def ready(self) -> bool:
        """Whether there is a lot to go on with; asks for some if need be. Without one, `state` says what to do."""
        lot = self._next()
        if lot is not None:
            self._dealt.appendleft((self._ledger.generation, lot))
        return lot is not None

    def used(self) -> Lot | None:
        """The lot of the batch that comes now; None if the batch is not this worker's any more."""
        generation, lot = self._ahead.popleft()
        return lot if generation == self._ledger.generation else None

    def return_strays(self) -> None:
        """Without data in hand: gives back lots that are this worker's in the registrar's books only.

        Their answer was lost on the way here, or their step was late: without this the epoch would never end.
        """
        if self._ledger.idle and not self._strays_returned:
            self._strays_returned = True
            self.leave()

    def leave(self) -> None:
        """Gives everything back."""
        self._calls.deal(self._request(leave_epoch=True))

    def _next(self) -> Lot | None:
        again = self._ledger.next_again()
        if again is not None:
            return again
        while self._dealt and self._dealt[0][0] != self._ledger.generation:
            self._dealt.popleft()
        if not self._dealt:
            if self.state == DealResponse.STATE_OVER:
                return None
            asked_at = time.monotonic()
            answer = self._calls.deal(self._request())
            if answer.lots:
                self._pace.answered(asked_at, time.monotonic())
            else:
                self._pace.interrupted()
            self.state = answer.state
            self._strays_returned = self._strays_returned and not answer.lots
            self._dealt.extend((self._ledger.generation, lot) for lot in answer.lots)
        return self._dealt.popleft()[1] if self._dealt else None

    def _request(self, leave_epoch: bool = False) -> DealRequest:
        return DealRequest(
            epoch=self._epoch.epoch,
            dataset_size=self._epoch.num_samples,
            batch_size=self._epoch.batch_size,
            drop_last=self._epoch.drop_last,
            num_lots=self._pace.num_lots,
            leave_epoch=leave_epoch,
        )

    def _order_of(self, epoch: int) -> Order:
        """Lots that came back may be of an earlier epoch, with its own order."""
        if epoch not in self._orders:
            self._orders[epoch] = epoch_order(self._epoch.num_samples, self._epoch.seed, epoch, self._epoch.shuffle)
        return self._orders[epoch]


def share_dealt(epoch: SharedEpoch, calls: DataCalls, ledger: DataLedger) -> Iterator[Any]:
    """Batches of one epoch until the registrar says that it is over; takes part in rounds without data by itself."""
    order = epoch_order(epoch.num_samples, epoch.seed, epoch.epoch, epoch.shuffle)
    source = LotSource(epoch, calls, ledger, order)
    loader = _rebuilt(epoch.loader, source)
    over = False
    calls.early.catch_up()
    try:
        while not over:
            with ledger.waiting():
                ready = source.ready()
            if ready:
                for batch in timed(loader, ledger):
                    lot = source.used()
                    if lot is not None:
                        ledger.give_out(float(lot.size), lot, batch_weight(int(lot.size), epoch.part))
                        yield batch
            elif source.state == DealResponse.STATE_EXHAUSTED:
                source.return_strays()
                if not calls.skip_step():
                    # Nobody else had data either: the rest is with a worker that does not count yet.
                    time.sleep(ASK_AGAIN_SECONDS)
            elif source.state == DealResponse.STATE_WAIT:
                time.sleep(ASK_AGAIN_SECONDS)
            else:
                over = True
        calls.out_of_data()
    finally:
        if not over:
            calls.early.add(lambda: _abandon(source, calls))


def part_of(num_samples: int, part: Part) -> tuple[int, int]:
    """First sample and number of samples of a process's part of a batch; every part has at least one sample."""
    number, num_parts = part
    first, last = num_samples * number // num_parts, num_samples * (number + 1) // num_parts
    return (first, last - first) if last > first else (min(first, num_samples - 1), 1)


def batch_weight(num_samples: int, part: Part) -> float:
    """What the mean loss over a part is multiplied by, so that the mean over all parts is the batch's mean.

    1 where parts are equal; 0 for a part that repeats another's sample because there are more parts than samples.
    """
    number, num_parts = part
    own = num_samples * (number + 1) // num_parts - num_samples * number // num_parts
    return num_parts * own / num_samples


def share_strided(batches: Iterable[Batch], place: Place, calls: DataCalls, ledger: DataLedger) -> Iterator[Batch]:
    """Every `num_workers`-th batch, for data that cannot be addressed by index."""
    worker_id, num_workers = place
    try:
        for number, batch in enumerate(timed(batches, ledger)):
            members = num_workers()
            if number % members == worker_id % members:
                ledger.give_out(_batch_samples(batch))
                yield batch
    finally:
        with contextlib.suppress(PushpullError):
            calls.pause()


def timed(batches: Iterable[Batch], ledger: DataLedger) -> Iterator[Batch]:
    """The same batches; what it takes to get each is noted as waiting for data."""
    with ledger.waiting():
        rest = iter(batches)
    while True:
        with ledger.waiting():
            batch = next(rest, _END)
        if batch is _END:
            return
        yield cast(Batch, batch)


def shared_epoch(loader: DataLoader[Any], epoch: int, seed: int, part: Part = (0, 1)) -> SharedEpoch | None:
    """How to deal this loader's data set, or None if it can only be strided.

    Raises:
        SettingError: the loader does not make batches.
    """
    if isinstance(loader.dataset, IterableDataset) or type(loader.batch_sampler) is not BatchSampler:
        if loader.batch_sampler is None and not isinstance(loader.dataset, IterableDataset):
            raise SettingError("worker.share() needs a DataLoader with a batch_size")
        return None
    shuffle = _shuffles(loader.sampler)
    if shuffle is None or loader.batch_size is None:
        return None
    return SharedEpoch(
        loader=loader,
        epoch=epoch,
        num_samples=len(cast(Sized, loader.dataset)),
        batch_size=loader.batch_size,
        drop_last=loader.drop_last,
        shuffle=shuffle,
        seed=seed,
        part=part,
    )


def loader_of(data: "DataLoader[Any] | Dataset[Any]", batch_size: int | None, shuffle: bool) -> DataLoader[Any]:
    """The loader itself, or one around a data set.

    Raises:
        SettingError: a data set without batch size, or a loader with another one.
    """
    if isinstance(data, DataLoader):
        if batch_size is not None and batch_size != data.batch_size:
            raise SettingError(
                f"batch_size={batch_size} differs from the loader's {data.batch_size}; give it to the DataLoader only"
            )
        return data
    if batch_size is None:
        raise SettingError("worker.share(dataset) needs batch_size=..., the samples of one worker's step")
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size=batch_size)
    return DataLoader(data, batch_size=batch_size, shuffle=shuffle)


def _shuffles(sampler: object) -> bool | None:
    """Whether the loader's sampler shuffles; None if it is one that cannot be divided by index."""
    if isinstance(sampler, DistributedSampler):
        logger.warning("worker.share() divides the data itself; the loader's DistributedSampler is not used")
        return sampler.shuffle
    if type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(sampler.data_source):
        return True
    return False if type(sampler) is SequentialSampler else None


def _rebuilt(loader: DataLoader[Any], source: LotSource) -> DataLoader[Any]:
    """The same loader around another batch sampler."""
    return DataLoader(
        loader.dataset,
        batch_sampler=cast(Any, source),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor if loader.num_workers else None,
    )


def _abandon(source: LotSource, calls: DataCalls) -> None:
    """After a loop that was left early: the data go back, and nobody waits for this worker until its next step."""
    for call in (calls.pause, source.leave):  # local progress is pushed before its data go back
        try:
            call()
        except PushpullError as error:
            logger.info("leaving the epoch early: %s", error)


def _batch_samples(batch: object) -> float:
    """Samples of a batch, as far as its shape tells: the length of its first tensor-like part."""
    if isinstance(batch, dict):
        batch = next(iter(batch.values()), ())
    elif isinstance(batch, tuple | list) and batch and isinstance(batch[0], Sized):
        batch = batch[0]
    return float(len(batch)) if isinstance(batch, Sized) else 1.0
