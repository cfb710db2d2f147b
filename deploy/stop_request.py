"""The wish of the user, or of the operating system, that a run ends."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..protos.deadlines import INSISTS_AFTER_SECONDS
from ..protos.ending_signals import ending_signals


class StopRequest:
    """Counts Ctrl-C and termination signals: the first asks, the second insists."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.insists = False
        self._asked_at = 0.0

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        if self.signal_number is None:
            self.signal_number, self._asked_at = signal_number, time.monotonic()
        elif time.monotonic() > self._asked_at + INSISTS_AFTER_SECONDS:
            self.insists = True

    @property
    def interrupted(self) -> bool:
        """It was Ctrl-C: scripts are to hear it as KeyboardInterrupt, and have time."""
        return self.signal_number == signal.SIGINT

    @contextmanager
    def installed(self) -> Iterator["StopRequest"]:
        """Takes the signals until the block is left. Main thread only.

        Once one has come, the process is at its end when the block is left: no further one may change its status then.
        """
        numbers = (signal.SIGINT, *ending_signals())
        before = {number: signal.signal(number, self) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if self.signal_number is None else signal.SIG_IGN)
