"""Running figures of one shard, for its status and for Prometheus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..protos.registrar_pb2 import ShardStatus, Summary
from .metrics import ServerMetrics
from .process_memory import ProcessMemory
from .shard import Shard


@dataclass
class Distribution:
    """Count, sum and largest of what was observed."""

    count: int = 0
    total: float = 0.0
    largest: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.largest = max(self.largest, value)

    def message(self) -> Summary:
        return Summary(count=self.count, sum=self.total, max=self.largest)


class ShardStatistics:
    """Counts what passes through one shard. Callers hold the shard's lock."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self.metrics = metrics
        self.bytes_pushed = 0
        self.bytes_pulled = 0
        self.elements_pushed = 0
        self.non_finite_sums = 0
        self.version_staleness = Distribution()
        self.clock_lag = Distribution()
        self._memory = ProcessMemory()

    def pushed(self, num_bytes: int, num_elements: int) -> None:
        self.bytes_pushed += num_bytes
        self.elements_pushed += num_elements
        self.metrics.push_bytes.inc(num_bytes)
        self.metrics.push_elements.inc(num_elements)

    def pulled(self, num_bytes: int, num_elements: int) -> None:
        self.bytes_pulled += num_bytes
        self.metrics.pull_bytes.inc(num_bytes)
        self.metrics.pull_elements.inc(num_elements)

    def answered(self, clock_lag: int, waited: bool, seconds: float) -> None:
        self.clock_lag.add(clock_lag)
        self.metrics.clock_lag.observe(clock_lag)
        self.metrics.pulls.inc()
        self.metrics.pulls_waited.inc(waited)
        self.metrics.pull_seconds.observe(seconds)

    def applied(self, staleness: Sequence[int], non_finite: Sequence[str]) -> None:
        for value in staleness:
            self.version_staleness.add(value)
        if staleness:
            # one observation a bundle: blocks of a step share their staleness but for races
            self.metrics.version_staleness.observe(max(staleness))
        self.non_finite_sums += len(non_finite)
        self.metrics.non_finite.inc(len(non_finite))

    def status(self, shard: Shard | None) -> ShardStatus:
        """All figures but those of the process, with those of the shard once its plan is known."""
        status = ShardStatus(
            bytes_pushed=self.bytes_pushed,
            bytes_pulled=self.bytes_pulled,
            elements_pushed=self.elements_pushed,
            version_staleness=self.version_staleness.message(),
            clock_lag=self.clock_lag.message(),
            non_finite_sums=self.non_finite_sums,
        )
        if shard is not None:
            counters = shard.state.counters
            status.num_blocks = len(shard.store.blocks)
            status.parameter_bytes = shard.store.parameter_bytes
            status.steps_applied = counters.steps_applied
            status.duplicates_dropped = counters.duplicates_dropped
            status.pushes_refused.update(counters.pushes_refused)
            status.pulls_waited = counters.pulls_waited
            status.round = shard.state.round
            status.staged_bytes = shard.state.staged_bytes
        return status

    def add_process(self, status: ShardStatus) -> None:
        """The figures of the process. These ask the system, so no lock is needed, nor should one be held."""
        status.memory_bytes, status.peak_memory_bytes = self._memory.now(), self._memory.peak()

    def refused(self, reasons: Mapping[str, int], seen: dict[str, int]) -> None:
        """Raises the refusal counters to `reasons`; `seen` remembers what was counted."""
        for reason, count in reasons.items():
            self.metrics.refusals.labels(reason=reason).inc(count - seen.get(reason, 0))
            seen[reason] = count
