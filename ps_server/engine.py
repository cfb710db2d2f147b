"""Runs one shard: serialises calls into the core, carries out its effects, applies jobs.

One lock guards the core and is held for bookkeeping only; frames are parsed, summed and published outside it. Order of
locks: the engine's before the registrar's and before a session's queue; a bundle's lock is never held while asking for the
engine's.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog
import torch

from ..protos.common_pb2 import JobSpecification
from ..protos.errors import (
    FrameError,
    NonFiniteError,
    NotReadyError,
    ServerDrainingError,
    ServerLostError,
    UnknownBlockError,
    WrongShardError,
)
from ..protos.registrar_pb2 import (
    Draining,
    Initialise,
    Initialised,
    InstallPlan,
    PlanInstalled,
    RegistrarOrder,
    ShardReport,
    ShardStatus,
    View,
    ViewInstalled,
)
from ..protos.shard_pb2 import (
    Commit,
    Frames,
    Hello,
    InitialValues,
    Pull,
    ShardMessage,
    Welcome,
)
from .answers import Answers
from .apply import BundleResult, Pass
from .blocks import Bundle
from .config import ServerConfig
from .effects import AnswerPull, Dismiss, Effect, Job, PullTicket, Report, Run, Tell
from .envelope import Received
from .heard import Heard
from .initial_grant import takes_values
from .job_runner import JobRunner
from .keys import StreamKey
from .links import RegistrarLink
from .metrics import ServerMetrics
from .session import Session
from .shard import Shard
from .shard_end import ShardEnd
from .shard_readings import ServerFigures
from .statistics import ShardStatistics
from .step_observer import StepObserver
from .streams import Streams

log = structlog.get_logger(__name__)
Read = TypeVar("Read")


class Engine:
    """The adapter around one shard's core. Every public method may be called from any thread."""

    def __init__(
        self,
        config: ServerConfig,
        metrics: ServerMetrics,
        epoch: int,
        fail: Callable[[Exception], None],
        observer: StepObserver,
        new_shard: Callable[[int, InstallPlan], Shard] = Shard,
    ) -> None:
        self._new_shard = new_shard
        self._number = config.shard
        self._num_apply_threads = config.num_apply_threads or torch.get_num_threads()
        self.fail = fail
        self._epoch = epoch
        self._metrics = metrics
        self._observer = observer
        self._statistics = ShardStatistics(metrics)
        self._lock = threading.Lock()
        self._link: RegistrarLink | None = None
        self._shard: Shard | None = None
        self._runner: JobRunner | None = None
        self._view = View()
        self.heard = Heard()
        self._grant = Initialise()
        self._streams = Streams(config.shard, config.max_workers)
        self._answers = Answers(self._streams, self._statistics, self._lock, observer)
        self._refusals_counted: dict[str, int] = {}
        self._job_started = 0.0
        self._streaming: list[PullTicket] = []
        self.address = ""
        self.end = ShardEnd()

    def attach(self, link: RegistrarLink) -> None:
        """Sets where reports go; before anything else."""
        self._link = link

    @property
    def trained(self) -> bool:
        """Whether the shard holds initialised parameters."""
        return self._shard is not None and self._shard.state.ready

    def drain(self) -> None:
        """Tells the registrar that this server was told to end. `end.over` says when the job is."""
        self.report(ShardReport(draining=Draining(address=self.address)))

    @property
    def job(self) -> JobSpecification | None:
        """Whose model it holds a part of."""
        return None if self._shard is None else self._shard.job

    def break_off(self, error: ServerLostError) -> None:
        """This server cannot go on: tells the registrar and every worker why."""
        with self._lock:
            self.end.begin(error)
            self._streams.end_all(self.end.reason)
        self.report(ShardReport(draining=Draining(address=self.address, failure=str(error))))

    def close_down(self, timeout_seconds: float) -> None:
        """Refuses everything from now on; ends streams behind the outcomes of steps that were decided before.

        A step that is not applied and settled by then, or after the timeout, gets no outcome.
        """
        with self._lock:
            self.end.begin(ServerDrainingError(f"shard {self._number} at {self.address} is shutting down"))
            runner = self._runner
        if runner is not None and not runner.wait(timeout_seconds):
            log.warning("still applying a step at the end", shard=self._number)
        with self._lock:
            self._streams.end_all(self.end.reason)

    def has_workers(self) -> bool:
        """Whether there are any, as far as the registrar has said."""
        with self._lock:
            return len(self._view.members) > 0

    def stop(self) -> None:
        """Ends every stream and the applying threads."""
        with self._lock:
            self._streams.end_all()
            runner = self._runner
        if runner is not None:
            runner.stop()

    # ---- streams ----

    def open(self, hello: Hello) -> Session:
        """Checks a rank and opens its session; an older session of the same rank ends.

        Raises:
            WrongShardError, NotReadyError; and what `Shard.check_is_meant`, `ShardState.welcome` and `Streams.open` do.
        """
        if hello.shard != self._number:
            raise WrongShardError(f"this is shard {self._number} at {self.address}, not shard {hello.shard}")
        with self._lock:
            shard = self._serving()
            shard.check_is_meant(hello)
            last_step = shard.state.welcome(hello)
            key = StreamKey(hello.worker_id, hello.incarnation, hello.rank)
            self.heard.note(key)
            session = self._streams.open(key, shard.limits)
            welcome = ShardMessage(welcome=Welcome(epoch=self._epoch, last_step=last_step))
            session.send(welcome.SerializeToString())
            return session

    def reading(self, read: Callable[[Shard], Read]) -> Read:
        """What `read` returns of the shard, which nobody changes meanwhile; also at the end of the job."""
        with self._lock:
            return read(self._loaded())

    def close(self, session: Session) -> None:
        """The stream of a session is over."""
        with self._lock:
            self._streams.close(session)
        session.end()

    def frames(self, session: Session, message: Frames, received: Received) -> None:
        """Stages the frames of one message; of a stream that was opened again they are dropped."""
        key = session.key
        received.check_is_frames(len(message.blocks))
        with self._lock:
            if not self._streams.is_current(session):
                return
            shard = self._serving()
            self.heard.note(key)
            admitted = shard.state.admit(key, message.step, message.attempt, message.blocks, message.values)
            self._count_refusals(shard)
            if admitted:
                self._observer.frames_came(key, message.step)
        if not admitted:
            return
        try:
            parse = shard.parse_values if message.values else shard.parse
            frames = parse(message.blocks, message.lengths, received.payload)
        except (FrameError, NonFiniteError, UnknownBlockError) as error:
            with self._lock:
                shard.state.refuse(key, message.step, message.attempt, error)
                self._count_refusals(shard)
            return
        with self._lock:
            shard.state.stage(key, message.step, message.attempt, frames, message.values)
            self._statistics.pushed(received.num_bytes, shard.num_elements(message.blocks))
            self._count_refusals(shard)

    def commit(self, session: Session, commit: Commit) -> None:
        """Commits a step."""
        self._observer.committed(session.key, commit.step, commit.traceparent)
        self._ask(session, lambda shard: shard.state.commit(session.key, commit))

    def pull(self, session: Session, pull: Pull) -> None:
        """Asks for newer values."""
        self._ask(session, lambda shard: shard.state.pull(session.key, pull))

    def initial_values(self, key: StreamKey, message: InitialValues, received: Received) -> None:
        """Takes initial values from the worker that holds the grant; raises what `takes_values` does."""
        with self._lock:
            shard = self._serving()
            self.heard.note(key)
            if not takes_values(self._number, self._grant, shard.state.ready, key, message):
                return
        frames = shard.parse_values(message.blocks, message.lengths, received.payload)
        with self._lock:
            open_grant = message.grant == self._grant.grant and not (shard.state.ready or self._grant.done)
            complete = open_grant and shard.take_initial(frames)
        if complete:
            shard.publish_all()
            self.report(ShardReport(initialised=Initialised(grant=message.grant)))

    # ---- orders of the registrar, one thread, in order ----

    def on_order(self, order: RegistrarOrder) -> None:
        """Carries out an order. One that cannot be carried out means that servers disagree: this one ends."""
        try:
            self._carry_out_order(order)
        except Exception as error:
            self.fail(error)

    def _carry_out_order(self, order: RegistrarOrder) -> None:
        match order.WhichOneof("order"):
            case "install_plan":
                self._install(order.install_plan)
            case "view":
                with self._lock:
                    self._view = order.view
                    self.heard.expect(order.view)
                    if self._shard is not None and self._runner is not None:
                        self._carry_out(self._shard, self._shard.state.install_view(order.view))
                        self._runner.wake()
                self.report(ShardReport(status=self.status()))
                self.report(ShardReport(view_installed=ViewInstalled(number=order.view.number)))
            case "initialise":
                self._initialise(order.initialise)
            case "close":
                with self._lock:
                    shard = self._loaded()
                    self._carry_out(shard, shard.state.close(order.close))
            case "norms":
                with self._lock:
                    self._loaded().norms.take(order.norms)
                    assert self._runner is not None
                    self._runner.wake()
            case "end":
                with self._lock:
                    self.end.take_order(order.end)
                log.info("the job is over", why=order.end.message if self.has_workers() else "all workers have left")
                self.end.over.set()

    def reports_again(self) -> list[ShardReport]:
        """For a new link: everything the registrar may have missed."""
        with self._lock:
            reports = [ShardReport(view_installed=ViewInstalled(number=self._view.number))]
            if self._shard is not None:
                reports += self._shard.reports_again(self._grant.grant)
            return reports

    def beat(self) -> None:
        """Tells the registrar who was heard of, and how the shard is. Called now and then."""
        self.report(ShardReport(alive=self.heard.take()))
        self.report(ShardReport(status=self.status()))

    def status(self) -> ShardStatus:
        """The shard's figures at this moment."""
        with self._lock:
            status = self._statistics.status(self._shard)
        status.shard, status.address, status.epoch = self._number, self.address, self._epoch
        status.draining = self.end.reason is not None
        self._statistics.add_process(status)
        return status

    def figures(self) -> ServerFigures:
        """For Prometheus."""
        with self._lock:
            blocks = None if self._shard is None else self._shard.figures()
            num, most = len(self._streams), self._streams.most
            return ServerFigures(address=self.address, num_streams=num, most_streams=most, blocks=blocks)

    # ---- applying ----

    def begin_job(self, job: Job) -> Sequence[Pass]:
        with self._lock:
            shard = self._loaded()
            self._streaming = shard.state.streaming(job)
            self._observer.job_began(job)
        self._job_started = time.monotonic()
        return shard.applier.passes(job)

    def bundle_done(self, bundle: Bundle, result: BundleResult) -> None:
        with self._lock:
            shard = self._loaded()
            self._statistics.applied(result.staleness, result.non_finite)
            shard.state.diverged = shard.state.diverged or result.diverged
            for ticket in self._streaming:
                self._answers.send_bundles(shard, ticket, [bundle])
        if result.diverged is not None:
            log.error("values are not finite any more", shard=self._number, parameter=result.diverged)
        for parameter in result.non_finite:
            log.warning("sum is not finite; block left untouched", shard=self._number, parameter=parameter)

    def end_job(self, job: Job) -> None:
        with self._lock:
            shard = self._loaded()
            self._metrics.optimizer_seconds.observe(time.monotonic() - self._job_started)
            self._observer.job_ended(job)
            self._carry_out(shard, shard.state.finish(job))

    # ---- inside; the lock is held where effects are carried out ----

    def _loaded(self) -> Shard:
        if self._shard is None:
            raise NotReadyError(f"shard {self._number} at {self.address} has no plan yet")
        return self._shard

    def _serving(self) -> Shard:
        self.end.check()
        return self._loaded()

    def _ask(self, session: Session, question: Callable[[Shard], list[Effect]]) -> None:
        """Asks the core on behalf of a stream, unless it was opened again since."""
        with self._lock:
            if not self._streams.is_current(session):
                return
            shard = self._serving()
            self.heard.note(session.key)
            self._answers.asked(session)
            self._carry_out(shard, question(shard))
            self._count_refusals(shard)

    def report(self, report: ShardReport) -> None:
        """Tells the registrar."""
        assert self._link is not None
        self._link.report(report)

    def _install(self, order: InstallPlan) -> None:
        if self._shard is None:
            shard = self._new_shard(self._number, order)
            with self._lock:
                self._shard = shard
                self._runner = JobRunner(self, shard.store.bundles, self._num_apply_threads, self._lock)
                shard.state.install_view(self._view)
            self._metrics.job_id = order.job.job_id
            log.info("plan installed", blocks=len(shard.store.blocks), parameter_bytes=shard.store.parameter_bytes)
        self.report(ShardReport(plan_installed=PlanInstalled(fingerprint=order.plan.fingerprint)))

    def _initialise(self, order: Initialise) -> None:
        with self._lock:
            shard = self._loaded()
            shard.note_grant(order, self._grant)
            self._grant = order
        if shard.initialises_itself(order):
            self.report(ShardReport(initialised=Initialised(grant=order.grant)))

    def _carry_out(self, shard: Shard, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Report(report):
                    self.report(report)
                case Run(job):
                    assert self._runner is not None
                    self._runner.submit(job)
                case Tell():
                    self._answers.tell(effect)
                case AnswerPull():
                    self._answers.answer(shard, effect)
                case Dismiss(worker):
                    self._streams.dismiss(worker, shard.state.membership.why_gone(*worker))

    def _count_refusals(self, shard: Shard) -> None:
        self._statistics.refused(shard.state.counters.pushes_refused, self._refusals_counted)
