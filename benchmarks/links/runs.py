"""One system on one network, from its start to the target loss or to the limit."""

import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...deploy.processes import Child, pushpull_command
from ...protos.errors import PushpullError
from .network import Network
from .records import Course, Record, course_of, read_record
from .systems import SERVERS, Started, System, Task, trainers_of

_START_SECONDS = 180.0
_POLL_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class Goal:
    """When a run is over."""

    loss: float
    """Mean training loss, in nats a byte, see `records.course_of`."""
    limit_seconds: float
    """From the first step on."""


@dataclass(frozen=True, kw_only=True)
class WorkerFigures:
    """One worker's part of a run, from the first step on."""

    name: str
    num_steps: int
    bytes_up: int
    """IP packets that left, headers and what was sent again included."""
    bytes_down: int
    round_seconds: tuple[float, float, float] | None
    """From the end of a step to the end of the next: a tenth took at most the first of these, half the second, nine
    tenths the third. None if there are too few steps."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By what they went into (`compute`, `encode`, `wait`, `decode`); pushpull only."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a run went."""

    system: str
    seconds_to_target: float | None
    """From the first step of the first worker; None if it did not get there."""
    seconds: float
    """That it was watched for."""
    loss: float | None
    """The last mean; None before there was one."""
    num_steps: int
    """Of all workers together, until then."""
    workers: Sequence[WorkerFigures]
    load_average_before: float
    load_average_after: float


def run(network: Network, system: System, task: Task, goal: Goal) -> Run:
    """Trains until the goal is reached, the limit is over or the workers have taken all their steps.

    Raises:
        PushpullError: a process failed, or the first step did not begin.
    """
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        started = system.start(network, task, Path(folder))
        try:
            watch = _Watch(network, started, Path(folder))
            watch.until(goal)
            figures = _seconds_of_workers(network, started)
        finally:
            network.stop([*started.trainers, *started.others])
    course = watch.course
    reached = course.seconds_to(goal.loss)
    seconds = goal.limit_seconds if reached is None else reached
    return Run(
        system=system.name,
        seconds_to_target=reached if reached is not None and reached <= goal.limit_seconds else None,
        seconds=min(watch.seconds, seconds),
        loss=course.loss,
        num_steps=course.num_steps_until(seconds),
        workers=watch.figures(figures),
        load_average_before=before,
        load_average_after=os.getloadavg()[0],
    )


class _Watch:
    """Looks at a run until it is over."""

    def __init__(self, network: Network, started: Started, records: Path) -> None:
        self.course = Course(None, ())
        self.seconds = 0.0
        """Since the first step."""
        self._hosts = trainers_of(network)
        self._started = started
        self._paths = [records / f"{number}.jsonl" for number in range(len(self._hosts))]
        self._records: list[Record] = []
        self._first: list[tuple[int, int]] = []
        self._last: list[tuple[int, int]] = []

    def until(self, goal: Goal) -> None:
        begun = time.monotonic()
        while not self._over(goal):
            if self.course.started is None and time.monotonic() - begun > _START_SECONDS:
                raise PushpullError(f"no step began within {_START_SECONDS:g} s; {self._said()}")
            time.sleep(_POLL_SECONDS)

    def _over(self, goal: Goal) -> bool:
        statuses = [child.exit_status for child in [*self._started.trainers, *self._started.others]]
        self._records = [read_record(path) for path in self._paths]
        self.course = course_of(self._records)
        self._last = [host.bytes_sent_and_received() for host in self._hosts]
        if any(statuses):
            raise PushpullError(f"a process of the measured system failed; {self._said()}")
        if self.course.started is None:
            self._first = self._last
            return False
        self.seconds = time.monotonic() - self.course.started
        ended = all(child.exit_status is not None for child in self._started.trainers)
        return ended or self.seconds > goal.limit_seconds or self.course.seconds_to(goal.loss) is not None

    def figures(self, seconds: Sequence[dict[str, float]]) -> list[WorkerFigures]:
        return [
            WorkerFigures(
                name=f"{host.name} ({host.link})",
                num_steps=len(record.steps),
                bytes_up=last[0] - first[0],
                bytes_down=last[1] - first[1],
                round_seconds=_round_seconds(record),
                seconds=spent,
            )
            for host, record, first, last, spent in zip(
                self._hosts, self._records, self._first, self._last, seconds, strict=True
            )
        ]

    def _said(self) -> str:
        failed = [child for child in [*self._started.trainers, *self._started.others] if child.exit_status]
        return (
            "; ".join(f"{child.name} said: {' | '.join(list(child.last_lines)[-3:])}" for child in failed)
            or "nobody says why"
        )


def _seconds_of_workers(network: Network, started: Started) -> list[dict[str, float]]:
    """Where the time of each worker went, as the registrar was last told."""
    unknown: list[dict[str, float]] = [{} for _ in trainers_of(network)]
    if started.registrar is None or all(child.exit_status is not None for child in started.trainers):
        return unknown
    command = [*pushpull_command("status"), "--servers", started.registrar, "--json"]
    child = network.start(network.hosts[SERVERS], "status", command)
    _wait(child)
    try:
        status: dict[str, Any] = json.loads(child.last_lines[-1])
        reports = [worker["report"] for worker in sorted(status["workers"], key=lambda worker: worker["worker_id"])]
    except (IndexError, KeyError, json.JSONDecodeError):
        return unknown
    parts = ("compute", "encode", "wait", "decode")
    return [{part: float(report.get(f"{part}_seconds", 0.0)) for part in parts} for report in reports]


def _round_seconds(record: Record) -> tuple[float, float, float] | None:
    ends = [ended for ended, _ in record.steps]
    if len(ends) < 3:
        return None
    tenths = statistics.quantiles((b - a for a, b in itertools.pairwise(ends)), n=10)
    return tenths[0], tenths[4], tenths[8]


def _wait(child: Child) -> None:
    child.wait()
    child.finish_output()
