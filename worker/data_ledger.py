"""Which data the gradient at hand was computed from. Pure; owned by the training thread."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from ..protos.registrar_pb2 import Lot


@dataclass(frozen=True)
class DataTaken:
    """Lots, and samples in all, that were given out since the step before."""

    lots: tuple[Lot, ...] = ()
    num_samples: float = 0.0


class DataLedger:
    """Keeps account of data between `worker.share()`, which gives it out, and `optimizer.step()`, which uses it up."""

    def __init__(self) -> None:
        self.generation = 0
        """Grows when everything that was dealt to this worker went back to the pool."""
        self.batch_weight = 1.0
        """Of the batch given out last; see `share.batch_weight`."""
        self.wait_seconds = 0.0
        """That user code waited for data so far."""
        self._lots: list[Lot] = []
        self._num_samples = 0.0
        self._again: deque[Lot] = deque()

    @property
    def idle(self) -> bool:
        """Whether nothing that was given out waits for its step."""
        return not self._lots

    @property
    def num_samples(self) -> float:
        """Samples given out since the last `take`."""
        return self._num_samples

    def give_out(self, num_samples: float, lot: Lot | None = None, batch_weight: float = 1.0) -> None:
        """User code has these samples now: of the whole worker, whatever part of them this process works on."""
        self.batch_weight = batch_weight
        self._num_samples += num_samples
        if lot is not None:
            self._lots.append(lot)

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
        taken = DataTaken(tuple(self._lots), self._num_samples)
        self._lots, self._num_samples = [], 0.0
        return taken

    def use_again(self, data: DataTaken) -> None:
        """The gradient of these data was dropped here, and the servers never heard of it: give them out again."""
        self._again.extend(data.lots)

    def next_again(self) -> Lot | None:
        """A lot to give out again, if there is one."""
        return self._again.popleft() if self._again else None

    def forget_dealt(self) -> None:
        """The registrar has taken everything back: nothing dealt so far is this worker's any more."""
        self.generation += 1
        self._again.clear()
        self.take()
