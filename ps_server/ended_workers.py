"""Workers that have ended: the newest whole, the others as sums. Pure; owned by the roster."""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from ..protos.registrar_pb2 import WorkerReport
from .worker_figures import ends_on_some_shards_only
from .workers import Worker

ENDED_KEPT = 256
"""Workers that ended last: their figures are shown, and who asks is told how they ended."""
RETURNS_KNOWN = 128
"""Of those that are not shown, so many: if its process joins again, what it did before does not count twice."""
SUMMED = (
    *("num_steps", "num_samples", "steps_applied", "steps_skipped", "steps_dropped"),
    *("bytes_resent", "bytes_pushed", "bytes_pulled"),
)
"""What is kept of workers that are not shown: fields of their reports, of all ranks for bytes."""
_OF_ALL_RANKS = ("bytes_pushed", "bytes_pulled")
_MOST = 2**64 - 1


class EndedWorkers:
    """Invariants: at most `kept` are whole, each id once; what a process did is in the sums or with the worker that it is now,
    never in both and never in neither. What is done here costs the same however many have ended.
    """

    def __init__(self, num_shards: int, kept: int = ENDED_KEPT) -> None:
        self._sums: dict[str, float] = dict.fromkeys(SUMMED, 0)
        self.num_forgotten = 0
        """Trainers' processes that are in the sums. Written by this class only."""
        self._summed: OrderedDict[int, Worker] = OrderedDict()
        """The newest of those that are in the sums, by incarnation."""
        self._num_shards = num_shards
        self._kept = kept
        self._workers: dict[int, Worker] = {}
        self.split_steps_of_others = 0
        """Steps on some shards only, of workers that are not kept. Written by this class only."""

    def __iter__(self) -> Iterator[Worker]:
        """In the order in which they ended."""
        return iter(self._workers.values())

    def find(self, worker_id: int) -> Worker | None:
        return self._workers.get(worker_id)

    def add(self, worker: Worker) -> None:
        """It has ended; if need be, the one that ended first is forgotten."""
        self._workers[worker.worker_id] = worker
        if len(self._workers) > self._kept:
            self._forget(self._workers.pop(next(iter(self._workers))))

    def take(self, worker_id: int) -> Worker | None:
        """The id lives again: this incarnation of it is not shown any more."""
        worker = self._workers.pop(worker_id, None)
        if worker is not None:
            self._forget(worker)
        return worker

    def reclaim(self, worker_id: int, incarnation: int, num_ranks: int) -> Sequence[WorkerReport] | None:
        """The process of an incarnation that is not shown has joined again as the same worker, and goes on counting where it
        was: what its ranks said last, which is in the sums no more. None if it is not known."""
        worker = self._summed.get(incarnation)
        if worker is None or (worker.worker_id, worker.num_ranks) != (worker_id, num_ranks):
            return None
        del self._summed[incarnation]
        self.num_forgotten -= 1
        for name, said in _summed(worker).items():
            self._sums[name] -= said
        return worker.reports

    @property
    def forgotten(self) -> WorkerReport:
        """Steps, samples and bytes of those that are not shown, together."""
        together = WorkerReport()
        for name, total in self._sums.items():
            setattr(together, name, min(max(0, total), _MOST))
        return together

    @property
    def split_steps(self) -> int:
        """Steps that ended applied on some shards only."""
        return self.split_steps_of_others + sum(map(self._is_split, self))

    def _is_split(self, worker: Worker) -> bool:
        return ends_on_some_shards_only(worker.settled, self._num_shards)

    def _forget(self, worker: Worker) -> None:
        self.split_steps_of_others += self._is_split(worker)
        if worker.observer or worker.only_passed_by:
            return
        self.num_forgotten += 1
        for name, said in _summed(worker).items():
            self._sums[name] += said
        self._summed[worker.incarnation] = worker
        if len(self._summed) > RETURNS_KNOWN:
            self._summed.popitem(last=False)


def _summed(worker: Worker) -> dict[str, float]:
    """What it adds to each sum."""
    sums: dict[str, float] = {}
    for name in SUMMED:
        reports = worker.reports if name in _OF_ALL_RANKS else worker.reports[:1]
        said = sum(getattr(report, name) for report in reports)
        sums[name] = said if math.isfinite(said) and 0 <= said <= _MOST else 0
    return sums
