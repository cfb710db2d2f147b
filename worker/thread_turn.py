"""One thread at a time is in a step: two would mix their gradients, and read values that are half written."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..protos.errors import SettingError


class ThreadTurn:
    """Which thread moves a replica. Steps of user code refuse to come between; what a loop over shared data does waits.

    A thread that has the turn may take it again.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stepping: threading.Thread | None = None
        """The thread that is in a step of user code."""

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """User code steps inside the block; `what` it has called, for people. Waits for a loop over shared data.

        Raises:
            SettingError: another thread is in a step; nothing was done.
        """
        self.check(what)
        with self._lock:
            before, self._stepping = self._stepping, threading.current_thread()
            try:
                yield
            finally:
                self._stepping = before

    @contextmanager
    def loop(self) -> Iterator[None]:
        """A loop over shared data takes part in a round inside the block. Waits for a step."""
        with self._lock:
            yield

    def check(self, what: str) -> None:
        """Raises SettingError if another thread is in a step; `what` comes in its way."""
        stepping = self._stepping
        if stepping is not None and stepping is not threading.current_thread():
            raise SettingError(
                f"{what} in thread {threading.current_thread().name!r} while optimizer.step() is under way in thread "
                f"{stepping.name!r}: one thread at a time trains a model of a worker. Let one thread take all steps, or keep "
                "the others out with a lock around backward and step; threads that train by themselves are workers of their "
                "own, each with its connect() and model"
            )
