"""Which worker ids somebody has had. Pure; owned by the roster."""

MOST_SCATTERED = 4096
"""Chosen ids above the first that nobody had. Beyond this number gaps between them are given up."""


class WorkerIds:
    """Invariant: an id that was taken is never free again. Bounded, whatever ids workers choose."""

    def __init__(self, reserved: int = 0) -> None:
        self._next = 0
        self._free = reserved
        """Ids below it are taken, or kept back for workers that choose theirs."""
        self._above: set[int] = set()

    @property
    def free(self) -> int:
        """The smallest id that nobody ever had and that is not reserved: figures of workers that left stay theirs."""
        self._free = max(self._free, self._next)
        while self._free in self._above:
            self._free += 1
        return self._free

    def was_taken(self, worker_id: int) -> bool:
        return worker_id < self._next or worker_id in self._above

    def take(self, worker_id: int) -> None:
        """Somebody has this id from now on. Taking it again changes nothing."""
        if worker_id < self._next:
            return
        self._above.add(worker_id)
        if len(self._above) > MOST_SCATTERED:
            self._next = min(self._above)
        while self._next in self._above:
            self._above.remove(self._next)
            self._next += 1
