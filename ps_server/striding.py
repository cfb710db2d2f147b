"""Data without positions: which worker takes every so manieth batch of an epoch, and from which on. Pure; owned by the dealer.

The workers that are there when an epoch begins divide it among them, by their places in the order of ids. One that joins later
comes to the next epoch: every batch is read once, but those of a worker that is lost.
"""

from collections.abc import Collection

from ..protos.registrar_pb2 import DealResponse

MOST_DIVISIONS = 4096
"""Epochs of all data sets whose division is known; the oldest are forgotten first."""


class Strides:
    """Who divides which epoch."""

    def __init__(self) -> None:
        self._readers: dict[tuple[str, int], tuple[int, ...]] = {}
        self._newest_of: dict[tuple[str, int], int] = {}
        """The newest epoch that a worker has asked for, by data set and worker."""

    def place(self, data_set: str, epoch: int, worker: int, live: Collection[int]) -> DealResponse:
        """This worker's place in an epoch; `live` are the trainers of this moment."""
        if self._is_over(data_set, epoch, worker, live):
            return DealResponse(state=DealResponse.STATE_OVER)
        readers = self._readers.setdefault((data_set, epoch), tuple(sorted(live)))
        if len(self._readers) > MOST_DIVISIONS:
            del self._readers[next(iter(self._readers))]
        if worker not in readers:
            return DealResponse(state=DealResponse.STATE_OVER)
        self._newest_of[data_set, worker] = max(epoch, self._newest_of.get((data_set, worker), 0))
        return DealResponse(state=DealResponse.STATE_LOTS, place=readers.index(worker), num_places=len(readers))

    def forget(self, worker: int) -> None:
        """A worker is gone."""
        for key in [key for key in self._newest_of if key[1] == worker]:
            del self._newest_of[key]

    def _is_over(self, data_set: str, epoch: int, worker: int, live: Collection[int]) -> bool:
        """Whether everybody else has gone on: a late joiner comes to the epoch that goes on."""
        if (data_set, worker) in self._newest_of:
            return False
        others = [self._newest_of[data_set, other] for other in live if (data_set, other) in self._newest_of]
        return bool(others) and min(others) > epoch
