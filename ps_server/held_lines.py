"""Lines of log that are said while a lock is held, and written when nobody waits for whoever writes them."""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

MOST_HELD = 10_000


class Say(Protocol):
    """Takes a line: the function that will write it, with what that is called with, which must not change any more."""

    def __call__(self, tell: Callable[..., object], *args: object, **values: object) -> None: ...


def at_once(tell: Callable[..., object], *args: object, **values: object) -> None:
    """For who holds no lock."""
    tell(*args, **values)


class HeldLines:
    """Invariant: lines are written in the order in which they were said, each once. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lines: deque[Callable[[], object]] = deque()
        self._writing = threading.Lock()
        self._num_dropped = 0

    def say(self, tell: Callable[..., object], *args: object, **values: object) -> None:
        """Costs nothing but the keeping; to be called with the lock held. Beyond a bound lines are counted and not kept."""
        if len(self._lines) >= MOST_HELD:
            self._num_dropped += 1
            return
        if self._num_dropped:
            num_dropped, self._num_dropped = self._num_dropped, 0
            self._lines.append(lambda: log.warning("lines dropped: they were not written in time", lines=num_dropped))
        self._lines.append(lambda: tell(*args, **values))

    def write(self) -> None:
        """Writes what was said, unless another thread is about it, which then writes this too. Called without the lock."""
        while self._lines and self._writing.acquire(blocking=False):
            try:
                while self._lines:
                    self._lines.popleft()()
            finally:
                self._writing.release()


class QuietLock:
    """A lock under which nothing is logged: what was said meanwhile is written once it is released. Not reentrant."""

    def __init__(self, lock: threading.Condition, lines: HeldLines) -> None:
        self._lock = lock
        self._lines = lines

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        self._lines.write()
