"""Calls that have been opened and have said nothing yet: so many at most, each for so long. Pure; time is an argument."""

from collections.abc import Hashable
from typing import Generic, TypeVar

Call = TypeVar("Call", bound=Hashable)


class SilentCalls(Generic[Call]):
    """Who is waited for, the oldest first. Times are monotonic seconds."""

    def __init__(self, most: int, patience_seconds: float) -> None:
        self._most = most
        self._patience_seconds = patience_seconds
        self._since: dict[Call, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    def opened(self, now: float, call: Call) -> list[Call]:
        """One more; returns those that must make room for it, which are forgotten."""
        self._since[call] = now
        return [self._forget_oldest() for _ in range(len(self._since) - self._most)]

    def heard(self, call: Call) -> bool:
        """It has said something, or has ended. False if it had to go before."""
        return self._since.pop(call, None) is not None

    def make_room(self) -> Call | None:
        """Somebody waits for a thread: the oldest call that has said nothing gives its own up. None if all have spoken."""
        return self._forget_oldest() if self._since else None

    def overdue(self, now: float) -> list[Call]:
        """Those whose time is up; they are forgotten."""
        late = [call for call, since in self._since.items() if now - since > self._patience_seconds]
        for call in late:
            del self._since[call]
        return late

    def _forget_oldest(self) -> Call:
        oldest = next(iter(self._since))
        del self._since[oldest]
        return oldest
