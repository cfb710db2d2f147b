"""Between a shard and the registrar: reports one way, orders the other, in order, across reconnects."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from math import inf
from typing import Any, Protocol

import grpc
import structlog

from ..protos.absence import Absence, is_refused
from ..protos.common_pb2 import JobSpecification
from ..protos.errors import RetryableError, ServerLostError, error_of_call
from ..protos.registrar_pb2 import RegistrarOrder, ShardHello, ShardReport
from ..protos.registrar_pb2_grpc import RegistrarStub
from ..protos.transport import dial
from ..protos.who_answers import in_words, wrong_registrar

log = structlog.get_logger(__name__)

JOB_ID_METADATA_KEY = "pushpull-job-id"
"""Initial metadata of a link: whose orders come."""
_RETRY_SECONDS = 0.3


class RegistrarLink(Protocol):
    """What a shard needs of the registrar."""

    def report(self, report: ShardReport) -> None:
        """Tells the registrar; never waits for the network."""


class LinkedShard(Protocol):
    """What a link needs of its shard."""

    def on_order(self, order: RegistrarOrder) -> None:
        """Carries out an order; called by one thread, in order."""

    def reports_again(self) -> list[ShardReport]:
        """What must be said again on a new link."""

    def fail(self, error: Exception) -> None:
        """The server cannot go on: an order could not be carried out, another server has its shard, or shard 0 is gone."""

    @property
    def job(self) -> JobSpecification | None:
        """Whose model it holds a part of, if there is one."""


class LocalLink:
    """The link of shard 0, whose process the registrar lives in. Reports are direct calls."""

    def __init__(self, take_report: Callable[[int, ShardReport], None]) -> None:
        self._take_report = take_report

    def report(self, report: ShardReport) -> None:
        self._take_report(0, report)


class RemoteLink:
    """The link of any other shard: one stream, opened again whenever it breaks."""

    def __init__(self, registrar: str, hello: ShardHello) -> None:
        self._registrar = registrar
        self._hello = hello
        self._outgoing: queue.SimpleQueue[ShardReport | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._call: Any = None
        self._reason = ""
        self.up = False
        """Whether the registrar has taken this shard's greeting, on a stream that still stands."""

    @property
    def obstacle(self) -> str:
        """Why the shard is not linked, for people; empty if it is."""
        if self.up:
            return ""
        return f"it is not linked to shard 0 at {self._registrar}{f': {self._reason}' if self._reason else ''}"

    def report(self, report: ShardReport) -> None:
        self._outgoing.put(report)

    def start(self, shard: LinkedShard) -> None:
        threading.Thread(target=self._run, args=(shard,), name="registrar-link", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        if self._call is not None:
            self._call.cancel()

    def _run(self, shard: LinkedShard) -> None:
        absence = self._absence(shard)
        while not self._stopped.is_set():
            reason = "the registrar ended it"
            try:
                # A channel for each stream: one that could not resolve a name would wait ever longer before it tries again.
                with dial(self._registrar) as channel:
                    self._serve_one_stream(RegistrarStub(channel), shard)
            except grpc.RpcError as error:
                refusal = error_of_call(error) or wrong_registrar(self._registrar, error)
                if refusal is not None and not isinstance(refusal, RetryableError):
                    return shard.fail(type(refusal)(f"shard {self._hello.shard} is not wanted: {refusal}"))
                reason = str(refusal or in_words(self._registrar, error))
                if gone := self._why_gone(absence, shard, error):
                    return shard.fail(ServerLostError(gone))
            except Exception as error:
                return shard.fail(error)
            finally:
                was_up, self.up = self.up, False
                if was_up:
                    absence = self._absence(shard)
            if not self._stopped.is_set() and (was_up or reason != self._reason):
                self._reason = reason
                log.warning("link lost" if was_up else "no link yet", registrar=self._registrar, reason=reason)
            self._stopped.wait(_RETRY_SECONDS)

    def _absence(self, shard: LinkedShard) -> Absence:
        return Absence(self._registrar, inf if shard.job is None else shard.job.server_patience_seconds)

    def _why_gone(self, absence: Absence, shard: LinkedShard, error: grpc.RpcError) -> str:
        """Why the link will not come back, of a shard that cannot go on without it; empty while it may."""
        now = time.monotonic()
        if error_of_call(error) is not None or self.up:
            absence.answered()
        elif is_refused(error):
            absence.refused(now)
        else:
            absence.silent(now)
        reason = absence.verdict(now)
        if not reason or shard.job is None:
            return ""
        return (
            f"shard 0, the registrar, is gone ({reason}), and with it its part of the model: the job cannot go on. Start "
            "servers and workers again; they begin with a new model (snapshots do not exist yet)"
        )

    def _serve_one_stream(self, stub: RegistrarStub, shard: LinkedShard) -> None:
        # A fresh queue for each stream: what the broken one had not sent is said again by the shard.
        outgoing: queue.SimpleQueue[ShardReport | None] = queue.SimpleQueue()
        self._hello.has_plan = shard.job is not None
        outgoing.put(ShardReport(hello=self._hello))
        self._outgoing = outgoing
        call = self._call = stub.Link(iter(outgoing.get, None))
        if self._stopped.is_set():
            call.cancel()
        try:
            job_id = str(dict(call.initial_metadata()).get(JOB_ID_METADATA_KEY, ""))
            self.up = call.is_active()
            if self.up and job_id != self._hello.job_id:
                self._hello.job_id, self._hello.last_sequence = job_id, 0
            for report in shard.reports_again():
                outgoing.put(report)
            for order in call:
                shard.on_order(order)
                self._hello.last_sequence = order.sequence
        finally:
            outgoing.put(None)


class OrderStream:
    """Orders for one shard, as the registrar's side of a link."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[RegistrarOrder | None] = queue.SimpleQueue()

    def put(self, order: RegistrarOrder) -> None:
        self._queue.put(order)

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[RegistrarOrder]:
        return iter(self._queue.get, None)
