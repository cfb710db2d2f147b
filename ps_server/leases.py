"""Leases: how long a silent rank still counts. Pure; time comes in as seconds of one monotonic clock."""

import math


class Leases:
    """Deadlines of the ranks of incarnations: an incarnation lives while all its ranks do.

    A registrar that was itself paused (stopped, swapping) wakes up with every deadline in the past. It must not blame
    the workers, so what its own ticks were late is added to all leases before any is judged.
    """

    def __init__(self, lease_seconds: float, tick_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._tick_seconds = tick_seconds
        self._deadlines: dict[int, dict[int, float]] = {}
        """By incarnation, then by rank."""
        self._last_tick: float | None = None

    def grant(self, incarnation: int, num_ranks: int, now: float) -> None:
        """Gives every rank of an incarnation a lease."""
        self._deadlines[incarnation] = dict.fromkeys(range(num_ranks), now + self._lease_seconds)

    def renew(self, incarnation: int, rank: int, now: float) -> None:
        """Extends the lease of one rank, if it has one."""
        ranks = self._deadlines.get(incarnation, {})
        if rank in ranks:
            ranks[rank] = now + self._lease_seconds

    def silent_seconds(self, incarnation: int, now: float) -> float:
        """Since the last sign of life of the rank that has been silent longest; 0 for an incarnation without a lease."""
        earliest = min(self._deadlines.get(incarnation, {}).values(), default=math.inf)
        return max(0.0, now + self._lease_seconds - earliest)

    def end(self, incarnation: int) -> None:
        """Forgets an incarnation."""
        self._deadlines.pop(incarnation, None)

    def end_rank(self, incarnation: int, rank: int) -> None:
        """Forgets one rank: its silence ends nobody from now on."""
        self._deadlines.get(incarnation, {}).pop(rank, None)

    def expired(self, now: float) -> list[tuple[int, int]]:
        """(incarnation, rank) of those whose lease has run out, ascending; to be called once per tick."""
        late = 0.0 if self._last_tick is None else now - self._last_tick - 2 * self._tick_seconds
        self._last_tick = now
        if late > 0:
            for ranks in self._deadlines.values():
                for rank in ranks:
                    ranks[rank] += late
        return sorted(
            (incarnation, rank)
            for incarnation, ranks in self._deadlines.items()
            for rank, deadline in ranks.items()
            if deadline < now
        )
