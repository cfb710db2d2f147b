"""Threads that apply jobs: one after the other, the bundles of a job in parallel, front of the model first."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from ..protos.registrar_pb2 import ShardReport
from .apply import BundleResult, Pass
from .blocks import Bundle
from .effects import Job


class JobHost(Protocol):
    """Whose jobs are run."""

    def begin_job(self, job: Job) -> Sequence[Pass]:
        """Returns the passes over all bundles that apply the job."""

    def bundle_done(self, bundle: Bundle, result: BundleResult) -> None:
        """A pass is done with a bundle; called by many threads."""

    def report(self, report: ShardReport) -> None:
        """Tells the registrar."""

    def end_job(self, job: Job) -> None:
        """Every bundle is done."""

    def fail(self, error: Exception) -> None:
        """Applying went wrong in a way that must not happen: the state cannot be trusted any more."""


class JobRunner:
    """A thread that takes jobs in order and a fixed pool that takes bundles. `lock`, which guards the host, is held around
    passes, not while they go over bundles.
    """

    def __init__(self, host: JobHost, bundles: Sequence[Bundle], num_threads: int, lock: threading.Lock) -> None:
        self._host = host
        self._bundles = bundles
        self._changed = threading.Condition(lock)
        self._stopping = False
        self._jobs: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="apply") if num_threads > 1 else None
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Adds a job; they run in the order of submission."""
        self._jobs.put(job)

    def wake(self) -> None:
        """A pass may have become ready. The lock is held."""
        self._changed.notify_all()

    def wait(self, timeout_seconds: float) -> bool:
        """Waits until the jobs that were submitted are done; False if they are not after this time."""
        done = threading.Event()
        self._jobs.put(done.set)
        return done.wait(timeout_seconds)

    def stop(self) -> None:
        """Ends behind the jobs that were submitted, or where one waits for what will not come any more."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._jobs.put(None)
        self._thread.join()
        if self._pool is not None:
            self._pool.shutdown()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if isinstance(job, Job):
                    self._run_one(job)
                else:
                    job()
            except Exception as error:
                self._host.fail(error)
                return
            # A job holds its frames: they must not live on until the next one comes.
            del job

    def _run_one(self, job: Job) -> None:
        passes = self._host.begin_job(job)
        for each in passes:
            with self._changed:
                self._changed.wait_for(lambda each=each: each.ready() or self._stopping)  # type: ignore[misc]
                if not each.ready():
                    return
                each.begin()
            self._go_over_bundles(each)
            with self._changed:
                for report in each.end():
                    self._host.report(report)
        self._host.end_job(job)

    def _go_over_bundles(self, each: Pass) -> None:
        def go(bundle: Bundle) -> None:
            self._host.bundle_done(bundle, each.over(bundle))

        list((self._pool.map if self._pool else map)(go, self._bundles))
