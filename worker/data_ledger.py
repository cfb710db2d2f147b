"""Which data the gradient at hand was computed from. Pure; owned by the training thread."""

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..protos.registrar_pb2 import Lot


@dataclass(frozen=True)
class Given:
    """One batch that user code got."""

    data_set: str
    num_samples: float
    lot: Lot | None = None
    """None where the registrar does not deal: then the batch itself is kept until its step has an outcome."""
    batch: Any = None


@dataclass(frozen=True)
class DataTaken:
    """Batches that were given out since the step before."""

    given: tuple[Given, ...] = ()
    void: bool = False
    """Some of what the gradient was computed from went back to the pool, and others may use it: it must not be applied."""

    @property
    def lots(self) -> tuple[Lot, ...]:
        return tuple(each.lot for each in self.given if each.lot is not None)

    @property
    def num_samples(self) -> float:
        return sum(each.num_samples for each in self.given)


class DataLedger:
    """Keeps account of data between `worker.share()`, which gives it out, and `optimizer.step()`, which uses it up.

    What was given out and not used yet is *in hand*.
    """

    def __init__(self) -> None:
        self.generation = 0
        """Grows when what was dealt to this worker and not given out went back to the pool."""
        self.batch_weight = 1.0
        """Of the batch given out last; see `share.batch_weight`."""
        self.wait_seconds = 0.0
        """That user code waited for data so far."""
        self.num_loops = 0
        """Loops over shared data that are under way."""
        self.doubtful = False
        """A step did not count as it should have: perhaps this worker was suspended, and its lots went back."""
        self._in_hand: list[Given] = []
        self._void = False
        self._again: dict[str, deque[Given]] = defaultdict(deque)

    @property
    def num_samples(self) -> float:
        """Samples in hand."""
        return sum(each.num_samples for each in self._in_hand)

    @property
    def held(self) -> list[int]:
        """Ids of the lots in hand."""
        return [int(each.lot.id) for each in self._in_hand if each.lot is not None]

    def give_out(
        self,
        num_samples: float,
        lot: Lot | None = None,
        batch_weight: float = 1.0,
        *,
        data_set: str = "",
        batch: Any = None,
    ) -> None:
        """User code has these samples now: of the whole worker, whatever part of them this process works on."""
        self.batch_weight = batch_weight
        self._in_hand.append(Given(data_set, num_samples, lot, batch))

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """User code waits for data inside the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.wait_seconds += time.perf_counter() - started

    def take(self) -> DataTaken:
        """What was given out since the last call."""
        taken = DataTaken(tuple(self._in_hand), self._void)
        self._in_hand, self._void = [], False
        return taken

    def take_back(self, data_set: str) -> None:
        """What user code has of a data set was only looked at: it is not part of the next step."""
        self._in_hand = [each for each in self._in_hand if each.data_set != data_set]

    def use_again(self, data: DataTaken) -> None:
        """The gradient of these data was dropped here, and the servers never heard of it: give them out again."""
        for each in data.given:
            self._again[each.data_set].append(each)

    def next_again(self, data_set: str = "") -> Given | None:
        """What to give out again of a data set, if there is any."""
        again = self._again[data_set]
        return again.popleft() if again else None

    def forget_unused(self) -> None:
        """What was dealt to this worker and is not in hand went back."""
        self.generation += 1
        for again in self._again.values():
            kept = [each for each in again if each.lot is None]
            again.clear()
            again.extend(kept)

    def forget_dealt(self) -> None:
        """The registrar has taken everything back: nothing dealt so far is this worker's any more."""
        self.forget_unused()
        dealt = [each for each in self._in_hand if each.lot is not None]
        self._void = self._void or bool(dealt)
        self._in_hand = [each for each in self._in_hand if each.lot is None]
