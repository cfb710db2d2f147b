"""The end of a run: one object for programs (`--json`) and one page for people."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..protos.registrar_pb2 import JobStatus, WorkerReport, WorkerStatus
from .figures import Figures, figures_of, refusals_by_reason
from .job import Job
from .progress import grouped, in_bytes

_NOT_LEFT = ("joined", "enrolled", "active", "paused")
_COUNTED_BY_REGISTRAR = ("failed", "expired")


@dataclass(frozen=True, kw_only=True)
class WorkerEnd:
    """How one worker that the launcher started ended."""

    worker_id: int
    pids: tuple[int, ...]
    """Of its ranks, rank 0 first."""
    exit_status: int | None
    """Of the first rank that failed, minus the signal that killed it; None if one still ran when the launcher ended the run."""
    how: str
    """For people: `ended with status 1`, `rank 1 was killed by SIGKILL`."""

    @property
    def failed(self) -> bool:
        """It ended by itself, and not well."""
        return self.exit_status not in (0, None)


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """Everything that is known when a run is over."""

    job: Job
    options: Sequence[str]
    """`pushpull launch` and its options as they were typed, for the next command to type."""
    script: Sequence[str]
    """The script and its arguments."""
    error: str | None
    """Why the run failed; None if it did not."""
    wall_seconds: float
    status: JobStatus | None
    """The newest that the servers said; None if they never answered."""
    workers: Sequence[WorkerEnd]


def summary_object(end: RunEnd) -> dict[str, Any]:
    """The object that `--json` prints; every key is there however the run ended."""
    status = end.status or JobStatus()
    figures = figures_of(status)
    # Of workers that are not shown any more nobody knows how long they trained.
    seconds = 0.0 if status.num_forgotten else figures.training_seconds
    seconds = seconds or end.wall_seconds
    return {
        "success": end.error is None,
        "error": end.error,
        "name": end.job.name,
        "values_of": status.origin.who or None,
        "mode": end.job.mode,
        "push_codec": end.job.push_codec,
        "push_overrides": dict(end.job.push_overrides),
        "pull_codec": end.job.pull_codec,
        "layouts": list(end.job.layouts),
        "workers": [_worker_object(worker) for worker in status.workers],
        "forgotten_workers": status.num_forgotten,
        "shards": [
            {
                "id": shard.shard,
                "address": shard.address,
                "blocks": shard.num_blocks,
                "bytes": shard.parameter_bytes,
                "peak_memory_bytes": shard.peak_memory_bytes,
            }
            for shard in status.shards
        ],
        "wall_seconds": round(end.wall_seconds, 3),
        "training_seconds": round(figures.training_seconds, 3),
        "samples_per_second": figures.num_samples / seconds if seconds > 0 else 0.0,
        "loss": {"first": figures.first_loss, "last": figures.last_loss},
        "metrics": figures.metrics,
        "bytes_pushed": figures.bytes_pushed,
        "bytes_pulled": figures.bytes_pulled,
        "bytes_resent": status.forgotten.bytes_resent + sum(worker.report.bytes_resent for worker in status.workers),
        "push_compression_ratio": figures.push_compression_ratio,
        "staleness": {"mean": figures.staleness.mean, "max": figures.staleness.max},
        "clock_lag": {"mean": figures.clock_lag.mean, "max": figures.clock_lag.max},
        "pulls_waited": sum(shard.pulls_waited for shard in status.shards),
        "rounds": status.round,
        "longest_round_gap_seconds": status.longest_round_gap_seconds,
        "duplicates_dropped": figures.duplicates_dropped,
        "pushes_refused": figures.pushes_refused,
        "pushes_refused_by_reason": refusals_by_reason(status.shards),
        "split_steps": status.split_steps,
        "lease_expiries": status.lease_expiries,
        "failures": count_failures(status, end.workers),
        "worker_failures": _worker_failures(status, end.workers),
    }


def _worker_object(worker: WorkerStatus) -> dict[str, Any]:
    report = worker.report
    return {
        "id": worker.worker_id,
        "steps": report.num_steps,
        "samples": report.num_samples,
        "steps_applied": report.steps_applied,
        "steps_skipped": report.steps_skipped,
        "steps_dropped": report.steps_dropped,
        "state": worker.state,
        "compute_seconds": report.compute_seconds,
        "encode_seconds": report.encode_seconds,
        "wait_seconds": report.wait_seconds,
        "decode_seconds": report.decode_seconds,
        "layout": worker.layout,
        "ranks": [_rank_object(rank, said) for rank, said in enumerate(worker.ranks)],
    }


def _rank_object(rank: int, report: WorkerReport) -> dict[str, int]:
    return {
        "rank": rank,
        "bytes_pushed": report.bytes_pushed,
        "bytes_pulled": report.bytes_pulled,
        "peak_memory_bytes": report.peak_memory_bytes,
        "peak_device_memory_bytes": report.peak_device_memory_bytes,
    }


def count_failures(status: JobStatus, ends: Sequence[WorkerEnd]) -> int:
    """Processes that ended without leaving cleanly, and leases that expired while their process lived.

    The registrar counts expired leases and workers that said they fail; a process that died is often one of
    these, and then counts once.
    """
    by_id = {worker.worker_id: worker for worker in status.workers}
    failures = int(status.failures)
    for end in ends:
        worker = by_id.get(end.worker_id)
        known = worker is not None and worker.pid in end.pids
        state = worker.state if worker is not None and known else ""
        if end.exit_status is not None and state not in _COUNTED_BY_REGISTRAR:
            failures += end.failed or state in _NOT_LEFT
    return failures


def _worker_failures(status: JobStatus, ends: Sequence[WorkerEnd]) -> list[dict[str, Any]]:
    launched = {pid for end in ends for pid in end.pids}
    failed: list[dict[str, Any]] = [
        {"id": end.worker_id, "exit_status": end.exit_status, "how": end.how} for end in ends if end.failed
    ]
    failed += [
        {"id": worker.worker_id, "exit_status": None, "how": worker.state}
        for worker in status.workers
        if worker.state in _COUNTED_BY_REGISTRAR and worker.pid not in launched
    ]
    return failed


def summary_page(end: RunEnd) -> str:
    """The same for people, ending with the next command to type."""
    summary = summary_object(end)
    status = end.status or JobStatus()
    figures = figures_of(status)
    lines = [_headline(end, figures, summary)]
    if end.status is not None:
        lines += [f"  {name:<10} {text}" for name, text in _rows(figures, summary)]
    lines += [f"  worker {failure['id']} {failure['how']}" for failure in summary["worker_failures"]]
    lines.append(f"Next: {_next_command(end)}")
    return "\n".join(lines)


def _headline(end: RunEnd, figures: Figures, summary: Mapping[str, Any]) -> str:
    outcome = "Done" if end.error is None else f"FAILED: {end.error}\nEnded"
    overrides = "".join(f", {pattern} {codec}" for pattern, codec in end.job.push_overrides)
    return (
        f"{outcome} after {end.wall_seconds:.1f} s: step {grouped(figures.step)},"
        f" {len(summary['workers'])} workers, {len(summary['shards'])} servers,"
        f" mode {end.job.mode}, push {end.job.push_codec}{overrides}, pull {end.job.pull_codec}"
    )


def _rows(figures: Figures, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    ratio = figures.push_compression_ratio
    others = {name: value for name, value in figures.metrics.items() if name != "loss"}
    rows = [
        ("loss", f"{_number(figures.first_loss)} -> {_number(figures.last_loss)}"),
        *((name, _number(value)) for name, value in sorted(others.items())),
        (
            "speed",
            f"{grouped(summary['samples_per_second'])} samples/s ({grouped(figures.num_samples)} samples)",
        ),
        (
            "pushed",
            in_bytes(figures.bytes_pushed) + ("" if ratio is None else f", {ratio:.1f}x smaller than fp32"),
        ),
        ("pulled", in_bytes(figures.bytes_pulled)),
        (
            "staleness",
            f"mean {figures.staleness.mean:.2f}, max {figures.staleness.max:.0f} updates; clock lag mean"
            f" {figures.clock_lag.mean:.2f}, max {figures.clock_lag.max:.0f}",
        ),
    ]
    rows += [
        (f"server {shard['id']}", f"{shard['address']}  {shard['blocks']} blocks, {in_bytes(shard['bytes'])}")
        for shard in summary["shards"]
    ]
    for worker in summary["workers"]:
        rows += _worker_rows(worker)
    counts = ("duplicates_dropped", "pushes_refused", "failures")
    rows.append(("counted", ", ".join(f"{name.replace('_', ' ')} {summary[name]}" for name in counts)))
    return rows


def _worker_rows(worker: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One row, and one for each rank if there are several."""
    steps = f"{grouped(worker['steps'])} steps, {grouped(worker['samples'])} samples"
    if len(worker["ranks"]) < 2:
        return [(f"worker {worker['id']}", steps)]
    layout = f", {worker['layout']}" if worker["layout"] else ""
    rows = [(f"worker {worker['id']}", f"{steps}{layout}, {len(worker['ranks'])} ranks")]
    for rank in worker["ranks"]:
        device = rank["peak_device_memory_bytes"]
        on_device = f", {in_bytes(device)} on its GPU" if device else ""
        rows.append(
            (
                f"  rank {rank['rank']}",
                f"pushed {in_bytes(rank['bytes_pushed'])}, pulled {in_bytes(rank['bytes_pulled'])}, "
                f"peak memory {in_bytes(rank['peak_memory_bytes'])}{on_device}",
            )
        )
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _next_command(end: RunEnd) -> str:
    if end.error is not None:
        return "read the lines marked [server ...] and [worker ...] above, then run the same command again"
    if end.job.push_codec == "fp32" and end.job.pull_codec == "fp32":
        return shlex.join([*end.options, "--set", "push_codec=int8", "--set", "pull_codec=bf16", *end.script])
    if end.job.mode == "sync":
        return shlex.join([*end.options, "--set", "mode=bounded:4", *end.script])
    return "pushpull bench exchange"
