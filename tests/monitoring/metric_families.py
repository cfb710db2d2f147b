"""Every metric that a process of ours can show, with its type and labels, read from the code that shows it."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector

from pushpull.protos.exposition import Readings
from pushpull.ps_server import job_readings, shard_readings
from pushpull.ps_server.metrics import ServerMetrics
from pushpull.worker import gpu_readings, readings
from pushpull.worker.metrics import WorkerMetrics

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


def server_metrics() -> dict[str, Shown]:
    """By name."""
    metrics = ServerMetrics(CollectorRegistry(), 0)
    metrics.watch(shard_readings.FAMILIES, lambda: [])
    metrics.watch(job_readings.FAMILIES, lambda: [])
    families = (*shard_readings.FAMILIES, *job_readings.FAMILIES)
    return _shown(metrics._registry, {family.name: family.labels for family in families})


def worker_metrics() -> dict[str, Shown]:
    """By name."""
    metrics = WorkerMetrics(0)
    metrics.watch(readings.FAMILIES, lambda: [])
    metrics.watch(gpu_readings.FAMILIES, lambda: [])
    families = (*readings.FAMILIES, *gpu_readings.FAMILIES)
    return _shown(metrics._registry, {family.name: family.labels for family in families})


def shown_names() -> set[str]:
    """Names that an expression may use."""
    every = {**server_metrics(), **worker_metrics()}
    names = {shown.name.removesuffix("_total") + suffix for shown in every.values() for suffix in SUFFIXES[shown.kind]}
    return names | {sample.name for family in ProcessCollector(registry=None).collect() for sample in family.samples}


def _shown(registry: CollectorRegistry, labels: dict[str, tuple[str, ...]]) -> dict[str, Shown]:
    shown = {}
    for metric in _described(registry):
        if not metric.name.startswith("pushpull_"):
            continue
        name = metric.name + ("_total" if metric.type == "counter" else "")
        own = labels.get(metric.name)
        if own is None:
            seen = {label for sample in metric.samples for label in sample.labels}
            own = tuple(sorted(seen - {"le"}))
        shown[name] = Shown(name, metric.type, own, metric.documentation)
    return shown


def _described(registry: CollectorRegistry) -> Iterator[Metric]:
    """Counted metrics with their samples, and those that are read at a scrape without."""
    seen = set()
    for metric in registry.collect():
        seen.add(metric.name)
        yield metric
    for collector in list(registry._collector_to_names):
        if isinstance(collector, Readings):
            yield from (metric for metric in collector.describe() if metric.name not in seen)
