"""Tells people who read a worker's log that it trains, and how fast."""

import logging
import time
from collections.abc import Callable

from ..protos.registrar_pb2 import WorkerReport
from .identity import Identity
from .recorder import StepSummary

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30.0


class ProgressLog:
    """An observer of steps: a line for the first one, and then one about every half minute. Rank 0 speaks for its worker."""

    def __init__(
        self, identity: Identity, report: Callable[[], WorkerReport], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._identity = identity
        self._report = report
        self._clock = clock
        self._told_at: float | None = None
        self._told = WorkerReport()

    def step_ended(self, step: StepSummary) -> None:
        identity = self._identity
        identity.step = max(1, identity.step)
        if identity.caller.rank == 0:
            self._tell(step)
        identity.step += 1

    def _tell(self, step: StepSummary) -> None:
        now = self._clock()
        if self._told_at is None:
            self._told_at, self._told = now, self._report()
            logger.info("the first step is %s", step.kind.in_words, extra={"outcome": step.kind.value, **self._loss()})
        elif now - self._told_at >= INTERVAL_SECONDS:
            seconds, before = now - self._told_at, self._told
            self._told_at, self._told = now, self._report()
            self._tell_progress(step, before, seconds)

    def _tell_progress(self, step: StepSummary, before: WorkerReport, seconds: float) -> None:
        figures = figures_between(before, self._told, seconds) | {"clock_lag": step.clock_lag} | self._loss()
        text = [f"step {self._identity.step}"]
        text += [f"loss {figures['loss']:.4f}"] if "loss" in figures else []
        text += [
            f"{figures['samples_per_second']:.1f} samples/s",
            f"{figures['compute_share']:.0%} of the time in the script",
            f"up {figures['pushed_bytes_per_second'] / 1e6:.2f} MB/s",
            f"down {figures['pulled_bytes_per_second'] / 1e6:.2f} MB/s",
            f"{step.clock_lag} ahead of the slowest",
        ]
        text += [f"{figures['steps_dropped']:.0f} steps dropped"] if figures["steps_dropped"] else []
        logger.info("%s", "  ".join(text), extra=figures)

    def _loss(self) -> dict[str, float]:
        loss = self._told.metrics.get("loss")
        return {} if loss is None else {"loss": loss}


def figures_between(before: WorkerReport, now: WorkerReport, seconds: float) -> dict[str, float]:
    """What the log says of the time between two reports; `seconds` > 0."""
    compute = now.compute_seconds - before.compute_seconds
    exchange = sum(
        getattr(now, name) - getattr(before, name) for name in ("encode_seconds", "wait_seconds", "decode_seconds")
    )
    return {
        "steps_per_second": (now.num_steps - before.num_steps) / seconds,
        "samples_per_second": (now.num_samples - before.num_samples) / seconds,
        "compute_share": compute / (compute + exchange) if compute + exchange > 0 else 0.0,
        "pushed_bytes_per_second": (now.bytes_pushed - before.bytes_pushed) / seconds,
        "pulled_bytes_per_second": (now.bytes_pulled - before.bytes_pulled) / seconds,
        "steps_dropped": now.steps_dropped - before.steps_dropped,
    }
