"""Every error of pushpull, whole, and how those that travel are coded on the wire.

    PushpullError
    ├── SettingError (ValueError)      a setting that cannot work; names the setting and what to change
    │   ├── UnknownKeyError            a job key that does not exist; names the nearest known one
    │   └── CodecError                 a codec specification that does not exist or does not fit
    ├── FrameError (ValueError)        bytes that are not a valid frame of this block
    ├── NonFiniteError (ValueError)    a NaN or an infinity where a number is needed
    ├── RefusedError                   a server said no for good; no state changed there
    │   ├── WrongJobError              addressed to another job, or to another life of this one
    │   ├── WrongShardError            addressed to another shard
    │   ├── PlanMismatchError          the model differs from the job's model
    │   ├── OptimizerMismatchError     the optimizer differs from the job's optimizer
    │   ├── UnknownBlockError          no such block on this shard
    │   ├── ConflictError              same key, other bytes
    │   ├── StepError                  not the step that is due, or incomplete
    │   ├── FutureBaseError            computed from a version that does not exist yet
    │   ├── OverBudgetError            the server's memory or thread budget is used up
    │   ├── RunOverError               the run has ended; joining again must say that it goes on with it
    │   └── BadRequestError            a message that breaks the protocol
    ├── FencedError                    this incarnation may not act any more
    │   ├── ReplacedError              a newer process has this worker's id
    │   └── ExpiredError               the lease ran out; rejoining helps
    ├── RetryableError                 the same request may succeed soon
    │   ├── UnknownIncarnationError    the shard has not seen this incarnation's view yet
    │   ├── NotReadyError              parameters are not initialised yet
    │   └── BusyError                  the server has more calls than it takes on
    ├── RankError                      another rank of the same worker cannot go on, so neither can this one
    │   ├── RankFailedError            it raised an error; says which
    │   └── RankLostError              its process is gone or does not answer
    ├── ServerUnreachableError         nobody answered at this address for as long as patience lasts
    ├── JobOverError                   the job has ended on its servers; nobody can go on
    │   ├── ServerLostError            a server is gone, or came back without its state
    │   └── ServerDrainingError        a server was told to end, and the job ends with it
    ├── DoesNotFitError                a plan that needs more than the machines have; names what would fit
    ├── PortInUseError                 the address to listen on is taken
    └── UnwritableOutputError          a command's answer could not be written to standard output

Only errors in `CODES` travel. `code_of` and `error_of` translate; `STATUS_OF` says which gRPC status carries a code when
a whole call is refused.
"""

import grpc

from .common_pb2 import ErrorCode


class PushpullError(Exception):
    """Base of every error of pushpull."""


class SettingError(PushpullError, ValueError):
    """A setting that cannot work."""


class UnknownKeyError(SettingError):
    """A job key that does not exist."""


class CodecError(SettingError):
    """A codec specification that does not exist or does not fit."""


class FrameError(PushpullError, ValueError):
    """Bytes that are not a valid frame of this block."""


class NonFiniteError(PushpullError, ValueError):
    """A NaN or an infinity where a number is needed."""


class RefusedError(PushpullError):
    """A server said no for good; no state changed there."""


class WrongJobError(RefusedError):
    """Addressed to another job, or to another life of this one."""


class WrongShardError(RefusedError):
    """Addressed to another shard."""


class PlanMismatchError(RefusedError):
    """The model differs from the job's model."""


class OptimizerMismatchError(RefusedError):
    """The optimizer differs from the job's optimizer."""


class UnknownBlockError(RefusedError):
    """No such block on this shard."""


class ConflictError(RefusedError):
    """Same key, other bytes."""


class StepError(RefusedError):
    """Not the step that is due, or incomplete."""


class FutureBaseError(RefusedError):
    """Computed from a version that does not exist yet."""


class OverBudgetError(RefusedError):
    """The server's memory or thread budget is used up."""


class RunOverError(RefusedError):
    """The run has ended; joining again must say that it goes on with it."""


class BadRequestError(RefusedError):
    """A message that breaks the protocol."""


class FencedError(PushpullError):
    """This incarnation may not act any more."""


class ReplacedError(FencedError):
    """A newer process has this worker's id."""


class ExpiredError(FencedError):
    """The lease ran out; rejoining helps."""


class RetryableError(PushpullError):
    """The same request may succeed soon."""


class UnknownIncarnationError(RetryableError):
    """The shard has not seen this incarnation's view yet."""


class NotReadyError(RetryableError):
    """Parameters are not initialised yet."""


class BusyError(RetryableError):
    """The server has more calls than it takes on."""


class RankError(PushpullError):
    """Another rank of the same worker cannot go on, so neither can this one."""


class RankFailedError(RankError):
    """It raised an error."""


class RankLostError(RankError):
    """Its process is gone or does not answer."""


class ServerUnreachableError(PushpullError):
    """Nobody answered at this address for as long as patience lasts."""


class JobOverError(PushpullError):
    """The job has ended on its servers; nobody can go on."""


class ServerLostError(JobOverError):
    """A server is gone, or came back without its state."""


class ServerDrainingError(JobOverError):
    """A server was told to end, and the job ends with it."""


class DoesNotFitError(PushpullError):
    """A plan that needs more than the machines have."""


class PortInUseError(PushpullError):
    """The address to listen on is taken."""


class UnwritableOutputError(PushpullError):
    """A command's answer could not be written to standard output."""


CODES: dict[ErrorCode, type[PushpullError]] = {
    ErrorCode.WRONG_JOB: WrongJobError,
    ErrorCode.WRONG_SHARD: WrongShardError,
    ErrorCode.FENCED_REPLACED: ReplacedError,
    ErrorCode.FENCED_EXPIRED: ExpiredError,
    ErrorCode.UNKNOWN_INCARNATION: UnknownIncarnationError,
    ErrorCode.PLAN_MISMATCH: PlanMismatchError,
    ErrorCode.OPTIMIZER_MISMATCH: OptimizerMismatchError,
    ErrorCode.UNKNOWN_BLOCK: UnknownBlockError,
    ErrorCode.BAD_FRAME: FrameError,
    ErrorCode.NON_FINITE: NonFiniteError,
    ErrorCode.CONFLICT: ConflictError,
    ErrorCode.BAD_STEP: StepError,
    ErrorCode.FUTURE_BASE: FutureBaseError,
    ErrorCode.NOT_READY: NotReadyError,
    ErrorCode.OVER_BUDGET: OverBudgetError,
    ErrorCode.BAD_SETTING: SettingError,
    ErrorCode.RUN_OVER: RunOverError,
    ErrorCode.BAD_REQUEST: BadRequestError,
    ErrorCode.DRAINING: ServerDrainingError,
    ErrorCode.BUSY: BusyError,
    ErrorCode.SERVER_LOST: ServerLostError,
}

STATUS_OF: dict[ErrorCode, grpc.StatusCode] = {
    ErrorCode.WRONG_JOB: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.WRONG_SHARD: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.FENCED_REPLACED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.FENCED_EXPIRED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.UNKNOWN_INCARNATION: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.PLAN_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.OPTIMIZER_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.UNKNOWN_BLOCK: grpc.StatusCode.NOT_FOUND,
    ErrorCode.BAD_FRAME: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.NON_FINITE: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
    ErrorCode.BAD_STEP: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.FUTURE_BASE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.NOT_READY: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.OVER_BUDGET: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.RUN_OVER: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.BAD_SETTING: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.DRAINING: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.BUSY: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.SERVER_LOST: grpc.StatusCode.FAILED_PRECONDITION,
}

ERROR_CODE_METADATA_KEY = "pushpull-error-code"
"""Trailing metadata of a refused call: the `ErrorCode` name."""


def code_of(error: PushpullError) -> ErrorCode:
    """The wire code of an error: that of its nearest class in `CODES`, else BAD_REQUEST."""
    for kind in type(error).__mro__:
        for code, candidate in CODES.items():
            if kind is candidate:
                return code
    return ErrorCode.BAD_REQUEST


def error_of(code: int, message: str) -> PushpullError:
    """The error that a wire code stands for; a code from a newer release is a plain `RefusedError`."""
    kinds = {int(known): kind for known, kind in CODES.items()}
    return kinds.get(code, RefusedError)(message)


def error_of_call(call: grpc.RpcError) -> PushpullError | None:
    """The error that a refused gRPC call carries, or None if the call failed for a reason of the transport."""
    if not isinstance(call, grpc.Call):
        return None
    name = dict(call.trailing_metadata() or ()).get(ERROR_CODE_METADATA_KEY)
    codes = {ErrorCode.Name(code): code for code in CODES}
    return error_of(codes[name], call.details() or "") if name in codes else None
