"""Prometheus metrics of a worker process."""

import contextlib
from collections.abc import Callable
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from ..protos.addresses import split_address
from ..protos.errors import PortInUseError
from .recorder import StepSummary

SECONDS_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class WorkerMetrics:
    """One registry and everything in it; served only if asked to."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._steps = Counter(
            "pushpull_worker_steps", "Steps ended, by what became of them.", ["outcome"], registry=registry
        )
        self._samples = Counter("pushpull_worker_samples", "Samples of steps ended.", registry=registry)
        self._parts = Histogram(
            "pushpull_worker_step_seconds",
            "Seconds of a step, by part: compute, encode, wait or decode.",
            ["part"],
            registry=registry,
            buckets=SECONDS_BUCKETS,
        )
        self._exchange = Histogram(
            "pushpull_worker_exchange_seconds",
            "Seconds from the commit of a step to the last value pulled.",
            registry=registry,
            buckets=SECONDS_BUCKETS,
        )
        self._pushed = Counter("pushpull_worker_pushed_bytes", "Bytes sent to the shards.", registry=registry)
        self._pulled = Counter("pushpull_worker_pulled_bytes", "Bytes of values received.", registry=registry)
        self._resent = Counter(
            "pushpull_worker_resent_bytes", "Bytes sent again after a lost connection.", registry=registry
        )
        self._restaged = Counter(
            "pushpull_worker_steps_restaged", "Steps whose early frames were sent again.", registry=registry
        )
        self._dropped = Counter(
            "pushpull_worker_gradients_dropped",
            "Gradients that did not count, by reason.",
            ["reason"],
            registry=registry,
        )
        self._loss = Gauge("pushpull_worker_loss", "Newest loss logged by the script.", registry=registry)
        self._residual = Gauge(
            "pushpull_worker_residual_norm",
            "Euclidean norm of what the codecs left out so far, in gradient units.",
            registry=registry,
        )
        process = psutil.Process()
        process.cpu_percent()
        cpu = Gauge(
            "pushpull_worker_cpu_utilisation_cores",
            "Cores kept busy by this process since the last scrape.",
            registry=registry,
        )
        cpu.set_function(lambda: process.cpu_percent() / 100.0)
        _add_gpu_gauges(registry)

    def step_ended(self, step: StepSummary) -> None:
        """Counts one step."""
        self._steps.labels(step.kind.value).inc()
        self._samples.inc(step.num_samples)
        for part in ("compute", "encode", "wait", "decode"):
            self._parts.labels(part).observe(getattr(step.times, part))
        self._exchange.observe(step.times.wait + step.times.decode)
        self._pushed.inc(step.bytes_pushed)
        self._pulled.inc(step.bytes_pulled)
        self._resent.inc(step.bytes_resent)
        self._restaged.inc(step.restaged)
        if step.kind.drops_gradient:
            self._dropped.labels(step.kind.value).inc()

    def loss(self, value: float) -> None:
        """The script logged a loss."""
        self._loss.set(value)

    def watch_residual(self, norm: Callable[[], float]) -> None:
        """Where the norm of the residuals is read when Prometheus asks."""
        self._residual.set_function(norm)


class MetricsEndpoint:
    """An HTTP server for one registry."""

    def __init__(self, listen: str, registry: CollectorRegistry) -> None:
        host, port = split_address(listen, "metrics_listen")
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise PortInUseError(
                f"cannot serve metrics at {listen} ({error.strerror}); choose another metrics_listen, or port 0 for any "
                "free one"
            ) from error
        self.address = f"{host}:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5.0)


def _add_gpu_gauges(registry: CollectorRegistry) -> None:
    """Utilisation and memory of each GPU, where NVIDIA's management library answers."""
    with contextlib.suppress(Exception):
        import pynvml

        pynvml.nvmlInit()
        utilisation = Gauge(
            "pushpull_worker_gpu_utilisation_ratio", "Busy share of each GPU, 0 to 1.", ["gpu"], registry=registry
        )
        memory = Gauge(
            "pushpull_worker_gpu_memory_used_bytes", "Memory in use on each GPU.", ["gpu"], registry=registry
        )
        for number in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            utilisation.labels(str(number)).set_function(_gpu_utilisation(pynvml, handle))
            memory.labels(str(number)).set_function(_gpu_memory(pynvml, handle))


def _gpu_utilisation(nvml: Any, handle: Any) -> Callable[[], float]:
    return lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100.0


def _gpu_memory(nvml: Any, handle: Any) -> Callable[[], float]:
    return lambda: float(nvml.nvmlDeviceGetMemoryInfo(handle).used)
