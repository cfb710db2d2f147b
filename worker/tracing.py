"""Spans of a worker's steps, for whoever has OpenTelemetry running in this process. Imports nothing of it unless it is."""

import sys
import time
from typing import Any, Protocol

from .identity import Identity
from .recorder import StepKind, StepSummary

OPEN_TELEMETRY = "opentelemetry.trace"


class StepTracer(Protocol):
    """Makes one trace of each step. Used by the training thread."""

    def begin(self) -> bytes:
        """`optimizer.step()` begins. The W3C trace context that goes to the shards, in ASCII; empty: it is not traced."""

    def step_ended(self, step: StepSummary) -> None:
        """The step that began last has ended."""


class NoTracer:
    """Nobody traces."""

    def begin(self) -> bytes:
        return b""

    def step_ended(self, step: StepSummary) -> None: ...


class OpenTelemetryTracer:
    """A span `step` from the end of the step before, with children `compute`, `encode`, `exchange` and `decode`.

    Values are decoded while others are still on their way: `decode` is as long as that took in all, put behind `exchange`.
    """

    def __init__(self, api: Any, identity: Identity) -> None:
        self._api = api
        self._tracer = api.get_tracer("pushpull.worker")
        self._identity = identity
        self._span: Any = None
        self._computing_since = time.time_ns()
        self._began = self._computing_since

    def begin(self) -> bytes:
        self._began = time.time_ns()
        if self._identity.step == 0:
            # Before the first step there was more than computing.
            self._computing_since, self._identity.step = self._began, 1
        self._span = self._tracer.start_span("step", self._api.Context(), start_time=self._computing_since)
        context = self._span.get_span_context()
        if not (context.is_valid and context.trace_flags.sampled):
            return b""
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-01".encode("ascii")

    def step_ended(self, step: StepSummary) -> None:
        span, self._span = self._span, None
        now = time.time_ns()
        if span is not None and span.is_recording():
            self._children(span, step, now)
            fields = self._identity.fields() | {"outcome": step.kind.value, "samples": step.num_samples}
            span.set_attributes({f"pushpull.{name}": value for name, value in fields.items()})
            if step.kind is StepKind.REFUSED:
                span.set_status(self._api.StatusCode.ERROR)
        if span is not None:
            span.end(now)
        self._computing_since = now

    def _children(self, span: Any, step: StepSummary, now: int) -> None:
        parent = self._api.set_span_in_context(span, self._api.Context())
        encoded = min(now, self._began + int(step.times.encode * 1e9))
        exchanged = max(encoded, now - int(step.times.decode * 1e9))
        times = (self._computing_since, self._began, encoded, exchanged, now)
        for name, start, end in zip(("compute", "encode", "exchange", "decode"), times, times[1:], strict=False):
            self._tracer.start_span(name, parent, start_time=start).end(end)


def step_tracer(identity: Identity) -> StepTracer:
    """A tracer if OpenTelemetry was loaded by the script or by our command line, which also say where spans go."""
    api = sys.modules.get(OPEN_TELEMETRY)
    return NoTracer() if api is None else OpenTelemetryTracer(api, identity)
