"""One server process: a gRPC server with a shard, on shard 0 with the registrar, health and metrics."""

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import grpc
import structlog
import torch
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from ..compression.parameter_encoders import parse_parameter_encoders
from ..protos import registrar_pb2, shard_pb2
from ..protos.deadlines import (
    APPLY_SECONDS,
    CALLS_SECONDS,
    NOTICE_SECONDS,
    OVER_SECONDS,
    STATUS_SECONDS,
    UNLINK_SECONDS,
)
from ..protos.errors import PortInUseError, PushpullError, ServerLostError
from ..protos.exposition import Family, Reading, memory_limit_bytes
from ..protos.metrics_endpoint import MetricsEndpoint
from ..protos.registrar_pb2 import ShardHello
from ..protos.registrar_pb2_grpc import add_RegistrarServicer_to_server
from ..protos.transport import bind, server_options
from . import calls, shard_readings
from .config import JobSettings, ServerConfig
from .descriptors import raise_descriptor_limit
from .engine import Engine
from .health import ServerHealth
from .initial_file import read_initial_file
from .links import LocalLink, RemoteLink
from .metrics import ServerMetrics
from .publication import check_pull_codec
from .registrar_service import RegistrarService
from .shard import Shard
from .shard_service import ShardService, add_shard_service
from .standby import Standby
from .step_observer import NoObserver, StepObserver

log = structlog.get_logger(__name__)

BEAT_SECONDS = 0.5


TELL_SECONDS = 1.0
"""That a server which fails by itself needs to say so."""


class Server:
    """A parameter server. `start`, then `wait` until somebody calls `stop`.

    Raises:
        SettingError: the job's settings cannot work.
    """

    def __init__(self, config: ServerConfig, observer: StepObserver | None = None) -> None:
        if config.job is not None:
            parse_parameter_encoders(config.job.push_codec, config.job.push_overrides)
            check_pull_codec(config.job)
        self._config = config
        self._epoch = secrets.randbits(63)
        self._job_id = secrets.token_hex(8) if config.job is not None and config.shard == 0 else ""
        self._metrics = ServerMetrics(CollectorRegistry(), config.shard)
        self._file = None if config.init is None else read_initial_file(config.init)
        new_shard = partial(Shard, file=self._file)
        self._engine = Engine(config, self._metrics, self._epoch, self._fail, observer or NoObserver(), new_shard)
        self._failure: Exception | None = None
        # From here on parallelism is the engine's pool, which takes whole bundles; each torch call stays on its thread.
        torch.set_num_threads(1)
        self._registrar: RegistrarService | None = None
        self._link: RemoteLink | None = None
        self._health = ServerHealth()
        self._doors = calls.doors_of(config, self._metrics)
        most_connections = calls.most_connections(config, raise_descriptor_limit())
        # Every method has a pool of its own behind its door; this one stays empty.
        self._grpc = grpc.server(ThreadPoolExecutor(1), options=server_options(most_connections))
        self._draining = threading.Lock()
        self._stopping = threading.Lock()
        self._ending = threading.Event()
        self._stopped = threading.Event()
        self._breaking_off: Standby | None = None
        self._telling: Standby | None = None
        self._metrics_endpoint: MetricsEndpoint | None = None
        self.address = ""
        """host:port that workers dial; empty before `start`."""
        self.metrics_address: str | None = None
        """host:port of the Prometheus endpoint."""

    def start(self) -> None:
        """Binds and serves.

        Raises:
            PortInUseError: the address to listen on is taken.
        """
        config = self._config
        self._breaking_off, self._telling = Standby("stop"), Standby("tell")
        self.address = config.advertise or self._bind(config.listen)
        if config.advertise is not None:
            self._bind(config.listen)
        self._engine.address = self.address
        if config.job is not None and config.shard == 0:
            self._serve_registrar(config.job)
        add_shard_service(ShardService(self._engine, self._metrics), self._doors)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._doors.adder(calls.HEALTH))
        if config.reflection:
            names = [
                service.full_name
                for module in (registrar_pb2, shard_pb2)
                for service in module.DESCRIPTOR.services_by_name.values()
            ]
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self._doors.adder(calls.REFLECTION))
        self._start_metrics()
        self._doors.open(self._grpc)
        self._grpc.start()
        self._link_up()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        log.info("serving", shard=config.shard, address=self.address, metrics=self.metrics_address)

    def watch(self, families: Sequence[Family], read: Callable[[], Iterable[Reading]]) -> None:
        """Shows Prometheus figures of the process that this server does not know of itself."""
        self._metrics.watch(families, read)

    def wait_for_end(self) -> None:
        """Returns when the end has begun: by `drain`, by `stop`, by the end of the job, or by an error."""
        self._ending.wait()

    @property
    def job_id(self) -> str:
        """The job that this server serves; empty until it is known."""
        return self._job_id or self._metrics.job_id

    def wait(self) -> None:
        """Returns when the server has stopped; raises what made it unable to go on."""
        self._stopped.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def has_failed(self) -> bool:
        """Whether `wait` raises, or will."""
        return self._failure is not None

    def drain(self) -> None:
        """Ends the job on all of its servers, in order, and then stops.

        Nobody is admitted any more. The open round is closed if the rest of it arrives soon, else dropped; what is decided is
        applied and answered; then workers are told that the job ends, and why.
        """
        self._health.drain()
        self._ending.set()
        self._await_end_of_job()
        self._close_down()

    def _await_end_of_job(self) -> None:
        # Said again and again: a link that breaks loses what it had not sent. Nobody waits for a shard that is not linked.
        deadline = time.monotonic() + OVER_SECONDS
        while time.monotonic() < deadline:
            self._engine.drain()
            took_part = self._registrar is not None or (self._link is not None and self._link.up)
            if not took_part or self._engine.end.over.wait(BEAT_SECONDS):
                return

    def _close_down(self) -> None:
        if not self._draining.acquire(blocking=False):
            return  # the job is over, and this server was told to end
        self._health.drain()
        self._ending.set()
        had_workers = self._engine.has_workers()
        self._engine.close_down(APPLY_SECONDS)
        noticed = time.monotonic() + NOTICE_SECONDS
        while self._engine.has_workers() and time.monotonic() < noticed:
            self._stopped.wait(0.02)
        if self._registrar is not None:
            if had_workers:  # whoever watches the job learns why it ends
                self._stopped.wait(max(0.0, noticed - NOTICE_SECONDS + STATUS_SECONDS - time.monotonic()))
            self._registrar.wait_until_alone(UNLINK_SECONDS)
        self.stop(CALLS_SECONDS)

    def stop(self, grace_seconds: float = 1.0) -> None:
        """Refuses new calls, lets open ones go on for a moment, ends. Nobody is told why."""
        if not self._stopping.acquire(blocking=False):
            return
        self._health.drain()
        self._ending.set()
        try:
            self._stop_parts(grace_seconds)
        finally:
            for standby in (self._breaking_off, self._telling):
                if standby is not None:
                    standby.dismiss()
            self._stopped.set()

    def _stop_parts(self, grace_seconds: float) -> None:
        stopping = self._grpc.stop(grace_seconds)
        self._engine.stop()
        if self._registrar is not None:
            self._registrar.stop()
        if self._link is not None:
            self._link.stop()
        stopping.wait(grace_seconds + 1)
        self._doors.close()
        if self._metrics_endpoint is not None:
            self._metrics_endpoint.close()

    def _fail(self, error: Exception) -> None:
        # What we refuse ourselves says it all; anything else is a defect, and its place matters.
        known = isinstance(error, PushpullError)
        log.error("shard cannot go on", shard=self._config.shard, reason=str(error), exc_info=None if known else error)
        self._failure = error
        assert self._breaking_off is not None, "nothing fails before the start"
        self._breaking_off.run(partial(self._break_off, error))

    def _break_off(self, error: Exception) -> None:
        assert self._telling is not None
        loss = error if isinstance(error, ServerLostError) else ServerLostError(_why_it_fails(error))
        try:
            # by a thread: what has failed may hold a lock for ever
            self._telling.run(partial(self._engine.break_off, loss))
            self._telling.wait(TELL_SECONDS)
            self._engine.end.over.wait(TELL_SECONDS)  # the registrar has heard it, and says so to everybody
            self._close_down()
        except Exception as failure:
            log.error("shard cannot end in order", shard=self._config.shard, reason=str(failure), exc_info=failure)
            self.stop(0.0)

    def _bind(self, listen: str) -> str:
        host, _, _ = listen.rpartition(":")
        port = bind(self._grpc, listen)
        if port == 0:
            raise PortInUseError(
                f"shard {self._config.shard} cannot listen on {listen}: the port is in use or the address is not this "
                "machine's; choose another with --listen host:port (port 0 takes any free one)"
            )
        return f"{host}:{port}"

    def _serve_registrar(self, job: JobSettings) -> None:
        if job.memory_bytes is None:
            job = replace(job, memory_bytes=memory_limit_bytes())
        tick_seconds = min(0.25, job.lease_seconds / 10)
        table = None if self._file is None else self._file.table
        self._registrar = RegistrarService(
            job, self._config.num_shards, self._job_id, tick_seconds, self._metrics, table
        )
        add_RegistrarServicer_to_server(self._registrar, self._doors.adder(calls.REGISTRAR))

    def _link_up(self) -> None:
        if self._registrar is not None:
            self._engine.attach(LocalLink(self._registrar.take_report))
            self._registrar.start(self._engine, self.address, self._epoch)
            return
        assert self._config.registrar is not None
        checksum = None if self._file is None else self._file.table.checksum
        hello = ShardHello(shard=self._config.shard, address=self.address, epoch=self._epoch, initial_checksum=checksum)
        self._link = RemoteLink(self._config.registrar, hello)
        self._engine.attach(self._link)
        self._link.start(self._engine)

    def _start_metrics(self) -> None:
        if self._config.metrics_listen is None:
            return
        self._metrics.watch(shard_readings.FAMILIES, self._readings)
        self._metrics_endpoint = MetricsEndpoint(self._config.metrics_listen, self._metrics.shown, "--metrics-listen")
        self.metrics_address = self._metrics_endpoint.address

    def _readings(self) -> Iterator[Reading]:
        standing = shard_readings.Standing(self._health.phase, self._linked)
        return shard_readings.readings(standing, self._engine.figures(), self._doors.figures())

    def _beat(self) -> None:
        try:
            while not self._stopped.is_set():
                if self._engine.end.over.wait(BEAT_SECONDS):
                    self._failure = self._failure or self._engine.end.loss
                    return self._close_down()
                self._observe()
        except Exception as error:
            if not self._stopping.locked():
                self._fail(error)

    def _observe(self) -> None:
        """Readings and signs of life. That one of them fails is no reason for a server to end: the next may succeed."""
        try:
            self._engine.beat()
            self._health.observe(self._obstacle, self._engine.trained)
        except Exception:
            log.exception("a reading failed", shard=self._config.shard)

    @property
    def _linked(self) -> bool:
        """On shard 0 whether it hears of all the others, on these whether they are linked to it."""
        return not self._obstacle

    @property
    def _obstacle(self) -> str:
        """What keeps this server from taking part, for people; empty if nothing does."""
        if self._registrar is not None:
            return self._registrar.obstacle
        return "it is not linked to shard 0 yet" if self._link is None else self._link.obstacle


def _why_it_fails(error: Exception) -> str:
    said = str(error)
    if isinstance(error, PushpullError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
