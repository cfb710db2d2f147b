"""Sends outcomes and values to ranks, and takes the time from question to answer. The engine's lock guards it."""

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from ..protos.common_pb2 import ErrorCode
from ..protos.shard_pb2 import Outcome, ShardMessage
from .blocks import Bundle
from .effects import AnswerPull, PullTicket, Tell
from .keys import StreamKey
from .metrics import ServerMetrics
from .session import Session
from .shard import Shard
from .statistics import ShardStatistics
from .step_observer import StepObserver
from .streams import Streams

log = structlog.get_logger(__name__)


class Answers:
    """What goes down the streams of one shard. Callers hold `lock`; values are made later, without it."""

    def __init__(
        self, streams: Streams, statistics: ShardStatistics, lock: threading.Lock, observer: StepObserver
    ) -> None:
        self._streams = streams
        self._statistics = statistics
        self._metrics: ServerMetrics = statistics.metrics
        self._lock = lock
        self._observer = observer

    def asked(self, session: Session) -> None:
        """A rank has committed or pulled."""
        session.asked_at = time.monotonic()

    def tell(self, effect: Tell) -> None:
        """Sends an outcome to every rank that is to know it."""
        outcome = effect.outcome
        if not outcome.duplicate:
            kind = Outcome.Kind.Name(outcome.kind).removeprefix("KIND_").lower()
            self._metrics.pushes.labels(outcome=kind).inc()
            if outcome.kind == Outcome.KIND_REFUSED:
                code = ErrorCode.Name(outcome.code)
                worker = effect.keys[0].worker_id if effect.keys else None
                log.warning("step refused", worker=worker, step=outcome.step, reason=code, message=outcome.message)
            sessions = [session for key in effect.keys if (session := self._streams.of(key)) is not None]
            asked = [session.asked_at for session in sessions if session.asked_at is not None]
            if asked:
                self._metrics.push_seconds.observe(time.monotonic() - min(asked))
        message = ShardMessage(outcome=outcome).SerializeToString()
        for key in effect.keys:
            self._streams.send(key, message)

    def answer(self, shard: Shard, effect: AnswerPull) -> None:
        """Sends what a pull lacks, and its end."""
        ticket = effect.ticket
        self._statistics.answered(effect.clock_lag, ticket.waited, self._seconds_since_asked(ticket.key))
        self.send_bundles(shard, ticket, shard.store.bundles)
        done = ShardMessage(pull_done=effect.done).SerializeToString()

        def end() -> bytes:
            self._observer.published(ticket.key, ticket.step)
            return done

        self._streams.send(ticket.key, end if ticket.step else done)

    def send_bundles(self, shard: Shard, ticket: PullTicket, bundles: Sequence[Bundle]) -> None:
        """Queues the bundles in which the ticket lacks a version."""
        if ticket.step:
            self._observer.publishing(ticket.key, ticket.step)
        for bundle in bundles:
            held = ticket.held[bundle.first : bundle.last]
            newest = shard.store.versions[bundle.first : bundle.last]
            if (held < newest).any():
                self._streams.send(ticket.key, self._maker(shard, bundle, held.copy()))
                np.maximum(held, newest, out=held)

    def _maker(self, shard: Shard, bundle: Bundle, held: NDArray[np.int64]) -> Callable[[], bytes]:
        def make() -> bytes:
            with bundle.lock:
                message = shard.publisher.message(bundle, held)
                newer = held < shard.store.versions[bundle.first : bundle.last]
            num_elements = int(shard.store.block_elements[bundle.first : bundle.last][newer].sum())
            with self._lock:
                self._statistics.pulled(len(message), num_elements)
            return message

        return make

    def _seconds_since_asked(self, key: StreamKey) -> float:
        """And it is answered; 0 if the question came over a stream that is no more."""
        session = self._streams.of(key)
        if session is None or session.asked_at is None:
            return 0.0
        asked_at, session.asked_at = session.asked_at, None
        return time.monotonic() - asked_at
