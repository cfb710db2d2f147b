"""Asks shards what became of a step of an incarnation that may not act any more: telling a fact changes nothing."""

import math
import time
from collections.abc import Callable

import grpc

from ..protos.common_pb2 import JobSpecification
from ..protos.errors import NotReadyError, RetryableError, ServerUnreachableError, error_of_call
from ..protos.shard_pb2 import RecordedRequest, RecordedResponse
from ..protos.shard_pb2_grpc import ShardStub
from ..protos.transport import dial
from .membership import Membership
from .retry import Patience

ASK_AGAIN_SECONDS = 0.05
CALL_TIMEOUT_SECONDS = 5.0


class RecordedOutcomes:
    """Of the shards of a job."""

    def __init__(self, job: JobSpecification, check: Callable[[], None]) -> None:
        """`check` raises why it is no use to go on asking."""
        self._addresses = job.shard_addresses
        self._patience_seconds = job.server_patience_seconds or 600.0
        self._check = check

    def ask(self, shard: int, request: RecordedRequest, open_seconds: float = math.inf) -> RecordedResponse:
        """What the shard has on record; waits while that is not decided, and so long at most.

        Raises:
            NotReadyError: it was not decided in time.
            ServerUnreachableError: it gave no answer for as long as patience lasts.
            WrongJobError and others of protos/errors.py: it serves another job, or has no state.
        """
        patience = Patience(min(self._patience_seconds, open_seconds))
        deadline = time.monotonic() + open_seconds
        with dial(self._addresses[shard]) as channel:
            while True:
                self._check()
                try:
                    answer: RecordedResponse = ShardStub(channel).Recorded(request, timeout=CALL_TIMEOUT_SECONDS)
                except grpc.RpcError as failure:
                    refusal = error_of_call(failure)
                    if refusal is not None and not isinstance(refusal, RetryableError):
                        raise refusal from None
                    if failure.code() == grpc.StatusCode.UNIMPLEMENTED:
                        return RecordedResponse(state=RecordedResponse.STATE_FORGOTTEN)  # it keeps no such record
                    delay = patience.delay_after_failure(time.monotonic())
                    if delay is None:
                        raise self._unreachable(shard, request.step) from failure
                    time.sleep(delay)
                    continue
                patience.succeeded()
                if answer.state != RecordedResponse.STATE_OPEN:
                    return answer
                if time.monotonic() > deadline:
                    raise NotReadyError(f"shard {shard} has not decided what becomes of step {request.step} yet")
                time.sleep(ASK_AGAIN_SECONDS)

    def _unreachable(self, shard: int, step: int) -> ServerUnreachableError:
        return ServerUnreachableError(
            f"shard {shard} at {self._addresses[shard]} gave no answer for {self._patience_seconds:g} s, so it is not known "
            f"whether it has applied step {step}; see whether that server runs and can be reached from here"
        )


def recorded_request(who: Membership, step: int) -> RecordedRequest:
    """About a step of the present incarnation."""
    return RecordedRequest(job_id=who.job.job_id, worker_id=who.worker_id, incarnation=who.incarnation, step=step)
