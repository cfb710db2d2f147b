"""Workers that have ended: the newest whole, the others as sums. Pure; owned by the roster."""

import math
from collections.abc import Iterator

from ..protos.registrar_pb2 import WorkerReport
from .worker_figures import ends_on_some_shards_only
from .workers import Worker

ENDED_KEPT = 256
"""Workers that ended last: their figures are shown, and who asks is told how they ended."""
SUMMED = (
    *("num_steps", "num_samples", "steps_applied", "steps_skipped", "steps_dropped"),
    *("bytes_resent", "bytes_pushed", "bytes_pulled"),
)
"""What is kept of forgotten workers: fields of their reports, of all ranks for bytes."""
_OF_ALL_RANKS = ("bytes_pushed", "bytes_pulled")
_MOST = 2**64 - 1


class EndedWorkers:
    """Invariant: at most `kept` are whole, each id once. What is done here costs the same however many have ended."""

    def __init__(self, num_shards: int, kept: int = ENDED_KEPT) -> None:
        self.num_forgotten = 0
        self._sums: dict[str, float] = dict.fromkeys(SUMMED, 0)
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
        """The id lives again: its new incarnation goes on where this one ended."""
        worker = self._workers.pop(worker_id, None)
        if worker is not None:
            self.split_steps_of_others += self._is_split(worker)
        return worker

    @property
    def forgotten(self) -> WorkerReport:
        """Steps, samples and bytes of those that are not kept, together."""
        together = WorkerReport()
        for name, total in self._sums.items():
            setattr(together, name, total)
        return together

    @property
    def split_steps(self) -> int:
        """Steps that ended applied on some shards only."""
        return self.split_steps_of_others + sum(map(self._is_split, self))

    def _is_split(self, worker: Worker) -> bool:
        return ends_on_some_shards_only(worker.settled, self._num_shards)

    def _forget(self, worker: Worker) -> None:
        self.split_steps_of_others += self._is_split(worker)
        if worker.observer:
            return
        self.num_forgotten += 1
        for name in SUMMED:
            reports = worker.reports if name in _OF_ALL_RANKS else worker.reports[:1]
            said = sum(getattr(report, name) for report in reports)
            if math.isfinite(said):
                self._sums[name] = min(self._sums[name] + said, _MOST)
