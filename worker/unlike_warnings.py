"""Tells people that numbers of this worker's steps do not count, because other workers' differ."""

import logging
import threading
from collections.abc import Iterable

from ..protos.registrar_pb2 import UnlikeNumber

logger = logging.getLogger(__name__)


class UnlikeWarnings:
    """Warns once of each number, for each worker that it differs from. From any thread."""

    def __init__(self) -> None:
        self._told: set[tuple[int, int, str]] = set()
        self._telling = threading.Lock()

    def take(self, numbers: Iterable[UnlikeNumber]) -> None:
        """As the registrar says them, the same ones again and again."""
        with self._telling:
            for number in numbers:
                key = number.holder_id, number.group, number.name
                if key not in self._told:
                    self._told.add(key)
                    logger.warning("%s", in_words(number))


def in_words(number: UnlikeNumber) -> str:
    """Who differs from whom in what, whose counts, and what to do."""
    return (
        f"{number.name} of parameter group {number.group} differs between workers: {number.value!r} on worker "
        f"{number.worker_id}, {number.held!r} on worker {number.holder_id} (first in round {number.round}). In a synchronous "
        f"round the numbers of the applied worker with the lowest id count for all, so worker {number.worker_id}'s do nothing: "
        "set the same on every worker, and step schedulers on a number that all have in common (the step, a validation loss "
        "over the same data)"
    )
