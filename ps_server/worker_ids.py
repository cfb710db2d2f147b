"""Which worker ids somebody has had. Pure; owned by the roster."""

from bisect import bisect_right

MOST_SCATTERED = 4096
"""Runs of chosen ids above the first that nobody had. Beyond this number the smallest gap between two is given up."""


class WorkerIds:
    """Invariant: an id that was taken is never free again. What is kept is bounded and ids that are given stay small, whatever
    ids others choose."""

    def __init__(self, reserved: int = 0) -> None:
        self._next = 0
        """Ids below it are taken."""
        self._reserved = reserved
        """Ids below it are kept back for workers that choose theirs."""
        self._above: list[tuple[int, int]] = []
        """First and last id of each run beyond `_next`, ascending."""

    @property
    def free(self) -> int:
        """The smallest id that nobody ever had and that is not reserved: figures of workers that left stay theirs."""
        free = max(self._reserved, self._next)
        return self._last_with(free) + 1 if self.was_taken(free) else free

    def was_taken(self, worker_id: int) -> bool:
        return worker_id < self._next or worker_id <= self._last_with(worker_id)

    def take(self, worker_id: int) -> None:
        """Somebody has this id from now on. Taking it again changes nothing."""
        if self.was_taken(worker_id):
            return
        place = self._place(worker_id)
        self._above.insert(place, (worker_id, worker_id))
        for later in (place + 1, place):
            if 0 < later < len(self._above) and self._gap_before(later) == 0:
                self._close_gap_before(later)
        if len(self._above) > MOST_SCATTERED:
            self._close_gap_before(min(range(len(self._above)), key=self._gap_before))
        if self._above[0][0] == self._next:
            self._close_gap_before(0)

    def _place(self, worker_id: int) -> int:
        """Of the first run that begins behind an id."""
        return bisect_right(self._above, worker_id, key=lambda run: run[0])

    def _last_with(self, worker_id: int) -> int:
        """The last id of the run that begins at this id, or before it; -1 without any."""
        place = self._place(worker_id)
        return self._above[place - 1][1] if place else -1

    def _gap_before(self, place: int) -> int:
        """Ids between a run and what was taken before it."""
        return self._above[place][0] - (self._above[place - 1][1] + 1 if place else self._next)

    def _close_gap_before(self, place: int) -> None:
        _, last = self._above.pop(place)
        if place == 0:
            self._next = last + 1
        else:
            self._above[place - 1] = self._above[place - 1][0], last
