"""Calls to the registrar: a channel without bulk data, and retries while it cannot be reached."""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeVar

import grpc

from ..protos.absence import Absence, is_refused
from ..protos.common_pb2 import JobSpecification, OptimizerSpecification, Plan
from ..protos.errors import PushpullError, RetryableError, ServerLostError, ServerUnreachableError, error_of_call
from ..protos.registrar_pb2 import (
    ActivateRequest,
    ActivateResponse,
    DealRequest,
    DealResponse,
    EnrolRequest,
    EnrolResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    JoinRequest,
    JoinResponse,
    LeaveRequest,
    PauseRequest,
    Role,
    UnlikeNumber,
    WorkerReport,
)
from ..protos.registrar_pb2_grpc import RegistrarStub
from ..protos.transport import dial
from ..protos.who_answers import in_words, wrong_registrar
from .retry import Patience

logger = logging.getLogger(__name__)

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)

CALL_TIMEOUT_SECONDS = 30.0
HEARTBEAT_TIMEOUT_SECONDS = 5.0
"""At most; half the lease where that is shorter, so that one beat may get lost."""
ASK_AGAIN_SECONDS = 0.05
WARN_AFTER_SECONDS = 2.0
TELL_AFTER_SECONDS = 1.0
ASK_SECONDS = 30.0
"""How long one call asks again and again before its caller has a say."""

TRANSIENT_STATUSES = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)
"""CANCELLED: a server that is short of threads ends calls of which nothing has come yet."""


@dataclass(frozen=True)
class WantedJob:
    """Which job a worker means to join, and how."""

    name: str = ""
    """The job's; empty is one without a name."""
    resume: bool = False
    """Also one whose run is over is gone on with."""


UNNAMED_JOB = WantedJob()


@dataclass
class CallCounts:
    """Calls of one process so far."""

    joins: int = 0
    heartbeats: int = 0
    heartbeats_failed: int = 0
    retries: int = 0


class RegistrarClient:
    """What one worker process asks of the registrar. Safe to use from several threads.

    Every call raises the error that the registrar refused it with, or ServerUnreachableError; once this worker has joined also
    ServerLostError, where the registrar's process is gone.
    """

    def __init__(self, address: str, patience_seconds: float, patience_setting: str, rank: int = 0) -> None:
        self.address = address
        self.rank = rank
        """Of this process in its worker."""
        self.patience_seconds = patience_seconds
        self.patience_setting = patience_setting
        """What to raise when patience is too short, for messages."""
        self.worker_id = -1
        self.incarnation = 0
        self.life = 0
        """Incarnations of this worker's id before this one, in any process."""
        self.counts = CallCounts()
        self._beat_timeout_seconds = HEARTBEAT_TIMEOUT_SECONDS
        self._dial()
        # Beats have a connection of their own: one that has died without a word is given up while the lease still lasts,
        # whatever else is under way with the registrar.
        self._beat_channel = dial(address)
        self._redialling = threading.Lock()
        self._closing = threading.Event()
        self._over: PushpullError | None = None
        self._absence = Absence(address, patience_seconds=inf)
        self._absence_lock = threading.Lock()

    def join(
        self, worker_id: int, num_ranks: int = 1, layout: str = "", wanted: WantedJob = UNNAMED_JOB
    ) -> JoinResponse:
        """Takes the id, or any free one if it is negative. An answer that is lost is given again, not a second place."""
        request = JoinRequest(
            worker_id=worker_id,
            role=Role.ROLE_TRAINER,
            host=socket.gethostname(),
            pid=os.getpid(),
            num_ranks=num_ranks,
            layout=layout,
            nonce=secrets.randbits(64) or 1,
            replaces=self.incarnation,
            job_name=wanted.name,
            resume=wanted.resume,
        )
        # Nothing else is under way with the registrar, so each attempt may have a channel of its own: one that could not
        # resolve a name would wait ever longer before it tries again.
        response: JoinResponse = self._call(
            lambda request, timeout: self._stub.Join(request, timeout=timeout), request, self._dial_again
        )
        return response

    def speak_for(self, joined: JoinResponse) -> None:
        """Every later call is for this incarnation."""
        self.worker_id, self.incarnation, self.life = joined.worker_id, joined.incarnation, joined.life
        self.counts.joins += 1

    def follow(self, job: JobSpecification) -> None:
        """From now on the job's patience holds."""
        self.patience_seconds = job.server_patience_seconds or self.patience_seconds
        self.patience_setting = "server_patience_seconds"
        self._beat_timeout_seconds = min(HEARTBEAT_TIMEOUT_SECONDS, (job.lease_seconds or 10.0) / 2)

    def enrol(self, plan: Plan, optimizer: OptimizerSpecification, values: Sequence[int] = ()) -> EnrolResponse:
        """Asks until this worker may initialise or the parameters are ready, or for half a minute; tells people why."""
        who = {"worker_id": self.worker_id, "incarnation": self.incarnation}
        request = EnrolRequest(**who, plan=plan, optimizer=optimizer, values=values)
        waiting = _Waiting()
        while True:
            response: EnrolResponse = self._call(self._stub.Enrol, request)
            if response.state != EnrolResponse.STATE_WAIT or waiting.seconds > ASK_SECONDS:
                return response
            waiting.tell(response.message)
            self._pause_before_asking_again()

    def activate(self, last_clock: int) -> ActivateResponse:
        """Asks until the first round is open, or for half a minute; tells people whom it waits for."""
        request = ActivateRequest(worker_id=self.worker_id, incarnation=self.incarnation, last_clock=last_clock)
        waiting = _Waiting()
        while True:
            response: ActivateResponse = self._call(self._stub.Activate, request)
            if response.open or waiting.seconds > ASK_SECONDS:
                return response
            waiting.tell(response.message)
            self._pause_before_asking_again()

    def pause(self, held: Sequence[int] = (), next_deal: int = 0) -> None:
        """Stops counting; `held` are lots that stay this worker's, `next_deal` the number of its next request for data."""
        who = {"worker_id": self.worker_id, "incarnation": self.incarnation}
        self._call(self._stub.Pause, PauseRequest(**who, held=held, number=next_deal))

    def deal(self, request: DealRequest) -> DealResponse:
        """Asks for lots of data; fills in who asks."""
        request.worker_id, request.incarnation = self.worker_id, self.incarnation
        response: DealResponse = self._call(self._stub.Deal, request)
        return response

    def beat(self, report: WorkerReport) -> HeartbeatResponse:
        """Renews the lease, without retries. A beat without an answer costs the connection.

        Raises:
            grpc.RpcError: the call failed; `error_of_call` may say why.
            ServerLostError: the registrar's process is gone.
        """
        request = HeartbeatRequest(
            worker_id=self.worker_id, incarnation=self.incarnation, report=report, rank=self.rank
        )
        self.counts.heartbeats += 1
        while True:
            channel = self._beat_channel
            try:
                response: HeartbeatResponse = RegistrarStub(channel).Heartbeat(
                    request, timeout=self._beat_timeout_seconds
                )
            except ValueError:  # what grpc raises for a closed channel
                if self._closing.is_set() or channel is self._beat_channel:
                    raise
                continue  # another thread's beat has given the connection up
            except grpc.RpcError as failure:
                self.counts.heartbeats_failed += 1
                if error_of_call(failure) is None:
                    self._give_up_beats_over(channel)
                if (gone := self._why_gone(failure)) is not None:
                    raise gone from None
                raise
            self._is_there()
            return response

    def leave(self, report: WorkerReport, failure: str, whole_worker: bool = False) -> Sequence[UnlikeNumber]:
        """Ends this incarnation, or this rank where another one speaks for it; an unreachable registrar finds out by itself.

        What it answers: numbers of this worker's steps that did not count, because others' differ.
        """
        request = LeaveRequest(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            report=report,
            failure=failure,
            rank=self.rank,
            whole_worker=whole_worker,
        )
        try:
            unlike: Sequence[UnlikeNumber] = self._stub.Leave(request, timeout=HEARTBEAT_TIMEOUT_SECONDS).unlike
            return unlike
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed under this call
            why = in_words(self.address, error) if isinstance(error, grpc.RpcError) else error
            logger.info("leaving the job without the registrar's answer: %s", why)
            return ()

    def give_up(self, reason: PushpullError) -> None:
        """From now on a call without an answer raises this at once."""
        self._over = reason

    def close(self) -> None:
        self._closing.set()
        with self._redialling:
            self._beat_channel.close()
        self._channel.close()

    def _give_up_beats_over(self, channel: grpc.Channel) -> None:
        """The next beat has a connection of its own, unless it has one already."""
        with self._redialling:
            if self._beat_channel is not channel or self._closing.is_set():
                return
            self._beat_channel = dial(self.address)
        channel.close()

    def _dial(self) -> None:
        self._channel = dial(self.address)
        self._stub = RegistrarStub(self._channel)

    def _dial_again(self) -> None:
        self._channel.close()
        self._dial()

    def _call(
        self, method: Callable[..., Response], request: Request, after_no_answer: Callable[[], None] = lambda: None
    ) -> Response:
        patience = Patience(self.patience_seconds)
        warned = False
        while True:
            try:
                response = method(request, timeout=min(CALL_TIMEOUT_SECONDS, self.patience_seconds))
                self._is_there()
                return response
            except ValueError as failure:  # what grpc raises for a closed channel
                if not self._closing.is_set():
                    raise
                raise PushpullError(
                    f"worker {self.worker_id} has left the job: its `with connect()` block has ended, or close() was called; "
                    "what trains, or reads shared data, belongs before that"
                ) from failure
            except grpc.RpcError as failure:
                refusal = error_of_call(failure)
                if refusal is not None and not isinstance(refusal, RetryableError):
                    raise refusal from None
                if refusal is None and (wrong := wrong_registrar(self.address, failure)) is not None:
                    raise wrong from None
                if refusal is None and failure.code() not in TRANSIENT_STATUSES:
                    raise PushpullError(
                        f"the registrar at {self.address} failed: {failure.code().name}: {failure.details()}"
                    ) from failure
                reason = str(refusal or in_words(self.address, failure))
                if refusal is None:
                    after_no_answer()
                if (gone := self._over or self._why_gone(failure)) is not None:
                    raise gone from None
            delay = patience.delay_after_failure(time.monotonic())
            if delay is None or self._closing.is_set():
                raise ServerUnreachableError(
                    f"the registrar (shard 0) at {self.address} gave no answer for {self.patience_seconds:g} s ({reason}); "
                    f"see whether that server runs and can be reached from here, or raise {self.patience_setting}"
                )
            if not warned and patience.failing_seconds(time.monotonic()) > WARN_AFTER_SECONDS:
                warned = True
                logger.warning("no answer from the registrar at %s yet (%s); still trying", self.address, reason)
            self.counts.retries += 1
            self._closing.wait(delay)

    def _is_there(self) -> None:
        with self._absence_lock:
            self._absence.answered()

    def _why_gone(self, failure: grpc.RpcError) -> ServerLostError | None:
        """Of a registrar that this worker has joined: one that never answered may still be starting."""
        now = time.monotonic()
        with self._absence_lock:
            if error_of_call(failure) is None and is_refused(failure):
                self._absence.refused(now)
            else:
                self._absence.answered()
            reason = self._absence.verdict(now) if self.incarnation else ""
        if not reason:
            return None
        return ServerLostError(
            f"shard 0, the registrar, is gone ({reason}), and with it its part of the model: the job cannot go on. Start "
            "servers and workers again; they begin with a new model (snapshots do not exist yet)"
        )

    def _pause_before_asking_again(self) -> None:
        if self._closing.wait(ASK_AGAIN_SECONDS):
            raise PushpullError("the worker was closed while it waited for the registrar")


class _Waiting:
    """Tells people what is waited for, once it takes long enough to be noticed."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._told = ""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._since

    def tell(self, message: str) -> None:
        if message and message != self._told and self.seconds > TELL_AFTER_SECONDS:
            self._told = message
            logger.warning("%s", message)
