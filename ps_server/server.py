"""One server process: a gRPC server with a shard, on shard 0 with the registrar, health and metrics."""

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from wsgiref.simple_server import WSGIServer

import grpc
import psutil
import structlog
import torch
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server

from ..compression.parameter_encoders import parse_parameter_encoders
from ..protos import registrar_pb2, shard_pb2
from ..protos.errors import PortInUseError
from ..protos.registrar_pb2 import ShardHello
from ..protos.registrar_pb2_grpc import add_RegistrarServicer_to_server
from ..protos.transport import SERVER_OPTIONS
from .config import JobSettings, ServerConfig
from .engine import Engine
from .health import ServerHealth
from .links import LocalLink, RemoteLink
from .metrics import ServerMetrics
from .publication import check_pull_codec
from .registrar_service import RegistrarService
from .shard_service import ShardService, add_shard_service

log = structlog.get_logger(__name__)

BEAT_SECONDS = 0.5


class Server:
    """A parameter server. `start`, then `wait` until somebody calls `stop`.

    Raises:
        SettingError: the job's settings cannot work.
    """

    def __init__(self, config: ServerConfig) -> None:
        if config.job is not None:
            parse_parameter_encoders(config.job.push_codec, config.job.push_overrides)
            check_pull_codec(config.job)
        self._config = config
        self._epoch = secrets.randbits(63)
        self._job_id = secrets.token_hex(8) if config.job is not None and config.shard == 0 else ""
        self._metrics = ServerMetrics(CollectorRegistry(), config.shard)
        self._engine = Engine(config, self._metrics, self._epoch, self._fail)
        self._failure: Exception | None = None
        # From here on parallelism is the engine's pool, which takes whole bundles; each torch call stays on its thread.
        torch.set_num_threads(1)
        self._registrar: RegistrarService | None = None
        self._link: RemoteLink | None = None
        self._health = ServerHealth()
        self._grpc = grpc.server(
            ThreadPoolExecutor(2 * config.max_workers + 32, thread_name_prefix="rpc"), options=SERVER_OPTIONS
        )
        self._stopped = threading.Event()
        self._metrics_server: WSGIServer | None = None
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
        self.address = config.advertise or self._bind(config.listen)
        if config.advertise is not None:
            self._bind(config.listen)
        self._engine.address = self.address
        if config.job is not None and config.shard == 0:
            self._serve_registrar(config.job)
        add_shard_service(ShardService(self._engine, self._metrics), self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._grpc)
        if config.reflection:
            names = [
                service.full_name
                for module in (registrar_pb2, shard_pb2)
                for service in module.DESCRIPTOR.services_by_name.values()
            ]
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self._grpc)
        self._start_metrics()
        self._grpc.start()
        self._link_up()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        log.info("serving", shard=config.shard, address=self.address, metrics=self.metrics_address)

    @property
    def job_id(self) -> str:
        """The job that this server serves; empty until it is known."""
        return self._job_id or self._engine.job_id

    def wait(self) -> None:
        """Returns when `stop` has been called; raises what made the server unable to go on."""
        self._stopped.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self, grace_seconds: float = 1.0) -> None:
        """Refuses new calls, lets open ones go on for a moment, ends."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._health.drain()
        stopping = self._grpc.stop(grace_seconds)
        self._engine.stop()
        if self._registrar is not None:
            self._registrar.stop()
        if self._link is not None:
            self._link.stop()
        stopping.wait(grace_seconds + 1)
        if self._metrics_server is not None:
            self._metrics_server.shutdown()
            self._metrics_server.server_close()

    def _fail(self, error: Exception) -> None:
        log.error("shard cannot go on", shard=self._config.shard, exc_info=error)
        self._failure = error
        threading.Thread(target=self.stop, name="stop", daemon=True).start()

    def _bind(self, listen: str) -> str:
        host, _, _ = listen.rpartition(":")
        try:
            port = self._grpc.add_insecure_port(listen)
        except RuntimeError:
            port = 0
        if port == 0:
            raise PortInUseError(
                f"shard {self._config.shard} cannot listen on {listen}: the port is in use or the address is not this "
                "machine's; choose another with --listen host:port (port 0 takes any free one)"
            )
        return f"{host}:{port}"

    def _serve_registrar(self, job: JobSettings) -> None:
        if job.memory_bytes is None:
            job = replace(job, memory_bytes=psutil.virtual_memory().total)
        tick_seconds = min(0.25, job.lease_seconds / 10)
        self._registrar = RegistrarService(job, self._config.num_shards, self._job_id, tick_seconds, self._metrics)
        add_RegistrarServicer_to_server(self._registrar, self._grpc)

    def _link_up(self) -> None:
        if self._registrar is not None:
            self._engine.attach(LocalLink(self._registrar.take_report))
            self._registrar.start(self._engine, self.address, self._epoch)
            return
        assert self._config.registrar is not None
        hello = ShardHello(shard=self._config.shard, address=self.address, epoch=self._epoch)
        self._link = RemoteLink(self._config.registrar, hello)
        self._engine.attach(self._link)
        self._link.start(self._engine)

    def _start_metrics(self) -> None:
        if self._config.metrics_listen is None:
            return
        host, _, port = self._config.metrics_listen.rpartition(":")
        try:
            server, _ = start_http_server(int(port), addr=host, registry=self._metrics.registry)
        except OSError as error:
            raise PortInUseError(
                f"shard {self._config.shard} cannot serve metrics on {self._config.metrics_listen}: {error.strerror}; "
                "choose another with --metrics-listen host:port (port 0 takes any free one)"
            ) from None
        self._metrics_server = server
        self.metrics_address = f"{host}:{server.server_port}"

    def _beat(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            self._engine.beat()
            self._health.observe(self._linked, self._engine.trained)

    @property
    def _linked(self) -> bool:
        """On shard 0 whether it hears of all the others, on these whether they are linked to it."""
        if self._registrar is not None:
            return self._registrar.admits
        return self._link is not None and self._link.up
