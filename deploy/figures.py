"""What a job's status says, added up over workers and shards. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..protos.registrar_pb2 import JobStatus, ShardStatus, Summary, WorkerReport, WorkerStatus


@dataclass(frozen=True)
class Distribution:
    """Mean and largest of what was observed; 0 when nothing was."""

    mean: float
    max: float


@dataclass(frozen=True)
class Figures:
    """Totals of a job at one moment."""

    step: int
    """Rounds closed (synchronous), else steps of the fastest worker."""
    num_samples: float
    training_seconds: float
    """Time that the busiest worker spent in its training loop."""
    first_loss: float | None
    last_loss: float | None
    metrics: dict[str, float]
    bytes_pushed: int
    bytes_pulled: int
    push_compression_ratio: float | None
    staleness: Distribution
    """Version staleness of applied steps, in updates."""
    clock_lag: Distribution
    """Clocks that answered pulls were ahead of the slowest worker."""
    duplicates_dropped: int
    pushes_refused: int
    steps_applied: int
    """Over all shards."""
    num_active: int
    failures: int
    """As the registrar counts them: leases expired and workers that left with a failure."""


def figures_of(status: JobStatus) -> Figures:
    """Adds up one answer of the registrar."""
    workers, shards = list(status.workers), list(status.shards)
    bytes_pushed = sum(shard.bytes_pushed for shard in shards)
    elements_pushed = sum(shard.elements_pushed for shard in shards)
    return Figures(
        step=status.round or max((worker.report.num_steps for worker in workers), default=0),
        num_samples=status.forgotten.num_samples + sum(worker.report.num_samples for worker in workers),
        training_seconds=max((_busy_seconds(worker.report) for worker in workers), default=0.0),
        first_loss=_mean(workers, lambda report: (report.first_metrics, report.first_samples)),
        last_loss=_mean(workers, lambda report: (report.metrics, report.last_samples)),
        metrics=_newest_metrics(workers),
        bytes_pushed=bytes_pushed,
        bytes_pulled=sum(shard.bytes_pulled for shard in shards),
        push_compression_ratio=4 * elements_pushed / bytes_pushed if bytes_pushed else None,
        staleness=_distribution(shard.version_staleness for shard in shards),
        clock_lag=_distribution(shard.clock_lag for shard in shards),
        duplicates_dropped=sum(shard.duplicates_dropped for shard in shards),
        pushes_refused=sum(sum(shard.pushes_refused.values()) for shard in shards),
        steps_applied=sum(shard.steps_applied for shard in shards),
        num_active=sum(worker.state == "active" for worker in workers),
        failures=status.failures,
    )


def refusals_by_reason(shards: Iterable[ShardStatus]) -> dict[str, int]:
    """Final refusals of steps by error code, over all shards."""
    counts: dict[str, int] = {}
    for shard in shards:
        for reason, count in shard.pushes_refused.items():
            counts[reason] = counts.get(reason, 0) + count
    return counts


def _busy_seconds(report: WorkerReport) -> float:
    return report.compute_seconds + report.encode_seconds + report.wait_seconds + report.decode_seconds


def _mean(
    workers: Iterable[WorkerStatus], read: Callable[[WorkerReport], tuple[Mapping[str, float], float]]
) -> float | None:
    """Mean of the logged losses, weighted by samples, or all alike where no samples are known."""
    logged = [(metrics["loss"], samples) for metrics, samples in (read(w.report) for w in workers) if "loss" in metrics]
    total = sum(samples for _, samples in logged)
    if not logged:
        return None
    if total <= 0:
        return sum(loss for loss, _ in logged) / len(logged)
    return sum(loss * samples for loss, samples in logged) / total


def _newest_metrics(workers: Iterable[WorkerStatus]) -> dict[str, float]:
    """Per name the newest value of the lowest worker id that logged it."""
    newest: dict[str, float] = {}
    for worker in sorted(workers, key=lambda worker: worker.worker_id):
        for name, value in worker.report.metrics.items():
            newest.setdefault(name, value)
    return newest


def _distribution(summaries: Iterable[Summary]) -> Distribution:
    collected = list(summaries)
    count = sum(summary.count for summary in collected)
    mean = sum(summary.sum for summary in collected) / count if count else 0.0
    return Distribution(mean, max((summary.max for summary in collected), default=0.0))
