"""How a process shows itself to Prometheus: figures that are read when it asks, and who the process is.

Servers and workers share this; what they show is in `ps_server` and `worker`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

MOST_LABEL_CHARACTERS = 64

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


# ---- figures that are read when Prometheus asks ----


@dataclass(frozen=True)
class Family:
    """One metric whose samples are read, not counted as things happen."""

    kind: Literal["gauge", "counter"]
    name: str
    """Without `_total`."""
    text: str
    labels: tuple[str, ...] = ()

    def metric(self, samples: Iterable[tuple[tuple[str, ...], float]] = ()) -> Metric:
        """The family with these samples: values of the labels, and the figure."""
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        metric = kind(self.name, self.text, labels=self.labels)
        for labels, value in samples:
            metric.add_metric(labels, value)
        return metric


Reading = tuple[Family, tuple[str, ...], float]


class Readings(Collector):
    """Families whose samples `read` gives at each scrape. One without a sample is absent."""

    def __init__(self, families: Sequence[Family], read: Callable[[], Iterable[Reading]]) -> None:
        self._families = families
        self._read = read

    def describe(self) -> list[Metric]:
        """All families without samples, also those that are absent now."""
        return [family.metric() for family in self._families]

    def collect(self) -> list[Metric]:
        samples: dict[Family, list[tuple[tuple[str, ...], float]]] = {family: [] for family in self._families}
        for family, labels, value in self._read():
            samples[family].append((labels, value))
        return [family.metric(read) for family, read in samples.items() if read]


def label_text(text: str) -> str:
    """What somebody else calls himself, cut to what a label should hold."""
    return text[:MOST_LABEL_CHARACTERS]


# ---- whose figures they are ----


class Identified(Collector):
    """Everything in a registry, each sample with labels that say whose it is.

    A process is one server or one rank, but which one is known only after it has joined, so service discovery cannot label
    the target with it. As labels of every sample they need no join in an expression, and add no series.
    """

    def __init__(self, registry: CollectorRegistry, identity: Callable[[], Mapping[str, str]]) -> None:
        self._registry = registry
        self._identity = identity

    def collect(self) -> Iterable[Metric]:
        identity = self._identity()
        for metric in self._registry.collect():
            # A metric's own label wins: what shard 0 says about another shard carries that shard's number.
            metric.samples = [sample._replace(labels={**identity, **sample.labels}) for sample in metric.samples]
            yield metric

    def as_registry(self) -> CollectorRegistry:
        """For an endpoint."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry


# ---- what every process has ----

MEMORY_LIMIT = Family(
    "gauge", "pushpull_memory_limit_bytes", "Memory this process may use: of the container or machine."
)


def add_process(registry: CollectorRegistry) -> None:
    """Processor, memory and file descriptors of this process (`process_*`), and how much memory there is for it."""
    ProcessCollector(registry=registry)
    limit = float(memory_limit_bytes())
    registry.register(Readings([MEMORY_LIMIT], lambda: [(MEMORY_LIMIT, (), limit)]))


def memory_limit_bytes(own_cgroups: Path = OWN_CGROUPS, cgroups: Path = CGROUPS) -> int:
    """The machine's memory, or what control groups (containers) leave this process of it."""
    return min([psutil.virtual_memory().total, *_cgroup_limits(own_cgroups, cgroups)])


def _cgroup_limits(own_cgroups: Path, cgroups: Path) -> Iterable[int]:
    try:
        lines = own_cgroups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root, name = (cgroups / "memory", "memory.limit_in_bytes") if controllers else (cgroups, "memory.max")
        # Inside a container the mount's root may be this process's own group; outside, every parent limits, too.
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            limit = _number_in(folder / name)
            if limit is not None:
                yield limit
            if folder == root:
                break


def _number_in(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" is no limit
