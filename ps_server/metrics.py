"""What a server tells Prometheus. One registry per process, handed in, never global."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
COUNTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128)


class ServerMetrics:
    """Metrics of one shard, and of the registrar where there is one. No label has more values than there are codes."""

    def __init__(self, registry: CollectorRegistry, shard: int) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        info = Gauge("pushpull_shard_info", "Which shard this process is.", ["shard"], registry=registry)
        info.labels(shard=str(shard)).set(1)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"pushpull_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"pushpull_{name}", text, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"pushpull_{name}", text, buckets=buckets, registry=registry)

        self.pushes = counter("pushes_total", "Steps settled on this shard, by outcome.", ("outcome",))
        self.push_bytes = counter("push_bytes_total", "Accepted frames with their envelopes, in bytes.")
        self.push_elements = counter("push_elements_total", "Elements of the blocks in accepted frames.")
        self.push_seconds = histogram("push_seconds", "From the commit of a step to its outcome.", SECONDS)
        self.pulls = counter("pulls_total", "Pulls answered.")
        self.pulls_waited = counter("pulls_waited_total", "Pulls that the consistency policy held back.")
        self.pull_bytes = counter("pull_bytes_total", "Sent values with their envelopes, in bytes.")
        self.pull_seconds = histogram("pull_seconds", "From a pull to the message that ends its answer.", SECONDS)
        self.refusals = counter("refusals_total", "Calls and steps refused, by reason.", ("reason",))
        self.duplicates = counter("duplicates_dropped_total", "Frames and commits received again.")
        self.version_staleness = histogram(
            "version_staleness", "Updates a block had between gradient and apply.", COUNTS
        )
        self.clock_lag = histogram("clock_lag", "Puller's clock minus the smallest, when a pull is answered.", COUNTS)
        self.version_spread = gauge("block_version_spread", "Largest minus smallest version of the optimised blocks.")
        self.optimizer_seconds = histogram(
            "optimizer_step_seconds", "Reduce, optimizer and publication of one step or round.", SECONDS
        )
        self.non_finite = counter("non_finite_sums_total", "Blocks left untouched because their sum was not finite.")
        self.staged_bytes = gauge("staged_bytes", "Frames held for steps that are not settled, in bytes.")
        self.streams = gauge("worker_streams", "Open worker streams.")
        self.parameter_bytes = gauge("parameter_bytes", "FP32 bytes of the blocks of this shard.")
        self._gauge = gauge

    def watch_registrar(
        self,
        live_workers: Callable[[], float],
        lease_expiries: Callable[[], float],
        rounds: Callable[[], float],
        failures: Callable[[], float],
        split_steps: Callable[[], float],
    ) -> None:
        """Adds the registrar's figures, read at each scrape."""
        self._gauge("live_workers", "Trainers that hold a lease.").set_function(live_workers)
        self._gauge("lease_expiries", "Leases that ran out so far.").set_function(lease_expiries)
        self._gauge("rounds_closed", "Synchronous rounds closed so far.").set_function(rounds)
        self._gauge("worker_failures", "Workers that ended without leaving cleanly so far.").set_function(failures)
        self._gauge("split_steps", "Steps of lost workers applied on some shards only.").set_function(split_steps)
