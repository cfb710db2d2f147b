"""The wish of the user, or of the operating system, that a run ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Counts Ctrl-C and termination signals: the first asks, the second insists."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.insists = False

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        self.insists = self.signal_number is not None
        self.signal_number = signal_number

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
