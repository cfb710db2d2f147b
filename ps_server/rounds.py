"""Synchronous rounds: whose step is in which round. Pure; owned by the registrar."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..protos.common_pb2 import ParameterGroup
from ..protos.registrar_pb2 import Contribution, RoundRecord, StepRefused, StepStaged
from .consistency import Synchronous


@dataclass
class PendingStep:
    """A step that at least one shard has reported and whose round is not closed."""

    step: int
    round: int
    apply: bool
    num_samples: float
    scale: float
    groups: list[ParameterGroup]
    staged_on: set[int] = field(default_factory=set)
    refused: bool = False
    idle: bool = False
    """Of a worker without data that waits for others."""
    lots: list[int] = field(default_factory=list)

    def complete(self, num_shards: int) -> bool:
        return self.refused or len(self.staged_on) == num_shards


EMPTY_ROUND_SECONDS = 0.25
"""Between two rounds of workers that all wait for data: each asks for some in between."""


@dataclass(frozen=True)
class ClosedRound:
    """What closing a round decided, for the shards and for the dealer of data."""

    record: RoundRecord
    lots_done: list[int]
    lots_returned: list[int]
    applied: dict[int, list[ParameterGroup]]
    """Groups of the steps that are applied, by worker id, ascending: the first one's hold for all."""


class Rounds:
    """The rounds of a synchronous job.

    Invariants: `closed` never falls; a worker is named at most once in a round; a step is in at most one round; a step
    whose worker is gone before the round closed is in no round. A report costs the same however many members there are;
    only a round that closes costs something for each.
    """

    def __init__(self, policy: Synchronous, num_shards: int) -> None:
        self.policy = policy
        self.closed = 0
        self.applied = 0
        """Those that changed something: what counts as the job's clock."""
        self._closed_at = -math.inf
        self._num_shards = num_shards
        self._pending: dict[tuple[int, int], PendingStep] = {}
        self._due: set[tuple[int, int]] = set()
        """Of the next round, and complete."""

    def staged(self, shard: int, report: StepStaged) -> list[int]:
        """A shard holds every frame of a step, and its commit. Returns lots of a step that came too late."""
        if report.round <= self.closed:
            return list(report.lots)
        key = (report.worker_id, report.incarnation)
        step = self._pending.get(key)
        if step is None or step.step < report.step:
            step = self._pending[key] = PendingStep(
                step=report.step,
                round=report.round,
                apply=report.apply,
                num_samples=report.num_samples,
                scale=report.scale,
                groups=list(report.groups),
                idle=report.idle,
            )
        if step.step == report.step:
            step.staged_on.add(shard)
            step.lots = step.lots or list(report.lots)
        self._look_at(key, step)
        return []

    def refused(self, report: StepRefused) -> list[int]:
        """A shard refused a step: it takes part in its round as a skip, on every shard. Returns lots of a late one."""
        if report.round <= self.closed:
            return list(report.lots)
        key = (report.worker_id, report.incarnation)
        step = self._pending.get(key)
        if step is None or step.step < report.step:
            step = self._pending[key] = PendingStep(report.step, report.round, False, 0.0, 1.0, [])
        if step.step == report.step:
            step.lots = step.lots or list(report.lots)
            step.refused = True
            step.apply = False
        self._look_at(key, step)
        return []

    def forget(self, worker: int, incarnation: int) -> None:
        """A worker is gone: its step is in no round, unless that round is closed already."""
        self._pending.pop((worker, incarnation), None)
        self._due.discard((worker, incarnation))

    def lots_of(self, worker: int, incarnation: int) -> list[int]:
        """Data of the step that is reported and in no round yet."""
        step = self._pending.get((worker, incarnation))
        return [] if step is None else step.lots

    def complete(self, members: Mapping[int, int]) -> dict[int, PendingStep]:
        """Steps of the next round that nothing is missing of, by worker id, ascending."""
        return {key[0]: self._pending[key] for key in sorted(self._due) if members.get(key[0]) == key[1]}

    def waiting_for(self, members: Mapping[int, int]) -> list[int]:
        """Members (worker id -> incarnation) without a complete step, if somebody else's is complete."""
        complete = self.complete(members)
        return [worker for worker in members if worker not in complete] if complete else []

    def has_begun(self, members: Mapping[int, int]) -> bool:
        """Whether a part of the next round is here already."""
        steps = (self._pending.get(key) for key in members.items())
        return any(step is not None and step.round == self.closed + 1 for step in steps)

    def close_next(self, now: float, members: Mapping[int, int]) -> ClosedRound | None:
        """Closes the next round over these members if it is complete; None if it is not.

        One in which everybody waits for data closes a while after the one before, so that they do not spin.
        """
        if not self.policy.may_close(len(members), len(self._due)):
            return None
        complete = self.complete(members)
        if not self.policy.round_closes(members.keys(), complete.keys()):
            return None
        if all(step.idle for step in complete.values()) and now - self._closed_at < EMPTY_ROUND_SECONDS:
            return None
        self.closed += 1
        self._closed_at = now
        self.applied += any(step.apply for step in complete.values())
        record = RoundRecord(round=self.closed)
        done: list[int] = []
        returned: list[int] = []
        for worker, step in complete.items():
            record.contributions.append(
                Contribution(
                    worker_id=worker,
                    incarnation=members[worker],
                    step=step.step,
                    num_samples=step.num_samples,
                    scale=step.scale,
                    apply=step.apply,
                )
            )
            (returned if step.refused else done).extend(step.lots)
            del self._pending[(worker, members[worker])]
        applied = {worker: step.groups for worker, step in complete.items() if step.apply}
        record.groups.extend(next(iter(applied.values()), ()))
        returned += self._drop_late()
        self._due = {key for key, step in self._pending.items() if self._is_due(step)}
        return ClosedRound(record, done, returned, applied)

    def _look_at(self, key: tuple[int, int], step: PendingStep) -> None:
        """A report has changed this step, or put it in place of an earlier one."""
        if self._is_due(step):
            self._due.add(key)
        else:
            self._due.discard(key)

    def _is_due(self, step: PendingStep) -> bool:
        return step.round == self.closed + 1 and step.complete(self._num_shards)

    def _drop_late(self) -> list[int]:
        late = [key for key, step in self._pending.items() if step.round <= self.closed]
        return [lot for key in late for lot in self._pending.pop(key).lots]
