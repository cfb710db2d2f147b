"""The workers of this process that have not left their job: what a second `connect()` must know of the first.

A process has one such set, as it has one identity for its jobs: the registry lives as long as the process.
"""

import gc
import logging
import threading
import weakref
from dataclasses import replace
from typing import Protocol

from .config import ANY_WORKER_ID, WorkerConfig

logger = logging.getLogger(__name__)


class OpenWorker(Protocol):
    """What is asked of a worker here."""

    @property
    def id(self) -> int: ...

    @property
    def servers(self) -> tuple[str, ...]:
        """As they were given to `connect()`."""

    def close(self, failure: str = "", *, finished: bool = True) -> None: ...


class OpenWorkers:
    """Holds none of them alive."""

    def __init__(self) -> None:
        self._workers: weakref.WeakKeyDictionary[OpenWorker, int] = weakref.WeakKeyDictionary()
        """With the thread that each was made in."""

    def add(self, worker: OpenWorker) -> None:
        self._workers[worker] = threading.get_ident()

    def discard(self, worker: OpenWorker) -> None:
        self._workers.pop(worker, None)

    def let_abandoned_leave(self) -> None:
        """Those that nothing refers to any more (a cell of a notebook that was run again) leave now, not some time."""
        if self._workers:
            gc.collect()

    def let_replaced_leave(self) -> list[OpenWorker]:
        """The same, where this thread has made more than one: its next step might wait for one that it let go of meanwhile.

        Returns those of this thread that are still there.
        """
        if len(self._of_this_thread()) > 1:
            gc.collect()
        return self._of_this_thread()

    def first_step(self) -> None:
        """Ahead of the first step of a worker: the names of a cell that is run again are bound anew by now."""
        left = self.let_replaced_leave()
        if len(left) > 1:
            logger.warning(
                "workers %s of this thread have not left their job: the step of one may wait for the others, which only this "
                "thread can move. Close those that are not used any more (worker.close(), or `with connect() as worker:`)",
                ", ".join(str(worker.id) for worker in sorted(left, key=lambda worker: worker.id)),
            )

    def _of_this_thread(self) -> list[OpenWorker]:
        return [worker for worker, thread in list(self._workers.items()) if thread == threading.get_ident()]

    def make_room(self, config: WorkerConfig, insists: bool) -> WorkerConfig:
        """For one more worker, before it joins; the configuration that it may join with.

        Where an open worker has the id that it would take: if the id was asked for (`insists`) that one leaves, else (the
        environment says it) the new one is a second worker with an id of its own.
        """
        self.let_abandoned_leave()
        holder = next(
            (w for w in list(self._workers) if w.id == config.worker_id and w.servers == config.servers), None
        )
        if holder is None:
            return config
        if insists:
            logger.warning(
                "worker %d of this process is still open; it leaves, and a new one takes its place", holder.id
            )
            holder.close(finished=False)
            return config
        logger.warning(
            "this process is worker %d already, which is still open: this is one more worker, with an id of its own; close the "
            "first if it is not used any more",
            holder.id,
        )
        return replace(config, worker_id=ANY_WORKER_ID)


HERE = OpenWorkers()
