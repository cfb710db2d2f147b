"""What `pushpull status` shows, worked out from what the registrar said at two moments. Pure."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..protos.registrar_pb2 import JobStatus, ShardStatus, WorkerReport, WorkerStatus
from ..protos.status_terms import LIVE_STATES, STEP_PARTS

WINDOW_SECONDS = 5.0
SHORTEST_SECONDS = 0.2
"""Between two reports that a rate is taken from."""
MOST_LOST_SHOWN = 5
"""Workers that failed or expired, the newest; there may have been thousands."""


@dataclass(frozen=True)
class Look:
    """What was known at one moment."""

    status: JobStatus
    seconds: float
    """When, by the clock of this machine."""
    answered: frozenset[str] = frozenset()
    """Addresses of shards that answered here themselves; of the others the registrar said how they were."""


@dataclass(frozen=True)
class WorkerRates:
    """One worker between two of its reports."""

    samples_per_second: float
    pushed_bytes_per_second: float
    """Of all its ranks."""
    pulled_bytes_per_second: float
    shares: tuple[float, float, float, float]
    """Of the time of rank 0: compute, encode, wait, decode; all 0 if no step ended."""


@dataclass(frozen=True)
class ShardRates:
    """One shard between two of its reports."""

    steps_per_second: float
    pushed_bytes_per_second: float
    pulled_bytes_per_second: float
    num_refused: int
    """In that time."""


class Looks:
    """The newest look, and the one some seconds before it that rates are taken from."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque()

    def add(self, look: Look) -> None:
        """Of a job that was started again, nothing from before counts."""
        if self._looks and self._looks[-1].status.job.job_id != look.status.job.job_id:
            self._looks.clear()
        self._looks.append(look)
        while len(self._looks) > 2 and look.seconds - self._looks[1].seconds >= WINDOW_SECONDS:
            self._looks.popleft()

    @property
    def newest(self) -> Look:
        return self._looks[-1]

    def worker_rates(self) -> dict[int, WorkerRates]:
        """By worker id, of those that have reported twice."""
        now, before = self._looks[-1], self._looks[0]
        earlier = {(worker.worker_id, worker.incarnation): worker for worker in before.status.workers}
        rates = {}
        for worker in now.status.workers:
            old = earlier.get((worker.worker_id, worker.incarnation))
            if old is None or worker.state not in LIVE_STATES:
                continue
            seconds = (now.seconds - worker.reported_seconds_ago) - (before.seconds - old.reported_seconds_ago)
            if seconds >= SHORTEST_SECONDS:
                rates[worker.worker_id] = _worker_rates(old, worker, seconds)
        return rates

    def shard_rates(self) -> dict[int, ShardRates]:
        """By shard, of those whose figures have been seen twice."""
        now, before = self._looks[-1], self._looks[0]
        earlier = {(shard.shard, shard.epoch): shard for shard in before.status.shards}
        rates = {}
        for shard in now.status.shards:
            old = earlier.get((shard.shard, shard.epoch))
            if old is None:
                continue
            seconds = (now.seconds - shard.reported_seconds_ago) - (before.seconds - old.reported_seconds_ago)
            if seconds >= SHORTEST_SECONDS:
                rates[shard.shard] = ShardRates(
                    steps_per_second=max(0, shard.steps_applied - old.steps_applied) / seconds,
                    pushed_bytes_per_second=max(0, shard.bytes_pushed - old.bytes_pushed) / seconds,
                    pulled_bytes_per_second=max(0, shard.bytes_pulled - old.bytes_pulled) / seconds,
                    num_refused=max(0, num_refused(shard) - num_refused(old)),
                )
        return rates


def num_refused(shard: ShardStatus) -> int:
    """Steps, over all reasons."""
    return sum(shard.pushes_refused.values())


def clocks_behind(workers: Iterable[WorkerStatus]) -> dict[int, int]:
    """Of each active worker, how many clocks it is behind the fastest."""
    active = {worker.worker_id: worker.clock for worker in workers if worker.state == "active"}
    fastest = max(active.values(), default=0)
    return {worker_id: fastest - clock for worker_id, clock in active.items()}


def workers_to_show(workers: Sequence[WorkerStatus], most: int | None = None) -> tuple[list[WorkerStatus], int]:
    """Those that are there and the newest that were lost, by id, and how many of them are left out.

    Where not all fit, those that were lost or not heard of for long come first.
    """
    live = [worker for worker in workers if worker.state in LIVE_STATES]
    lost = [worker for worker in workers if worker.state in ("failed", "expired")]
    shown = [*live, *sorted(lost, key=lambda worker: worker.incarnation)[-MOST_LOST_SHOWN:]]
    if most is not None and len(shown) > most:
        shown.sort(key=lambda worker: (worker.state in LIVE_STATES, -worker.heard_seconds_ago, worker.worker_id))
        left_out = len(shown) - most
        shown = shown[:most]
    else:
        left_out = 0
    return sorted(shown, key=lambda worker: worker.worker_id), left_out


def _worker_rates(before: WorkerStatus, now: WorkerStatus, seconds: float) -> WorkerRates:
    def grown(name: str) -> float:
        return max(0.0, float(getattr(now.report, name) - getattr(before.report, name)))

    parts = [grown(f"{part}_seconds") for part in STEP_PARTS]
    total = sum(parts)
    compute, encode, wait, decode = (part / total if total > 0 else 0.0 for part in parts)
    return WorkerRates(
        samples_per_second=grown("num_samples") / seconds,
        pushed_bytes_per_second=max(0, _traffic(now, "pushed") - _traffic(before, "pushed")) / seconds,
        pulled_bytes_per_second=max(0, _traffic(now, "pulled") - _traffic(before, "pulled")) / seconds,
        shares=(compute, encode, wait, decode),
    )


def _traffic(worker: WorkerStatus, way: str) -> int:
    reports: Sequence[WorkerReport] = list(worker.ranks) or [worker.report]
    return sum(getattr(report, f"bytes_{way}") for report in reports)
