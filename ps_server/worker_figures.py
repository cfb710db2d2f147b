"""What is shown of one worker. Pure data, taken from what the registrar knows at one moment."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..protos.registrar_pb2 import WorkerReport, WorkerStatus


class WorkerFigures(NamedTuple):
    """One incarnation of a worker. Nothing in it changes any more, so that no lock need be held to read it."""

    worker_id: int
    incarnation: int
    state: str
    clock: int
    host: str
    pid: int
    layout: str
    num_ranks: int
    failure: str
    suspended: str
    last_progress: float
    reported_at: float
    heard_seconds_ago: float
    num_unlike_steps: int
    reports: tuple[WorkerReport, ...]
    """By rank. Reports are replaced, never written in."""
    settled: Mapping[int, int]
    """Newest step applied, by shard."""

    @property
    def report(self) -> WorkerReport:
        """See `merged_report`."""
        return merged_report(self.reports)

    def status(self, now: float) -> WorkerStatus:
        """For people."""
        return WorkerStatus(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            state=self.state,
            clock=self.clock,
            report=self.report,
            host=self.host,
            pid=self.pid,
            layout=self.layout,
            ranks=self.reports,
            failure=self.failure,
            suspended=self.suspended,
            heard_seconds_ago=self.heard_seconds_ago,
            reported_seconds_ago=max(0.0, now - self.reported_at),
        )


def merged_report(reports: Sequence[WorkerReport]) -> WorkerReport:
    """Of rank 0, with what other ranks logged under names that no lower rank has."""
    merged = WorkerReport()
    merged.CopyFrom(reports[0])
    for other in reports[1:]:
        for mine, theirs in ((merged.first_metrics, other.first_metrics), (merged.metrics, other.metrics)):
            for name, value in theirs.items():
                mine.setdefault(name, value)
    return merged


def ends_on_some_shards_only(settled: Mapping[int, int], num_shards: int) -> bool:
    """Whether the newest step of a worker that has ended is applied on some shards, but not on all."""
    return bool(settled) and max(settled.values()) != min(settled.get(shard, 0) for shard in range(num_shards))
