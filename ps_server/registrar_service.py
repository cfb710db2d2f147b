"""The Registrar service: wire <-> registrar, delivery of its orders, and its clock."""

import threading
import time
from collections.abc import Callable, Iterator

import grpc
import structlog

from ..protos.common_pb2 import JobSpecification
from ..protos.errors import BadRequestError, NotReadyError, PushpullError, ServerLostError
from ..protos.exposition import Reading
from ..protos.registrar_pb2 import (
    AbsentRequest,
    AbsentResponse,
    ActivateRequest,
    ActivateResponse,
    DealRequest,
    DealResponse,
    Draining,
    EnrolRequest,
    EnrolResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    JobStatus,
    JobStatusRequest,
    JoinRequest,
    JoinResponse,
    LeaveRequest,
    LeaveResponse,
    Origin,
    PauseRequest,
    PauseResponse,
    RegistrarOrder,
    RoundRecord,
    ShardHello,
    ShardReport,
)
from ..protos.registrar_pb2_grpc import RegistrarServicer
from ..protos.report_bounds import check_join, keep_within_bounds
from ..protos.values_digest import values_checksum
from . import job_readings
from .absent_shards import AbsentShards, ask
from .config import JobSettings
from .held_lines import HeldLines, QuietLock
from .initial_table import InitialTable, check_same_file
from .job import job_message
from .job_snapshot import snapshot
from .links import JOB_ID_METADATA_KEY, LinkedShard, OrderStream
from .lot_log import LotLog
from .metrics import ServerMetrics
from .order_log import OrderLog
from .registrar import Registrar
from .roster_log import RosterLog
from .rpc import refusing
from .shard_table import Holder, ShardTable
from .unlike_log import tell_unlike

log = structlog.get_logger(__name__)

VIEW_PATIENCE_SECONDS = 10.0


class RegistrarService(RegistrarServicer):
    """Serialises calls into the registrar with one lock; sends its orders to every shard in one order."""

    def __init__(
        self,
        settings: JobSettings,
        num_shards: int,
        job_id: str,
        tick_seconds: float,
        metrics: ServerMetrics,
        initial: InitialTable | None = None,
    ) -> None:
        self._initial = initial
        self._settings = settings
        self._job_id = job_id
        self._metrics = metrics
        self._tick_seconds = tick_seconds
        # Incarnations of an earlier life of this address must not be granted again: they start from the calendar's time.
        self._registrar = Registrar(settings, num_shards, tick_seconds, time.time_ns(), initial)
        self._started_at = time.monotonic()
        self._lines = HeldLines()
        self._roster_log = RosterLog(self._lines.say)
        self._lot_log = LotLog(self._lines.say)
        self._logged: tuple[str, int] | None = None
        self._changed = threading.Condition(threading.Lock())
        self._held = QuietLock(self._changed, self._lines)
        self._telling = threading.Lock()
        self._log = OrderLog()
        self._shards = ShardTable(num_shards, job_id)
        self._absent = AbsentShards(settings.server_patience_seconds, self._is_absent, self._lose)
        self._streams: dict[int, OrderStream] = {}
        self._stopped = threading.Event()
        self._round_closed_at: float | None = None
        metrics.job_id = job_id
        metrics.watch(job_readings.FAMILIES, self._readings)

    def start(self, shard: LinkedShard, address: str, epoch: int) -> None:
        """Links shard 0, which lives in this process, and starts the clock."""
        stream = self._link(ShardHello(shard=0, address=address, epoch=epoch))
        threading.Thread(target=self._deliver, args=(shard, stream), name="orders", daemon=True).start()
        threading.Thread(target=self._tick, name="tick", daemon=True).start()

    def stop(self) -> None:
        """Ends every link."""
        self._absent.stop()
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()
            for stream in self._streams.values():
                stream.end()
        self._lines.write()

    @property
    def admits(self) -> bool:
        """Whether a worker could join now: every shard is linked, none has lost its state, and the job does not end."""
        return not self.obstacle

    @property
    def obstacle(self) -> str:
        """Why no worker could join now, for people; empty if one could."""
        with self._changed:
            missing = [str(shard) for shard in range(len(self._shards)) if shard not in self._streams]
            if self._registrar.ending:
                return self._registrar.ending
            if len(missing) > 1:
                return f"shards {', '.join(missing)} are not linked to shard 0"
            return f"shard {missing[0]} is not linked to shard 0" if missing else ""

    def wait_until_alone(self, timeout_seconds: float) -> None:
        """Returns when no other shard is linked any more, or after this time."""
        with self._changed:
            self._changed.wait_for(lambda: self._streams.keys() <= {0}, timeout_seconds)

    def take_report(self, shard: int, report: ShardReport) -> None:
        """Of a linked shard, which may hold locks of its own: what there is to log is written by the next call or tick."""
        with self._changed:
            self._take_in(shard, report)

    # ---- calls ----

    def Join(self, request: JoinRequest, context: grpc.ServicerContext) -> JoinResponse:
        with refusing(context, self._metrics), self._held:
            check_join(request)
            self._wait(lambda: self._shards.first_missing is None, "shard {} has not linked to the registrar yet")
            response = self._registrar.join(time.monotonic(), request)
            self._send_orders()
            self._wait_for_view()
            response.job.CopyFrom(self._job())
            return response

    def Absent(self, request: AbsentRequest, context: grpc.ServicerContext) -> AbsentResponse:
        with refusing(context, self._metrics), self._held:
            self._registrar.absent(time.monotonic(), request)
            self._send_orders()
            return AbsentResponse()

    def Enrol(self, request: EnrolRequest, context: grpc.ServicerContext) -> EnrolResponse:
        with refusing(context, self._metrics):
            with self._held:  # nobody looks at a stranger's plan
                self._registrar.roster.caller(time.monotonic(), request.worker_id, request.incarnation)
            examined = self._registrar.examine(request)  # a large model takes time; nobody waits for it
            with self._held:
                response = self._registrar.enrol(time.monotonic(), request, examined)
                self._send_orders()
                return response

    def Activate(self, request: ActivateRequest, context: grpc.ServicerContext) -> ActivateResponse:
        with refusing(context, self._metrics), self._held:
            response = self._registrar.activate(
                time.monotonic(), request.worker_id, request.incarnation, request.last_clock
            )
            self._send_orders()
            if response.open:
                self._wait_for_view()
            return response

    def Pause(self, request: PauseRequest, context: grpc.ServicerContext) -> PauseResponse:
        with refusing(context, self._metrics), self._held:
            now, who = time.monotonic(), (request.worker_id, request.incarnation)
            self._registrar.pause(now, *who, request.held, request.number)
            self._send_orders()
            return PauseResponse()

    def Heartbeat(self, request: HeartbeatRequest, context: grpc.ServicerContext) -> HeartbeatResponse:
        report = keep_within_bounds(request.report)
        with refusing(context, self._metrics), self._held:
            worker = self._registrar.heartbeat(
                time.monotonic(), request.worker_id, request.incarnation, report, request.rank
            )
            return HeartbeatResponse(
                num_workers=self._registrar.num_workers,
                suspended=worker.suspended,
                is_first=self._registrar.is_first(worker),
                unlike=worker.unlike if request.rank == 0 else (),
            )

    def Deal(self, request: DealRequest, context: grpc.ServicerContext) -> DealResponse:
        with refusing(context, self._metrics), self._held:
            response = self._registrar.deal(time.monotonic(), request)
            self._send_orders()
            return response

    def Leave(self, request: LeaveRequest, context: grpc.ServicerContext) -> LeaveResponse:
        report = keep_within_bounds(request.report)
        with refusing(context, self._metrics), self._held:
            self._registrar.leave(
                time.monotonic(),
                request.worker_id,
                request.incarnation,
                report,
                request.failure,
                request.rank,
                request.whole_worker,
            )
            self._send_orders()
            if not self._registrar.ending:  # else shards may be gone already, and nothing comes behind this
                self._wait_for_view()
            worker = self._registrar.roster.find(request.worker_id, request.incarnation)
            return LeaveResponse(unlike=worker.unlike if worker is not None and request.rank == 0 else ())

    def Status(self, request: JobStatusRequest, context: grpc.ServicerContext) -> JobStatus:
        with self._telling:  # one after the other: who asks all the time takes one thread's time from the job, not many
            with self._held:
                taken = snapshot(self._registrar, time.monotonic())
                addresses = self._shards.addresses
            job = job_message(self._settings, self._job_id, addresses)
            return taken.status(job, taken.now - self._started_at)

    def Link(self, request_iterator: Iterator[ShardReport], context: grpc.ServicerContext) -> Iterator[RegistrarOrder]:
        with refusing(context, self._metrics):
            first = next(request_iterator)
            if first.WhichOneof("report") != "hello":
                raise BadRequestError("the first message of a link is ShardHello")
            if first.hello.shard == 0:
                raise BadRequestError("shard 0 lives with the registrar and needs no link")
            stream = self._link(first.hello)
        context.add_callback(stream.end)
        # the shard knows by these that it is linked, and to what
        context.send_initial_metadata(((JOB_ID_METADATA_KEY, self._job_id),))
        threading.Thread(
            target=self._receive,
            args=(first.hello.shard, request_iterator, stream),
            name="reports",
            daemon=True,
        ).start()
        yield from stream

    # ---- inside ----

    def _job(self) -> JobSpecification:
        return job_message(self._settings, self._job_id, self._shards.addresses)

    def _link(self, hello: ShardHello) -> OrderStream:
        if hello.shard > 0:
            check_same_file(self._initial, hello)
        with self._changed:
            rival = self._shards.rival(hello)
        # the network is asked without the lock
        answering = None if rival is None else ask(rival.address).life
        with self._held:
            shard = hello.shard
            try:
                self._shards.take(hello, shard in self._streams, self._registrar.agreed is not None, answering)
            except ServerLostError as error:
                if rival is not None and not hello.has_plan:
                    self._take_loss(shard, rival, "it came back without its state")
                raise ServerLostError(self._registrar.ending or str(error)) from None
            # numbers of another job's orders mean nothing here
            missed = self._log.after(hello.last_sequence if hello.job_id == self._job_id else 0, shard)
            old = self._streams.get(shard)
            if old is not None:
                old.end()
            stream = self._streams[shard] = OrderStream()
            self._lines.say(log.info, "shard linked", linked=shard, address=hello.address)
            for order in missed:
                stream.put(order)
            self._changed.notify_all()
            return stream

    def _readings(self) -> Iterator[Reading]:
        monotonic, calendar = time.monotonic(), time.time()
        with self._held:
            linked = tuple(shard in self._streams for shard in range(len(self._shards)))
            moment = job_readings.Moment(
                self._settings, self._registrar, linked, lambda then: calendar - (monotonic - then), monotonic
            )
        return job_readings.readings(moment)

    def _take_in(self, shard: int, report: ShardReport) -> None:
        self._registrar.report(time.monotonic(), shard, report)
        self._send_orders()

    def _observe_round(self) -> None:
        now, before = time.monotonic(), self._round_closed_at
        self._round_closed_at = now
        if before is not None:
            self._metrics.round_seconds.observe(now - before)

    def _send_orders(self) -> None:
        for order in self._registrar.take_orders():
            match order.WhichOneof("order"):
                case "initialise" if order.initialise.done:
                    self._lines.say(_tell_initialised, self._registrar.origin(time.monotonic()) or Origin())
                case "install_plan":
                    order.install_plan.job.CopyFrom(self._job())
                case "close":
                    self._observe_round()
                    self._lines.say(_tell_closed, order.close)
            self._log.add(order)
            for stream in self._streams.values():
                stream.put(order)
        seen = self._registrar.phase, self._registrar.view_number
        if seen != self._logged:
            self._logged = seen
            self._roster_log.observe(self._registrar.phase, self._registrar.roster.take_changed())
        self._lot_log.observe(self._registrar.sharing.dealer)
        if unlike := self._registrar.take_unlike():
            self._lines.say(tell_unlike, unlike)
        self._changed.notify_all()

    def _wait_for_view(self) -> None:
        number = self._registrar.view_number
        self._wait(
            lambda: self._registrar.installed_everywhere(number),
            "a shard has not acknowledged the newest view yet",
        )

    def _wait(self, condition: Callable[[], bool], message: str) -> None:
        self._changed.wait_for(lambda: condition() or self._stopped.is_set(), VIEW_PATIENCE_SECONDS)
        if not condition():
            raise NotReadyError(message.format(self._shards.first_missing))

    def _is_absent(self, shard: int) -> bool:
        with self._changed:
            return shard not in self._streams and not self._registrar.ending

    def _lose(self, shard: int, holder: Holder, reason: str) -> None:
        with self._held:
            self._take_loss(shard, holder, reason)

    def _take_loss(self, shard: int, holder: Holder, reason: str) -> None:
        """A shard will not come back. Before there is a model that is no loss: another one may take its place."""
        if self._registrar.agreed is None or self._registrar.ending:
            return
        if shard in self._streams and self._shards[shard] != holder:
            return
        gone = ShardReport(draining=Draining(address=holder.address, failure=reason))
        self._take_in(shard, gone)
        self._lines.say(log.error, "the job cannot go on", why=self._registrar.ending)

    def _receive(self, shard: int, reports: Iterator[ShardReport], stream: OrderStream) -> None:
        try:
            for report in reports:
                with self._held:
                    self._take_in(shard, report)
        except grpc.RpcError:
            pass
        except PushpullError as error:
            log.warning("a report cannot be taken in", linked=shard, reason=str(error))
        finally:
            stream.end()
            with self._changed:
                if self._streams.get(shard) is stream:
                    del self._streams[shard]
                    self._changed.notify_all()
                    holder = self._shards[shard]
                    if holder is not None and not self._stopped.is_set():
                        self._absent.watch(shard, holder)

    def _deliver(self, shard: LinkedShard, stream: OrderStream) -> None:
        for order in stream:
            shard.on_order(order)

    def _tick(self) -> None:
        while not self._stopped.wait(self._tick_seconds):
            with self._held:
                self._registrar.tick(time.monotonic())
                self._send_orders()


def _tell_initialised(origin: Origin) -> None:
    log.info("servers initialised", values_of=origin.who, checksum=values_checksum(origin.values))


def _tell_closed(record: RoundRecord) -> None:
    workers = [contribution.worker_id for contribution in record.contributions]
    log.debug("round closed", round=record.round, workers=workers)
