"""One worker's stream to one shard: opened, lost and opened again, with the same bytes under the same keys."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from queue import SimpleQueue

import grpc

from ..protos.absence import Absence, is_refused
from ..protos.errors import (
    PushpullError,
    RetryableError,
    ServerLostError,
    ServerUnreachableError,
    error_of_call,
)
from ..protos.shard_pb2 import Hello, Values, Welcome, WorkerMessage
from ..protos.transport import dial
from .identity import same_identity
from .open_exchange import OpenExchange, OpenStep, OpenUpload
from .retry import Patience
from .wire import Received, receive

logger = logging.getLogger(__name__)

EXCHANGE_METHOD = "/pushpull.v1.Shard/Exchange"

FINAL_STATUSES = frozenset(
    {
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""Refusals by the transport that trying again does not change."""


@dataclass(frozen=True)
class ShardTarget:
    """Who is called, by whom, and for how long to try."""

    shard: int
    address: str
    hello: Hello
    patience_seconds: float

    @property
    def name(self) -> str:
        return f"shard {self.shard} at {self.address}"


@dataclass
class Traffic:
    """Bytes of one stream's messages. Written by the stream's threads, read by anyone."""

    bytes_sent: int = 0
    bytes_resent: int = 0
    bytes_received: int = 0
    failures: int = 0
    """Times that it broke or could not be opened."""


class ShardClient:
    """A stream with one open exchange at a time.

    A thread of its own reads what comes down, hands values to `on_values` as they arrive and calls `notify` whenever
    `exchange` may be done or `error` is set. An error is final for this incarnation.
    """

    def __init__(
        self, target: ShardTarget, on_values: Callable[[Values, memoryview], None], notify: Callable[[], None]
    ) -> None:
        self.target = target
        self.error: PushpullError | None = None
        self.traffic = Traffic()
        self._on_values = on_values
        self._notify = notify
        self._lock = threading.Lock()
        self._exchange: OpenExchange | None = None
        self._requests: SimpleQueue[bytes | None] | None = None
        self._call: grpc.Call | None = None
        self._epoch: int | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=same_identity(self._run), name=f"pushpull-shard-{target.shard}", daemon=True
        )

    @property
    def exchange(self) -> OpenExchange | None:
        """What is under way. The training thread owns it once it is done."""
        return self._exchange

    def start(self) -> None:
        self._thread.start()

    def begin(self, exchange: OpenExchange) -> None:
        """Makes this the open exchange and sends what it holds already."""
        with self._lock:
            self._exchange = exchange
            for message in exchange.messages(last_step=0):
                self._put(message)

    def send(self, message: bytes) -> None:
        """Sends one more message of frames of the open step or upload."""
        with self._lock:
            assert isinstance(self._exchange, OpenStep | OpenUpload)
            self._exchange.frames.append(message)
            self._put(message)

    def commit(self, message: bytes) -> None:
        """Sends the commit of the open step, behind its frames."""
        with self._lock:
            assert isinstance(self._exchange, OpenStep)
            self._exchange.commit = message
            self._put(message)

    def restart(self) -> None:
        """Drops what was sent of the open step: a higher attempt begins."""
        with self._lock:
            assert isinstance(self._exchange, OpenStep)
            self._exchange.restart()

    def close(self) -> None:
        """Ends the stream and its thread."""
        self._closing.set()
        with self._lock:
            if self._requests is not None:
                self._requests.put(None)
            if self._call is not None:
                self._call.cancel()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _put(self, message: bytes) -> None:
        if self._requests is not None:
            self._requests.put(message)
            self.traffic.bytes_sent += len(message)

    def _run(self) -> None:
        patience = Patience(self.target.patience_seconds)
        absence = Absence(self.target.address, patience_seconds=inf)
        while not self._closing.is_set():
            try:
                # A channel for each stream: one that could not resolve a name would wait ever longer before it tries again.
                with dial(self.target.address) as channel:
                    self._converse(channel, patience)
                reason = "the server ended the stream"
            except grpc.RpcError as failure:
                refusal = self._final_error(failure)
                if refusal is not None:
                    return self._fail(refusal)
                reason = _reason(failure)
                gone = self._why_gone(absence, failure)
                if gone is not None:
                    return self._fail(gone)
            except PushpullError as error:
                return self._fail(error)
            except Exception as error:  # a thread that dies in silence would leave step() waiting for ever
                logger.exception("%s: the stream's thread failed", self.target.name)
                return self._fail(PushpullError(f"{self.target.name}: {type(error).__name__}: {error}"))
            if not self._closing.is_set():
                self.traffic.failures += 1
            delay = patience.delay_after_failure(time.monotonic())
            if delay is None:
                return self._fail(self._unreachable(reason))
            if not self._closing.is_set():
                logger.info("%s: %s; trying again", self.target.name, reason)
            self._closing.wait(delay)

    def _converse(self, channel: grpc.Channel, patience: Patience) -> None:
        """One stream, from Hello to its end."""
        requests: SimpleQueue[bytes | None] = SimpleQueue()
        requests.put(WorkerMessage(hello=self.target.hello).SerializeToString())
        open_exchange = channel.stream_stream(
            EXCHANGE_METHOD, request_serializer=lambda message: message, response_deserializer=receive
        )
        call = open_exchange(_until_none(requests))
        with self._lock:
            self._call = call
        if self._closing.is_set():
            call.cancel()
        try:
            for received in call:
                message = received.message
                if message.HasField("welcome"):
                    patience.succeeded()
                    self._welcomed(message.welcome, requests)
                else:
                    self._dispatch(received)
        finally:
            with self._lock:
                self._requests = self._call = None
            requests.put(None)
            call.cancel()

    def _welcomed(self, welcome: Welcome, requests: "SimpleQueue[bytes | None]") -> None:
        if self._epoch is not None and welcome.epoch != self._epoch:
            raise ServerLostError(
                f"{self.target.name} was started again and has lost the model's state; restart the job (snapshots do not "
                "exist yet)"
            )
        with self._lock:
            reconnected = self._epoch is not None
            self._epoch = welcome.epoch
            self._requests = requests
            pending = [] if self._exchange is None else self._exchange.messages(welcome.last_step)
            for message in pending:
                self._put(message)
        if reconnected:
            self.traffic.bytes_resent += sum(map(len, pending))

    def _dispatch(self, received: Received) -> None:
        message = received.message
        if message.HasField("values"):
            self.traffic.bytes_received += received.payload.nbytes
            self._on_values(message.values, received.payload)
            return
        exchange = self._exchange
        if exchange is None:
            return
        if message.HasField("outcome"):
            exchange.take_outcome(message.outcome)
        elif message.HasField("pull_done"):
            exchange.take_pull_done(message.pull_done)
        if exchange.done:
            self._notify()

    def _final_error(self, failure: grpc.RpcError) -> PushpullError | None:
        refusal = error_of_call(failure)
        if isinstance(refusal, RetryableError):
            return None
        if refusal is not None:
            return refusal
        if failure.code() in FINAL_STATUSES:
            return PushpullError(f"{self.target.name} refused the stream: {_reason(failure)}")
        return None

    def _why_gone(self, absence: Absence, failure: grpc.RpcError) -> ServerLostError | None:
        """Of a server that was there: without its process its part of the model is lost, and patience is in vain."""
        now = time.monotonic()
        if error_of_call(failure) is None and is_refused(failure):
            absence.refused(now)
        else:
            absence.answered()
        reason = absence.verdict(now) if self._epoch is not None else ""
        if not reason:
            return None
        return ServerLostError(
            f"{self.target.name} is gone ({reason}), and nobody else has its part of the model: the job cannot go on. Start "
            "servers and workers again; they begin with a new model (snapshots do not exist yet)"
        )

    def _unreachable(self, reason: str) -> ServerUnreachableError:
        return ServerUnreachableError(
            f"{self.target.name} gave no answer for {self.target.patience_seconds:g} s ({reason}); see whether that server "
            "runs and can be reached from here, or raise server_patience_seconds"
        )

    def _fail(self, error: PushpullError) -> None:
        if not self._closing.is_set():
            self.error = error
            self._notify()


def _until_none(requests: "SimpleQueue[bytes | None]") -> Iterator[bytes]:
    with contextlib.suppress(GeneratorExit):
        while (message := requests.get()) is not None:
            yield message


def _reason(failure: grpc.RpcError) -> str:
    return f"{failure.code().name}: {failure.details()}"
