"""What a server tells Prometheus. One registry per process, handed in, never global.

Counters and histograms of what happens are here; what can be read when Prometheus asks is in `shard_readings` and
`job_readings`.
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from ..protos.common_pb2 import ErrorCode
from ..protos.exposition import Family, Identified, Reading, Readings, add_process
from ..protos.shard_pb2 import Outcome

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
ROUND_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 300)
COUNTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128)

OUTCOMES = tuple(name.removeprefix("KIND_").lower() for name, kind in Outcome.Kind.items() if kind)
REASONS = tuple(name for name, code in ErrorCode.items() if code)


class ServerMetrics:
    """Metrics of one shard, and of the registrar where there is one.

    Only the registrar's have a label for the worker, and none of these is a histogram. Everything carries the job and the
    shard (see `Identified`).
    """

    def __init__(self, registry: CollectorRegistry, shard: int) -> None:
        self._registry = registry
        self.job_id = ""
        """Whose figures these are; empty until the shard knows."""
        self._shard = str(shard)
        add_process(registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"pushpull_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"pushpull_{name}", text, buckets=buckets, registry=registry)

        self.pushes = counter("pushes_total", "Steps settled on this shard, by outcome.", ("outcome",))
        self.push_bytes = counter("push_bytes_total", "Bytes of accepted frames with their envelopes.")
        self.push_elements = counter("push_elements_total", "Elements of the blocks in accepted frames.")
        self.push_seconds = histogram("push_seconds", "From the commit of a step to its outcome.", SECONDS)
        self.pulls = counter("pulls_total", "Pulls answered.")
        self.pulls_waited = counter("pulls_waited_total", "Pulls that the consistency policy held back.")
        self.pull_bytes = counter("pull_bytes_total", "Bytes of values sent with their envelopes.")
        self.pull_elements = counter("pull_elements_total", "Elements of the blocks whose newer values were sent.")
        self.pull_seconds = histogram("pull_seconds", "From a pull to the message that ends its answer.", SECONDS)
        self.refusals = counter("refusals_total", "Calls and steps refused, by reason.", ("reason",))
        self.silent_calls = counter(
            "silent_calls_total", "Calls that ended, or were cut off, before they said anything."
        )
        self.version_staleness = histogram(
            "version_staleness", "Updates a block had between gradient and apply.", COUNTS
        )
        self.clock_lag = histogram("clock_lag", "Puller's clock minus the smallest, when a pull is answered.", COUNTS)
        self.optimizer_seconds = histogram(
            "optimizer_step_seconds", "Reduce, optimizer and publication of one step or round.", SECONDS
        )
        self.round_seconds = histogram(
            "round_seconds", "From the closing of a round to that of the next.", ROUND_SECONDS
        )
        self.non_finite = counter("non_finite_sums_total", "Blocks left untouched because their sum was not finite.")
        # From 0 on: of a counter that begins at 1, Prometheus does not see the first.
        for outcome in OUTCOMES:
            self.pushes.labels(outcome=outcome)
        for reason in REASONS:
            self.refusals.labels(reason=reason)

    def watch(self, families: Sequence[Family], read: Callable[[], Iterable[Reading]]) -> None:
        """Adds figures that are read at each scrape."""
        self._registry.register(Readings(families, read))

    @property
    def shown(self) -> CollectorRegistry:
        """Everything, with job and shard: what an endpoint serves."""
        identity = Identified(self._registry, lambda: {"job_id": self.job_id, "shard": self._shard})
        return identity.as_registry()
