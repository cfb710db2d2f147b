"""The threads that handle calls, counted: one call has one of them for its whole life."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from .shard_readings import PoolFigures


class HandlerPool(ThreadPoolExecutor):
    """A pool for `grpc.server` that knows how many of its threads are taken, and how many calls wait for one."""

    def __init__(self, name: str, num_threads: int) -> None:
        super().__init__(num_threads, thread_name_prefix=f"rpc-{name}")
        self._name = name
        self._num_threads = num_threads
        self._counting = threading.Lock()
        self._num_submitted = self._num_begun = self._num_ended = 0
        self.on_shortage: Callable[[], None] = lambda: None
        """Told, before a call is taken in, that every thread is taken."""

    def figures(self) -> PoolFigures:
        """At this moment."""
        with self._counting:
            waiting = self._num_submitted - self._num_begun
            return PoolFigures(self._name, self._num_threads, self._num_begun - self._num_ended, waiting)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        with self._counting:
            short = self._num_submitted - self._num_ended >= self._num_threads
            self._num_submitted += 1
        if short:
            self.on_shortage()
        return super().submit(self._counted, fn, *args, **kwargs)

    def _counted(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._counting:
            self._num_begun += 1
        try:
            return fn(*args, **kwargs)
        finally:
            with self._counting:
                self._num_ended += 1
