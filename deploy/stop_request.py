"""The wish of the user, or of the operating system, that a run ends."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INSISTS_AFTER_SECONDS = 1.0
"""A second signal counts, unless it comes so soon that it is the first one sent twice: to the process and to its group."""


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

    @contextmanager
    def installed(self) -> Iterator["StopRequest"]:
        """Takes the signals until the block is left. Main thread only."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
