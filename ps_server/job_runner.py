"""Threads that apply jobs: one after the other, the bundles of a job in parallel, front of the model first."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from .blocks import Bundle
from .effects import Job


class JobHost(Protocol):
    """Whose jobs are run."""

    def begin_job(self, job: Job) -> Callable[[Bundle], None]:
        """Returns what applies the job to one bundle; called by many threads."""

    def end_job(self, job: Job) -> None:
        """Every bundle is done."""

    def fail(self, error: Exception) -> None:
        """Applying went wrong in a way that must not happen: the state cannot be trusted any more."""


class JobRunner:
    """A thread that takes jobs in order and a fixed pool that takes bundles. Nothing here holds a lock."""

    def __init__(self, host: JobHost, bundles: Sequence[Bundle], num_threads: int) -> None:
        self._host = host
        self._bundles = bundles
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="apply") if num_threads > 1 else None
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Adds a job; they run in the order of submission."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Ends behind the jobs that were submitted."""
        self._jobs.put(None)
        self._thread.join()
        if self._pool is not None:
            self._pool.shutdown()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._run_one(job)
            except Exception as error:
                self._host.fail(error)
                return
            # A job holds its frames: they must not live on until the next one comes.
            del job

    def _run_one(self, job: Job) -> None:
        apply = self._host.begin_job(job)
        if job.parts:
            list((self._pool.map if self._pool else map)(apply, self._bundles))
        self._host.end_job(job)
