"""Leases: how long a silent incarnation still counts. Pure; time comes in as seconds of one monotonic clock."""


class Leases:
    """Deadlines of incarnations.

    A registrar that was itself paused (stopped, swapping) wakes up with every deadline in the past. It must not blame
    the workers, so what its own ticks were late is added to all leases before any is judged.
    """

    def __init__(self, lease_seconds: float, tick_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._tick_seconds = tick_seconds
        self._deadlines: dict[int, float] = {}
        self._last_tick: float | None = None

    def renew(self, incarnation: int, now: float) -> None:
        """Grants or extends the lease of an incarnation."""
        self._deadlines[incarnation] = now + self._lease_seconds

    def end(self, incarnation: int) -> None:
        """Forgets an incarnation."""
        self._deadlines.pop(incarnation, None)

    def expired(self, now: float) -> list[int]:
        """Incarnations whose lease has run out; to be called once per tick."""
        late = 0.0 if self._last_tick is None else now - self._last_tick - 2 * self._tick_seconds
        self._last_tick = now
        if late > 0:
            for incarnation in self._deadlines:
                self._deadlines[incarnation] += late
        return sorted(incarnation for incarnation, deadline in self._deadlines.items() if deadline < now)
