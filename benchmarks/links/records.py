"""What a training process writes while it trains, and what is read from it: when which loss was reached. Pure, but for
the files.

A file has one JSON object a line: first `{"started": seconds}`, at the beginning of the first step, then `{"ended": seconds,
"loss": nats}` for each step. Seconds are of the machine's monotonic clock, which all processes share.
"""

import json
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

STEPS_OF_MEAN = 20
"""Steps of each worker that a mean loss is over."""


class Recording:
    """Writes the file of one process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)
        self._started = False

    def step_begins(self) -> None:
        """Said before every step; the first counts."""
        if not self._started:
            self._started = True
            self._write(started=time.monotonic())

    def step_ended(self, loss: float) -> None:
        """`loss` is the training loss of that step, in nats."""
        self._write(ended=time.monotonic(), loss=loss)

    def _write(self, **values: float) -> None:
        self._file.write(json.dumps(values) + "\n")


@dataclass(frozen=True)
class Record:
    """A file that was read. Seconds as in the file."""

    started: float | None
    steps: Sequence[tuple[float, float]]
    """(seconds at its end, loss) of each step."""


def read_record(path: Path) -> Record:
    """What a process has written so far; nothing if it has not begun."""
    started: float | None = None
    steps = []
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    for line in lines:
        if not line.endswith("\n"):
            break  # it is being written
        values = json.loads(line)
        started = values.get("started", started)
        if "ended" in values:
            steps.append((float(values["ended"]), float(values["loss"])))
    return Record(started, steps)


@dataclass(frozen=True)
class Course:
    """How the loss of a whole job went."""

    started: float | None
    """When the first worker began its first step."""
    means: Sequence[tuple[float, float]]
    """(seconds since `started`, mean loss of the newest steps of all workers), one for each step."""

    def seconds_to(self, target: float) -> float | None:
        """Until the mean loss was first at or below `target`; None if it was not."""
        return next((seconds for seconds, mean in self.means if mean <= target), None)

    def num_steps_until(self, seconds: float) -> int:
        """Steps of all workers together that ended by then."""
        return sum(ended <= seconds for ended, _ in self.means)

    @property
    def loss(self) -> float | None:
        """The newest mean; None before the first step."""
        return self.means[-1][1] if self.means else None


def course_of(records: Iterable[Record]) -> Course:
    """Puts the steps of all workers in order. Means are infinite until there are enough steps for one."""
    records = list(records)
    started = min((record.started for record in records if record.started is not None), default=None)
    newest: deque[float] = deque(maxlen=STEPS_OF_MEAN * len(records))
    means = []
    for ended, loss in sorted(step for record in records for step in record.steps):
        newest.append(loss)
        mean = sum(newest) / len(newest) if len(newest) == newest.maxlen else float("inf")
        means.append((ended - (started or 0.0), mean))
    return Course(started, means)
