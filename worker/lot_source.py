"""A batch sampler whose batches the registrar deals."""

import copy
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from ..protos.registrar_pb2 import DealRequest, DealResponse, Lot
from .asking_pace import AskingPace
from .data_ledger import DataLedger
from .division import Divider, Division

logger = logging.getLogger(__name__)

Part = tuple[int, int]
"""Which part of each batch this process works on, and the number of parts: of ranks that see different data."""

EPOCHS_KEPT = 2
"""Whose divisions are kept: lots of the epoch before may have to be given out again."""


@dataclass(frozen=True)
class Ahead:
    """A lot that the loader has asked for."""

    generation: int
    lot: Lot
    samples: list[Any]
    """Of the whole worker."""


class LotSource:
    """Asks for lots and turns them into batches of indices: a batch sampler for one `DataLoader` iterator at a time.

    A `DataLoader` with worker processes asks ahead, in order; `used` gives the lots in the order of its batches.
    """

    def __init__(
        self,
        data_set: str,
        divider: Divider,
        deal: Callable[[DealRequest], DealResponse],
        ledger: DataLedger,
        part: Part = (0, 1),
        length: Callable[[], int] = lambda: 0,
    ) -> None:
        self.state: DealResponse.State = DealResponse.STATE_LOTS
        """The registrar's newest answer."""
        self.take_part = False
        """It says that a round waits for this worker."""
        self.ended = False
        """The loader was told that there is no more, for now."""
        self.asked = False
        """The loader has asked for batches in this epoch."""
        self.given: set[int] = set()
        """Ids of the lots that user code got in this epoch."""
        self._data_set = data_set
        self._divider = divider
        self._deal = deal
        self._ledger = ledger
        self._part = part
        self._length = length
        self._divisions: dict[int, Division] = {}
        self._epoch = 0
        self._dealt: deque[tuple[int, Lot]] = deque()
        self._ahead: deque[Ahead] = deque()
        self._pace = AskingPace()

    def begin(self, epoch: int) -> None:
        """Another pass over the data. What was dealt for an earlier one has gone back.

        Raises:
            SettingError: the sampler does not give what it says.
        """
        self._epoch = epoch
        self._division(epoch)
        self._dealt.clear()
        self._ahead.clear()
        self.given = set()
        self.state, self.take_part, self.asked = DealResponse.STATE_LOTS, False, False

    def __iter__(self) -> Iterator[list[Any]]:
        self.asked, self.ended = True, False
        while (lot := self._next()) is not None:
            samples = self._division(lot.epoch).order(int(lot.first), int(lot.size))
            self._ahead.append(Ahead(self._ledger.generation, lot, samples))
            first, size = part_of(len(samples), self._part)
            yield samples[first : first + size]
        self.ended = True

    def __len__(self) -> int:
        """Batches that this worker may expect of an epoch."""
        return self._length()

    def ready(self) -> bool:
        """Whether there is a lot to go on with; asks for some if need be. Without one, `state` says what to do."""
        lot = self._next()
        if lot is not None:
            self._dealt.appendleft((self._ledger.generation, lot))
        return lot is not None

    def used(self) -> Ahead | None:
        """What the batch that comes now was made of; None if it is not this worker's any more."""
        ahead = self._ahead.popleft()
        if ahead.generation != self._ledger.generation:
            return None
        self.given.add(int(ahead.lot.id))
        return ahead

    def next_ahead(self) -> Ahead | None:
        """What the batch that comes next is made of."""
        return self._ahead[0] if self._ahead else None

    @property
    def is_ahead(self) -> bool:
        """The loader has asked for batches that it has not given."""
        return bool(self._ahead)

    def leave(self, unreadable: Lot | None = None) -> None:
        """Gives everything back but what is in hand."""
        self._dealt.clear()
        leave_epoch(
            self._deal,
            self._ledger,
            self._data_set,
            self._epoch,
            held=self._ledger.held,
            unreadable=[] if unreadable is None else [int(unreadable.id)],
        )

    def _next(self) -> Lot | None:
        again = self._ledger.next_again(self._data_set)
        if again is not None and again.lot is not None:
            return again.lot
        if self._ledger.doubtful:
            self._ask()
        while self._dealt and self._dealt[0][0] != self._ledger.generation:
            self._dealt.popleft()
        if not self._dealt and self.state != DealResponse.STATE_OVER:
            self._ask()
        return self._dealt.popleft()[1] if self._dealt else None

    def _ask(self) -> None:
        asked_at = time.monotonic()
        ahead = bool(self._ahead or self._dealt)
        answer = self._deal(self._request(ahead=ahead, held=() if ahead else self._ledger.held))
        if answer.lots:
            self._pace.answered(asked_at, time.monotonic())
        else:
            self._pace.interrupted()
        self._ledger.doubtful = False
        _take_recall(answer, self._ledger)
        self.state, self.take_part = answer.state, answer.take_part
        self._dealt.extend((self._ledger.generation, lot) for lot in answer.lots)

    def _request(self, **more: Any) -> DealRequest:
        division = self._division(self._epoch)
        return DealRequest(
            data_set=self._data_set,
            epoch=self._epoch,
            dataset_size=division.num_units,
            batch_size=division.batch_size,
            drop_last=division.drop_last,
            fingerprint=division.fingerprint,
            num_lots=self._pace.num_lots,
            **more,
        )

    def _division(self, epoch: int) -> Division:
        """Lots that came back may be of an earlier epoch, with its own order."""
        if epoch not in self._divisions:
            kept = list(self._divisions.items())[-(EPOCHS_KEPT - 1) :]
            self._divisions = {**dict(kept), epoch: self._divider.epoch(epoch)}
        return self._divisions[epoch]


def leave_epoch(
    deal: Callable[[DealRequest], DealResponse], ledger: DataLedger, data_set: str, epoch: int, **more: Any
) -> None:
    """Tells the registrar that this worker is not in a loop over this epoch any more."""
    _take_recall(deal(DealRequest(data_set=data_set, epoch=epoch, leave_epoch=True, **more)), ledger)


def _take_recall(answer: DealResponse, ledger: DataLedger) -> None:
    """The registrar says once that it has taken everything back, whatever it was asked."""
    if answer.recalled:
        logger.warning(
            "this worker was suspended because others waited for it; data dealt to it before are others' now, and what it "
            "computed from them does not count"
        )
        ledger.forget_dealt()


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


def dealt_loader(loader: DataLoader[Any], source: LotSource) -> DataLoader[Any]:
    """The same loader, of the same class and with all that it holds, around another batch sampler."""
    dealt = copy.copy(loader)
    # DataLoader refuses to set it; this copy is nobody else's.
    vars(dealt)["batch_sampler"], vars(dealt)["_iterator"] = source, None
    if loader.num_workers > 1 and not getattr(loader, "in_order", True):
        logger.warning(
            "batches of worker.share() come in the order in which they are dealt; in_order=False is not used"
        )
        dealt.in_order = True
    return dealt
