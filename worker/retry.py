"""How long and how often to try again. Pure: time comes in as an argument."""

from dataclasses import dataclass

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 1.0


@dataclass
class Patience:
    """Delays that double up to a second, until `patience_seconds` have passed since the first failure in a row."""

    patience_seconds: float
    _failing_since: float | None = None
    _delay_seconds: float = FIRST_DELAY_SECONDS

    def delay_after_failure(self, now: float) -> float | None:
        """Seconds to wait before the next attempt; None when patience is at its end. `now` in monotonic seconds."""
        if self._failing_since is None:
            self._failing_since = now
        left = self._failing_since + self.patience_seconds - now
        if left <= 0:
            return None
        delay, self._delay_seconds = self._delay_seconds, min(2 * self._delay_seconds, LONGEST_DELAY_SECONDS)
        return min(delay, left)

    def failing_seconds(self, now: float) -> float:
        """For how long attempts have failed by now."""
        return 0.0 if self._failing_since is None else now - self._failing_since

    def succeeded(self) -> None:
        """The failures in a row are over."""
        self._failing_since = None
        self._delay_seconds = FIRST_DELAY_SECONDS
