"""Figures of a worker process that are read when Prometheus asks."""

import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator

from ..protos.exposition import Family, Reading, label_text
from .data_ledger import DataLedger
from .layout import Layout
from .membership import Membership
from .recorder import Recorder
from .training import Training

RESIDUAL_SECONDS = 10.0
"""How old the residual's norm may be: it costs a pass over all of it."""


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family("gauge", f"pushpull_worker_{name}", text, labels)


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family("counter", f"pushpull_worker_{name}", text, labels)


INFO = _gauge("info", "Where this process runs, and how the ranks of its worker split the model.", "host", "layout")
CLOCK = _gauge("clock", "Round of the values in the model (sync), else clock of this worker, as it last heard.")
LAST_STEP = _gauge("last_step_timestamp_seconds", "When this process last ended a step.")
DATA_SECONDS = _counter("data_wait_seconds", "Time that user code waited for worker.share(); a part of compute.")
LOSS = _gauge("loss", "Newest loss logged by the script.")
LEARNING_RATE = _gauge("learning_rate", "Learning rate of the first parameter group, as the next step sends it.")
GRADIENT_NORM = _gauge("gradient_norm", "Euclidean norm of the newest gradient before clipping; with clip_norm only.")
RESIDUAL = _gauge("residual_norm", "Euclidean norm of what the codecs left out so far, in gradient units.")
JOINS = _counter("joins", "Incarnations of this worker in this process; the second is the first that came back.")
HEARTBEATS = _counter("heartbeats", "Heartbeats sent.")
HEARTBEATS_FAILED = _counter("heartbeats_failed", "Heartbeats without an answer, or refused.")
RETRIES = _counter("registrar_retries", "Calls to the registrar that were made again.")
STREAM_FAILURES = _counter("stream_failures", "Streams to a shard that broke or could not be opened.", "shard")

FAMILIES = (
    *(INFO, CLOCK, LAST_STEP, DATA_SECONDS, LOSS, LEARNING_RATE, GRADIENT_NORM, RESIDUAL),
    *(JOINS, HEARTBEATS, HEARTBEATS_FAILED, RETRIES, STREAM_FAILURES),
)


class WorkerReadings:
    """Reads a worker's parts from the scraper's thread. What is not there yet is absent."""

    def __init__(
        self, membership: Membership, training: Training, ledger: DataLedger, recorder: Recorder, layout: Layout
    ) -> None:
        self._calls = membership.registrar.counts
        self._training = training
        self._ledger = ledger
        self._recorder = recorder
        self._info = label_text(socket.gethostname()), layout.spec
        self._residual = Remembered(self._residual_norm, RESIDUAL_SECONDS)

    def read(self) -> Iterator[Reading]:
        """As Prometheus is shown them."""
        yield INFO, self._info, 1
        yield DATA_SECONDS, (), self._ledger.wait_seconds
        yield JOINS, (), self._calls.joins
        yield HEARTBEATS, (), self._calls.heartbeats
        yield HEARTBEATS_FAILED, (), self._calls.heartbeats_failed
        yield RETRIES, (), self._calls.retries
        loss = self._recorder.newest("loss")
        if loss is not None:
            yield LOSS, (), loss
        ended = self._recorder.last_step_at
        if ended is not None:
            yield LAST_STEP, (), time.time() - (time.monotonic() - ended)
        yield from self._replica()
        optimizer = self._training.optimizer
        if optimizer is not None:
            yield LEARNING_RATE, (), optimizer.learning_rate

    def _replica(self) -> Iterator[Reading]:
        replica = self._training.replica
        if replica is None:
            return
        yield CLOCK, (), max(replica.position.round, replica.position.own_clock)
        yield RESIDUAL, (), self._residual()
        if replica.gradient_norm is not None:
            yield GRADIENT_NORM, (), replica.gradient_norm
        for shard, failures in enumerate(replica.stream_failures()):
            yield STREAM_FAILURES, (str(shard),), failures

    def _residual_norm(self) -> float:
        assert self._training.replica is not None
        return self._training.replica.encoder.residual_norm()


def while_it_lives(readings: WorkerReadings) -> Callable[[], Iterable[Reading]]:
    """What Prometheus is shown, by an endpoint whose thread must not keep the worker alive."""
    weak = weakref.WeakMethod(readings.read)
    return lambda: () if (read := weak()) is None else read()


class Remembered:
    """A figure that is worked out again when it is older than so many seconds, however many ask."""

    def __init__(self, work_out: Callable[[], float], seconds: float) -> None:
        self._work_out = work_out
        self._seconds = seconds
        self._lock = threading.Lock()
        self._known: tuple[float, float] | None = None

    def __call__(self) -> float:
        with self._lock:
            now = time.monotonic()
            if self._known is None or now - self._known[0] > self._seconds:
                self._known = (now, self._work_out())
            return self._known[1]
