"""Spans of steps on a shard, below the span of the worker that sent them."""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..protos.shard_pb2 import Outcome
from ..ps_server.effects import Job
from ..ps_server.keys import StreamKey

MOST_STEPS = 4096
"""Under way at once; the oldest is forgotten, which only happens to streams that broke."""
TRACEPARENT_BYTES = 55


@dataclass
class _Step:
    number: int
    began: int
    """When its first frames came; nanoseconds of the calendar's time, like all here."""
    parent: Context | None = None
    """Known with the commit; None before, and where the worker does not trace."""
    applying_since: int | None = None
    publishing_since: int | None = None


class TracedShard:
    """An observer of one shard's steps that makes three spans of each: `stage`, `apply` and `publish`."""

    def __init__(self, tracer: Tracer, shard: int) -> None:
        self._tracer = tracer
        self._shard = shard
        self._lock = threading.Lock()
        self._steps: OrderedDict[StreamKey, _Step] = OrderedDict()

    def frames_came(self, key: StreamKey, step: int) -> None:
        with self._lock:
            self._at(key, step)

    def committed(self, key: StreamKey, step: int, traceparent: bytes) -> None:
        parent = parent_context(traceparent)
        with self._lock:
            at = self._at(key, step)
            if parent is None:
                del self._steps[key]
            elif at.parent is None:  # else the commit was sent again
                at.parent = parent
                self._span("stage", key, at, at.began)

    def job_began(self, job: Job) -> None:
        with self._lock:
            for _, at in self._settled_by(job):
                at.applying_since = time.time_ns()

    def job_ended(self, job: Job) -> None:
        with self._lock:
            for key, at in self._settled_by(job):
                if at.applying_since is not None:
                    kind = Outcome.Kind.Name(job.settles[key.worker]).removeprefix("KIND_").lower()
                    self._span("apply", key, at, at.applying_since, outcome=kind, contributors=len(job.parts))
                    at.applying_since = None

    def publishing(self, key: StreamKey, step: int) -> None:
        with self._lock:
            at = self._steps.get(key)
            if at is not None and at.number == step and at.publishing_since is None:
                at.publishing_since = time.time_ns()

    def published(self, key: StreamKey, step: int) -> None:
        with self._lock:
            at = self._steps.get(key)
            if at is None or at.number != step:
                return
            del self._steps[key]
            if at.parent is not None and at.publishing_since is not None:
                self._span("publish", key, at, at.publishing_since)

    def _at(self, key: StreamKey, step: int) -> _Step:
        at = self._steps.get(key)
        if at is None or at.number != step:
            at = self._steps[key] = _Step(step, time.time_ns())
            self._steps.move_to_end(key)
            while len(self._steps) > MOST_STEPS:
                self._steps.popitem(last=False)
        return at

    def _settled_by(self, job: Job) -> list[tuple[StreamKey, _Step]]:
        return [(key, at) for key, at in self._steps.items() if key.worker in job.settles and at.parent is not None]

    def _span(self, name: str, key: StreamKey, at: _Step, began: int, **attributes: str | int) -> None:
        known = {"shard": self._shard, "worker": key.worker_id, "rank": key.rank, "step": at.number, **attributes}
        named = {f"pushpull.{what}": value for what, value in known.items()}
        self._tracer.start_span(name, at.parent, start_time=began, attributes=named).end(time.time_ns())


def parent_context(traceparent: bytes) -> Context | None:
    """The worker's span, from a W3C traceparent in ASCII. None for anything else, and for one that is not sampled."""
    if len(traceparent) != TRACEPARENT_BYTES or not traceparent.isascii():
        return None
    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent.decode("ascii")}, Context())
    parent = get_current_span(context).get_span_context()
    return context if parent.is_valid and parent.trace_flags.sampled else None
