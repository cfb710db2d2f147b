"""Passes over data that are divided between workers: every sample once, whatever the loop does with it."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from torch.utils.data import DataLoader

from ..protos.errors import PushpullError, SettingError
from ..protos.registrar_pb2 import DealRequest, DealResponse
from .asking_pace import Polling
from .batch_samples import batch_samples
from .data_ledger import DataLedger
from .lot_source import LotSource, Part, batch_weight, part_of

__all__ = ["DataCalls", "EarlyLeaving", "batch_weight", "part_of", "share_dealt", "share_strided"]

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")

Place = tuple[int, Callable[[], int]]
"""This worker's place among those that read the data, from 0, and their number (at least 1)."""

_END: Any = object()


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
    """There are no data for this worker, now or in this epoch: pushes what waits to be pushed."""
    epoch_over: Callable[[], None]
    """All its data are seen, by whichever worker."""
    early: EarlyLeaving
    """What is due from epochs that were left before their end."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One data set as this worker reads it."""

    loader: DataLoader[Any]
    """Around `source`."""
    source: LotSource
    data_set: str
    part: Part = (0, 1)


def share_dealt(reading: Reading, epoch: int, calls: DataCalls, ledger: DataLedger) -> Iterator[Any]:
    """Batches of one epoch until the registrar says that it is over; takes part in rounds without data by itself.

    Raises:
        SettingError: what the loader gives does not follow the batches that it is asked for.
    """
    source, over = reading.source, False
    calls.early.catch_up()
    source.begin(epoch)
    ledger.num_loops += 1
    try:
        polling = Polling()
        while not over:
            with ledger.waiting():
                ready = source.ready()
            if ready:
                polling.restart()
                yield from _batches(reading, calls, ledger)
                if not source.ended:
                    return  # the loader's own __iter__ ends before its data: the rest is not wanted
            elif source.state == DealResponse.STATE_OVER:
                over = True
            else:
                if source.state == DealResponse.STATE_EXHAUSTED and polling.first:
                    calls.out_of_data()
                if source.take_part:
                    calls.skip_step()
                    polling.restart(first=False)
                time.sleep(polling.next_delay_seconds())
        calls.epoch_over()
    finally:
        ledger.num_loops -= 1
        if not over:
            calls.early.add(lambda: _abandon(source, calls, ledger))


def _batches(reading: Reading, calls: DataCalls, ledger: DataLedger) -> Iterator[Any]:
    """What the loader makes of the lots that there are."""
    source = reading.source
    for batch in _reported(timed(reading.loader, ledger), reading, calls):
        if not source.is_ahead:
            _check_asked(reading)
            yield batch  # of the same lot as the one before
        elif (ahead := source.used()) is not None:
            num_samples = len(ahead.samples)
            weight = batch_weight(num_samples, reading.part)
            ledger.give_out(float(num_samples), ahead.lot, weight, data_set=reading.data_set)
            yield batch
    while source.is_ahead:  # the loader's own __iter__ has taken more than it gave: seen, like what it gave
        if (ahead := source.used()) is not None:
            ledger.give_out(float(len(ahead.samples)), ahead.lot, ledger.batch_weight, data_set=reading.data_set)


def _reported(batches: Iterator[Batch], reading: Reading, calls: DataCalls) -> Iterator[Batch]:
    """The same batches; of one that cannot be read, people and the registrar are told which it is."""
    try:
        yield from batches
    except PushpullError:
        raise
    except Exception as error:
        ahead = reading.source.next_ahead()
        if ahead is not None and "exited unexpectedly" not in str(
            error
        ):  # of a loader's process: it may be a later batch
            logger.error(
                "data set %s: samples %s (positions %d to %d of epoch %d) could not be read: %s",
                reading.data_set,
                ahead.samples,
                ahead.lot.first,
                ahead.lot.first + ahead.lot.size - 1,
                ahead.lot.epoch,
                error,
            )
            lot = ahead.lot
            calls.early.add(lambda: _quietly(lambda: reading.source.leave(unreadable=lot)))
        raise


def _check_asked(reading: Reading) -> None:
    if not reading.source.asked:
        raise SettingError(
            f"{type(reading.loader).__name__}.__iter__ does not take its batches from its batch_sampler, so worker.share() "
            "cannot divide them. Let it go through super().__iter__(), share the data set itself (worker.share(dataset, "
            "batch_size=...)), or iterate over the loader without worker.share(): then this worker reads all of it"
        )


def share_strided(
    batches: Iterable[Batch], place: Place, calls: DataCalls, ledger: DataLedger, data_set: str = ""
) -> Iterator[Batch]:
    """Every `num_workers`-th batch from this worker's place on, for data that cannot be addressed by index."""
    first, num_workers = place
    ledger.num_loops += 1
    try:
        for number, batch in enumerate(timed(batches, ledger)):
            others = num_workers()
            if number % others == first % others:
                ledger.give_out(batch_samples(batch), data_set=data_set, batch=batch)
                yield batch
                while (again := ledger.next_again(data_set)) is not None:
                    ledger.give_out(again.num_samples, data_set=data_set, batch=again.batch)
                    yield again.batch
    finally:
        ledger.num_loops -= 1
        if ledger.num_loops == 0:
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


def _abandon(source: LotSource, calls: DataCalls, ledger: DataLedger) -> None:
    """After a loop that was left early: the data go back but what is in hand, and nobody waits for this worker until its next
    step, unless it is in another loop."""
    if ledger.num_loops == 0:
        _quietly(calls.pause)  # local progress is pushed before its data go back
    _quietly(source.leave)


def _quietly(call: Callable[[], object]) -> None:
    try:
        call()
    except PushpullError as error:
        logger.info("leaving the epoch early: %s", error)
