"""Threads that are there before they are needed: a process that is short of memory gets no new one when it must end."""

import threading
from collections.abc import Callable


class Standby:
    """A daemon thread that waits for the one thing that it is to do."""

    def __init__(self, name: str) -> None:
        self._work: Callable[[], object] | None = None
        self._taking = threading.Lock()
        self._wanted = threading.Event()
        self._done = threading.Event()
        threading.Thread(target=self._wait, name=name, daemon=True).start()

    def run(self, work: Callable[[], object]) -> None:
        """Has it done, and does not wait. Only the first call counts."""
        with self._taking:
            if not self._wanted.is_set():
                self._work = work
                self._wanted.set()

    def wait(self, seconds: float) -> bool:
        """Whether it was done, or failed, within so long."""
        return self._done.wait(seconds)

    def dismiss(self) -> None:
        """It will not be needed."""
        self.run(lambda: None)

    def _wait(self) -> None:
        self._wanted.wait()
        assert self._work is not None
        try:
            self._work()
        finally:
            self._done.set()
