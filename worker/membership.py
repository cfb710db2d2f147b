"""This process's place in the job: joining, heartbeats, and coming back after an expired lease."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

import grpc

from ..protos.common_pb2 import JobSpecification
from ..protos.errors import (
    ExpiredError,
    FencedError,
    JobOverError,
    PushpullError,
    ReplacedError,
    ServerLostError,
    StepError,
)
from ..protos.registrar_pb2 import JoinResponse, WorkerReport
from .ending import failure_text
from .heartbeat import Heartbeat
from .ranks.group import Ranks
from .registrar_client import UNNAMED_JOB, RegistrarClient, WantedJob
from .unlike_warnings import UnlikeWarnings

logger = logging.getLogger(__name__)


class Membership:
    """One worker id over all its incarnations in this process.

    Of several ranks the first one joins and leaves; every one keeps a lease of its own alive.
    """

    def __init__(
        self,
        registrar: RegistrarClient,
        worker_id: int,
        ranks: Ranks,
        layout: str,
        report: Callable[[], WorkerReport],
        wanted: WantedJob = UNNAMED_JOB,
    ) -> None:
        self.registrar = registrar
        self._ranks = ranks
        self._layout = layout
        self._wanted = wanted
        self.on_end: Callable[[PushpullError], None] = lambda error: None
        """Told from the heartbeat's thread when this incarnation may not act any more, or the job is over."""
        self._report = report
        self._fenced: FencedError | None = None
        self._over: JobOverError | None = None
        self._leaving = threading.Lock()
        self._left: int | None = None
        """Incarnation that has left: other threads need not."""
        self._told_to_end = False
        self._agreed_first = False
        self._unlike = UnlikeWarnings()
        response = self._join(worker_id)
        self.worker_id: int = response.worker_id
        self.job: JobSpecification = response.job
        registrar.follow(self.job)
        self._heartbeat = self._beat(response)

    @property
    def incarnation(self) -> int:
        return self.registrar.incarnation

    @property
    def life(self) -> int:
        """Incarnations of this worker's id before this one."""
        return self.registrar.life

    @property
    def num_workers(self) -> int:
        """Trainers in the job as far as this worker knows."""
        return self._heartbeat.num_workers

    @property
    def is_first(self) -> bool:
        """Whether this worker is the job's first one now; of several ranks, when they last agreed on it."""
        return self._agreed_first if self._ranks.num_ranks > 1 else self._may_be_first()

    def ask_whether_first(self) -> None:
        """Of the registrar, at once. Every rank calls it together."""
        with contextlib.suppress(grpc.RpcError):
            self._heartbeat.beat()
        self.agree_on_first()

    def agree_on_first(self) -> None:
        """Every rank calls it together, once a step: they must not take different ways at `if worker.is_first`."""
        if self._ranks.num_ranks > 1:
            self._agreed_first = self._ranks.from_first(self._may_be_first)

    def _may_be_first(self) -> bool:
        gone = self._fenced is not None or self._left == self.incarnation
        return not gone and time.monotonic() < self._heartbeat.first_until

    def check(self) -> None:
        """Raises why this incarnation may not act any more, if so.

        Raises:
            FencedError, JobOverError: a heartbeat brought it; ExpiredError also for one that is suspended.
            StepError: this process was told to end.
        """
        if self._told_to_end:
            raise StepError("this worker was told to end (by a signal) and leaves the job")
        if self._over is not None:
            raise self._over
        if self._fenced is not None:
            raise self._fenced
        if self._heartbeat.suspended and self._still_suspended():
            raise ExpiredError(f"this worker was suspended ({self._heartbeat.suspended}) and its data went to others")

    def rejoin(self) -> None:
        """A new incarnation after the lease of this one ran out.

        Raises:
            ReplacedError: another process has taken the id meanwhile.
            ServerLostError: the servers run another job now.
        """
        self._heartbeat.stop()
        self._ranks.together(self._check_may_rejoin)
        response = self._join(self.worker_id)
        if response.job.job_id != self.job.job_id:
            raise ServerLostError(
                f"the registrar at {self.registrar.address} was started again and serves another job; restart this worker"
            )
        self._fenced = None
        self._heartbeat = self._beat(response)

    def leave(self, failure: str, finished: bool = True) -> None:
        """Ends this incarnation, unless it is fenced already. A rank that has not failed leaves it to the first one.

        `finished`: with the last worker that has, the run is over.
        """
        if failure or self._ranks.rank == 0:
            self._leave(failure, whole_worker=not finished)
        self._heartbeat.stop()

    def leave_at_once(self) -> None:
        """This process was told to end, and with it its whole worker, whatever the other ranks do. From any thread."""
        self._told_to_end = True
        self._leave(failure="", whole_worker=True)
        self._heartbeat.stop()

    def _leave(self, failure: str, whole_worker: bool = False) -> None:
        with self._leaving:  # a thread that comes second goes on when the registrar knows
            if self._fenced is None and self._left != self.incarnation:
                self._unlike.take(self.registrar.leave(self._report(), failure, whole_worker))
                self._left = self.incarnation

    def say_goodbye(self) -> None:
        """Where another rank leaves for the worker: this one's final figures. Its silence ends nobody from now on."""
        if self._ranks.rank > 0 and self._fenced is None:
            self._heartbeat.stop()
            self.registrar.leave(self._report(), failure="")

    @contextlib.contextmanager
    def ending_all_ranks(self) -> Iterator[None]:
        """Around waiting for what servers make of the parts of all ranks: one that fails in it ends the worker at once.

        The others would wait for the part that it did not send, and could not be told by it that it will never come. An
        expired lease ends the wait of all ranks by itself.
        """
        try:
            yield
        except PushpullError as error:
            if self._ranks.num_ranks > 1 and not isinstance(error, ExpiredError):
                self.leave(failure_text(error))
            raise

    def job_is_over(self, error: JobOverError) -> None:
        """A server has said so. From now on nobody waits for one that does not answer. From any thread."""
        self._over = error
        self.registrar.give_up(error)

    def _join(self, worker_id: int) -> JoinResponse:
        response = self._ranks.from_first(lambda: self._ask(worker_id))
        self.registrar.speak_for(response)
        if response.replaced and self._ranks.rank == 0:
            logger.warning(
                "worker %d takes the place of %s, which was still in the job and ends now; two processes with one id end each "
                "other: leave out --id, or give each its own",
                response.worker_id,
                response.replaced,
            )
        return response

    def _still_suspended(self) -> bool:
        """Asks: a step that came late may have made this worker count again since the newest heartbeat."""
        with contextlib.suppress(grpc.RpcError, ValueError):  # ValueError: the channel was closed under this call
            self._heartbeat.beat()
        return bool(self._heartbeat.suspended)

    def _ask(self, worker_id: int) -> JoinResponse:
        return self.registrar.join(worker_id, self._ranks.num_ranks, self._layout, self._wanted)

    def _check_may_rejoin(self) -> None:
        if self._told_to_end:
            self.check()
        if isinstance(self._fenced, ReplacedError):
            raise self._fenced

    def _beat(self, response: JoinResponse) -> Heartbeat:
        heartbeat = Heartbeat(self.registrar, self.job.lease_seconds, self._report, self._take_end, self._unlike.take)
        heartbeat.num_workers = response.num_workers
        heartbeat.start()
        return heartbeat

    def _take_end(self, error: PushpullError) -> None:
        if isinstance(error, ExpiredError):
            logger.warning("worker %d: the lease ran out; the next step joins again", self.worker_id)
        if isinstance(error, FencedError):
            self._fenced = error
        if isinstance(error, JobOverError):
            self.job_is_over(error)
        self.on_end(error)
