"""What happened in this worker so far, for the registrar's report and for Prometheus."""

import logging
import math
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch

from ..protos.registrar_pb2 import WorkerReport
from ..protos.report_bounds import MOST_NAME_CHARACTERS, MOST_NAMES

logger = logging.getLogger(__name__)


class StepKind(Enum):
    """What became of a step as a whole."""

    APPLIED = "applied"
    SKIPPED = "skipped"
    LATE = "late"
    REFUSED = "refused"
    EXPIRED = "expired"
    TOO_OLD = "too_old"
    """Computed before the worker counted, from parameters that were no longer the newest."""

    @property
    def in_words(self) -> str:
        """For people, behind "the step is"; the values above are labels of metrics."""
        return _IN_WORDS.get(self, self.value)

    @property
    def drops_gradient(self) -> bool:
        return self not in (StepKind.APPLIED, StepKind.SKIPPED)


_IN_WORDS = {
    StepKind.LATE: "too late: its round was closed without it",
    StepKind.EXPIRED: "void: the lease of this worker had run out, or others had waited for it too long",
    StepKind.TOO_OLD: "void: the values that it was computed from were no longer the newest",
}


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Seconds of one step by what they went into."""

    compute: float
    """Since the step before."""
    encode: float
    wait: float
    decode: float


@dataclass
class Timings:
    """Seconds spent inside steps so far."""

    encode: float = 0.0
    wait: float = 0.0
    decode: float = 0.0

    def add(self, encode: float, exchange: float, decode: float) -> None:
        """Decoding goes on in the shards' threads while `step()` waits for the exchange."""
        self.encode += encode
        self.decode += decode
        self.wait += max(0.0, exchange - decode)


@dataclass(frozen=True, kw_only=True)
class StepSummary:
    """One step that has ended."""

    kind: StepKind
    num_samples: float
    restaged: bool
    times: StepTimes
    bytes_pushed: int
    bytes_pulled: int
    bytes_resent: int
    clock_lag: int = 0
    """Clocks that this worker was ahead of the slowest when the values came that it holds now."""


class StepObserver(Protocol):
    """Learns of every step that has ended, in the training thread."""

    def step_ended(self, step: StepSummary) -> None: ...


class Recorder:
    """Cumulative figures. Written by the training thread, read by the heartbeat's."""

    def __init__(self, *observers: StepObserver, begin: Callable[[], bytes] = bytes) -> None:
        self.step_begins = begin
        """To be called when `optimizer.step()` begins; returns the trace context of the step, empty if it is not traced."""
        self._observers = observers
        self._report = WorkerReport()
        self.last_step_at: float | None = None
        """Monotonic seconds."""
        self._lock = threading.Lock()
        self._told_of_names = False

    def step_ended(self, step: StepSummary) -> None:
        """Adds one step."""
        self.last_step_at = time.monotonic()
        with self._lock:
            report = self._report
            report.num_steps += 1
            report.num_samples += step.num_samples
            report.steps_applied += step.kind is StepKind.APPLIED
            report.steps_skipped += step.kind is StepKind.SKIPPED
            report.steps_dropped += step.kind.drops_gradient
            report.steps_restaged += step.restaged
            report.bytes_pushed += step.bytes_pushed
            report.bytes_pulled += step.bytes_pulled
            report.bytes_resent += step.bytes_resent
            report.compute_seconds += step.times.compute
            report.encode_seconds += step.times.encode
            report.wait_seconds += step.times.wait
            report.decode_seconds += step.times.decode
            if step.num_samples > 0:
                report.first_samples = report.first_samples or step.num_samples
                report.last_samples = step.num_samples
        for observer in self._observers:
            observer.step_ended(step)

    def log(self, values: Mapping[str, float]) -> None:
        """Keeps the newest value, and the first, of each name; first values that are not finite are not kept."""
        with self._lock:
            for name, value in values.items():
                if name not in self._report.metrics and not self._has_room(name):
                    continue
                self._report.metrics[name] = value
                if name not in self._report.first_metrics and math.isfinite(value):
                    self._report.first_metrics[name] = value

    def _has_room(self, name: str) -> bool:
        if len(self._report.metrics) < MOST_NAMES and len(name) <= MOST_NAME_CHARACTERS:
            return True
        if not self._told_of_names:
            self._told_of_names = True
            logger.warning(
                "worker.log: %r is not shown: at most %d names of %d characters are",
                name[:60],
                MOST_NAMES,
                MOST_NAME_CHARACTERS,
            )
        return False

    def newest(self, name: str) -> float | None:
        """What was logged last under this name; None if nothing was."""
        with self._lock:
            values = dict(self._report.metrics)
        return values.get(name)

    def report(self) -> WorkerReport:
        """A copy of the figures."""
        report = WorkerReport()
        with self._lock:
            report.CopyFrom(self._report)
        report.peak_memory_bytes = peak_memory_bytes()
        report.peak_device_memory_bytes = peak_device_memory_bytes()
        return report


def peak_memory_bytes() -> int:
    """Resident set size of this process at its highest."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_memory_bytes() -> int:
    """Most memory that torch had allocated at once, summed over the GPUs of this process; 0 without one."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return 0
    return sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))
