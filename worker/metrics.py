"""What a worker process tells Prometheus: counters and histograms of its steps. `readings` has what is read at a scrape."""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from ..protos.exposition import Family, Identified, Reading, Readings, add_process
from ..protos.status_terms import STEP_PARTS
from .recorder import StepKind, StepSummary

SECONDS_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class WorkerMetrics:
    """One registry and everything in it; served only if asked to. Everything carries job, worker and rank."""

    def __init__(self, rank: int) -> None:
        self._registry = registry = CollectorRegistry()
        self._identity = {"job_id": "", "worker": "", "rank": str(rank)}
        add_process(registry)
        self._steps = Counter(
            "pushpull_worker_steps", "Steps ended, by what became of them.", ["outcome"], registry=registry
        )
        self._samples = Counter("pushpull_worker_samples", "Samples of steps applied.", registry=registry)
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
        # From 0 on: of a counter that begins at 1, Prometheus does not see the first.
        for kind in StepKind:
            self._steps.labels(kind.value)
            if kind.drops_gradient:
                self._dropped.labels(kind.value)
        for part in STEP_PARTS:
            self._parts.labels(part)

    def identify(self, job_id: str, worker_id: int) -> None:
        """This process has joined: from now on every figure says whose it is."""
        self._identity = {**self._identity, "job_id": job_id, "worker": str(worker_id)}

    def watch(self, families: Sequence[Family], read: Callable[[], Iterable[Reading]]) -> None:
        """Adds figures that are read at each scrape."""
        self._registry.register(Readings(families, read))

    @property
    def shown(self) -> CollectorRegistry:
        """Everything, with job, worker and rank: what an endpoint serves."""
        return Identified(self._registry, lambda: self._identity).as_registry()

    def step_ended(self, step: StepSummary) -> None:
        """Counts one step."""
        self._steps.labels(step.kind.value).inc()
        self._samples.inc(step.num_samples)
        for part in STEP_PARTS:
            self._parts.labels(part).observe(getattr(step.times, part))
        self._exchange.observe(step.times.wait + step.times.decode)
        self._pushed.inc(step.bytes_pushed)
        self._pulled.inc(step.bytes_pulled)
        self._resent.inc(step.bytes_resent)
        self._restaged.inc(step.restaged)
        if step.kind.drops_gradient:
            self._dropped.labels(step.kind.value).inc()
