"""Data without positions: which worker takes every so manieth batch of an epoch, and from which on. Pure; owned by the dealer.

The workers that are there when an epoch begins divide it among them, by their places in the order of ids. One that joins later
comes to the next epoch: every batch is read once, but those of a worker that is lost.
"""

from collections.abc import Collection

from ..protos.errors import SettingError
from ..protos.registrar_pb2 import DealResponse

MOST_DIVISIONS = 4096
"""Epochs of all data sets whose division is known; the oldest are forgotten first."""
MOST_STREAMS_OF_A_WORKER = 64
"""Data sets without positions that one worker may name."""


class Strides:
    """Who divides which epoch."""

    def __init__(self) -> None:
        self._readers: dict[tuple[str, int], tuple[int, ...]] = {}
        self._newest_of: dict[int, dict[str, int]] = {}
        """The newest epoch that each worker has asked for, by data set."""

    def place(self, data_set: str, epoch: int, worker: int, live: Collection[int]) -> DealResponse:
        """This worker's place in an epoch; `live` are the trainers of this moment.

        Raises:
            SettingError: it names more data sets than any honest worker.
        """
        mine = self._newest_of.get(worker, {})
        if data_set not in mine and len(mine) >= MOST_STREAMS_OF_A_WORKER:
            raise SettingError(
                f"worker {worker} shares more than {MOST_STREAMS_OF_A_WORKER} data sets; give the same ones to worker.share() "
                "in every epoch, or name them: worker.share(..., name=...)"
            )
        if self._is_over(data_set, epoch, worker, live):
            return DealResponse(state=DealResponse.STATE_OVER)
        readers = self._readers.setdefault((data_set, epoch), tuple(sorted(live)))
        if len(self._readers) > MOST_DIVISIONS:
            del self._readers[next(iter(self._readers))]
        if worker not in readers:
            return DealResponse(state=DealResponse.STATE_OVER)
        newest = self._newest_of.setdefault(worker, {})
        newest[data_set] = max(epoch, newest.get(data_set, 0))
        return DealResponse(state=DealResponse.STATE_LOTS, place=readers.index(worker), num_places=len(readers))

    def forget(self, worker: int) -> None:
        """A worker is gone."""
        self._newest_of.pop(worker, None)

    def _is_over(self, data_set: str, epoch: int, worker: int, live: Collection[int]) -> bool:
        """Whether everybody else has gone on: a late joiner comes to the epoch that goes on."""
        if data_set in self._newest_of.get(worker, {}):
            return False
        read = [self._newest_of[other] for other in live if other in self._newest_of]
        others = [newest[data_set] for newest in read if data_set in newest]
        return bool(others) and min(others) > epoch
