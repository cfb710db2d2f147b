"""Every metric that a process of ours can show, with its type and labels, read from the code that shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector

from pushpull.deploy.talk import LINES_DROPPED
from pushpull.protos.exposition import Family
from pushpull.ps_server import job_readings, shard_readings
from pushpull.ps_server.metrics import ServerMetrics
from pushpull.worker import gpu_readings, readings
from pushpull.worker.metrics import WorkerMetrics

Metrics = TypeVar("Metrics", ServerMetrics, WorkerMetrics)

SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


@dataclass(frozen=True)
class Shown:
    """One metric."""

    name: str
    """As in expressions; of a histogram without its suffixes."""
    kind: str
    labels: tuple[str, ...]
    """Its own, without those that say whose it is."""
    text: str


SERVER_FAMILIES = (LINES_DROPPED, *shard_readings.FAMILIES, *job_readings.FAMILIES)
WORKER_FAMILIES = (*readings.FAMILIES, *gpu_readings.FAMILIES)


def server_registry() -> CollectorRegistry:
    """As a server shows it, with one sample of everything that is read."""
    return _with_samples(ServerMetrics(CollectorRegistry(), 0), SERVER_FAMILIES).shown


def worker_registry() -> CollectorRegistry:
    """As a worker shows it, with one sample of everything that is read."""
    return _with_samples(WorkerMetrics(0), WORKER_FAMILIES).shown


def server_metrics() -> dict[str, Shown]:
    """By name."""
    metrics = _with_samples(ServerMetrics(CollectorRegistry(), 0), SERVER_FAMILIES)
    return _shown(metrics._registry, {family.name: family.labels for family in SERVER_FAMILIES})


def worker_metrics() -> dict[str, Shown]:
    """By name."""
    metrics = _with_samples(WorkerMetrics(0), WORKER_FAMILIES)
    return _shown(metrics._registry, {family.name: family.labels for family in WORKER_FAMILIES})


def shown_names() -> set[str]:
    """Names that an expression may use."""
    every = {**server_metrics(), **worker_metrics()}
    names = {shown.name.removesuffix("_total") + suffix for shown in every.values() for suffix in SUFFIXES[shown.kind]}
    return names | {sample.name for family in ProcessCollector(registry=None).collect() for sample in family.samples}


def _with_samples(metrics: Metrics, families: Sequence[Family]) -> Metrics:
    metrics.watch(families, lambda: [(family, tuple("x" for _ in family.labels), 1.0) for family in families])
    return metrics


def _shown(registry: CollectorRegistry, labels: dict[str, tuple[str, ...]]) -> dict[str, Shown]:
    shown = {}
    for metric in registry.collect():
        if not metric.name.startswith("pushpull_"):
            continue
        name = metric.name + ("_total" if metric.type == "counter" else "")
        own = labels.get(metric.name)
        if own is None:
            seen = {label for sample in metric.samples for label in sample.labels}
            own = tuple(sorted(seen - {"le"}))
        shown[name] = Shown(name, metric.type, own, metric.documentation)
    return shown
