from pushpull.protos import common_pb2 as _common_pb2
from pushpull.protos import registrar_pb2 as _registrar_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_APPLY: _ClassVar[Verdict]
    VERDICT_SKIP: _ClassVar[Verdict]
VERDICT_UNSPECIFIED: Verdict
VERDICT_APPLY: Verdict
VERDICT_SKIP: Verdict

class MastersRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class MasterNumbers(_message.Message):
    __slots__ = ("slot", "blocks", "updates", "payload", "end", "round", "of_one_moment")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    OF_ONE_MOMENT_FIELD_NUMBER: _ClassVar[int]
    slot: str
    blocks: _containers.RepeatedScalarFieldContainer[int]
    updates: _containers.RepeatedScalarFieldContainer[int]
    payload: bytes
    end: bool
    round: int
    of_one_moment: bool
    def __init__(self, slot: _Optional[str] = ..., blocks: _Optional[_Iterable[int]] = ..., updates: _Optional[_Iterable[int]] = ..., payload: _Optional[bytes] = ..., end: _Optional[bool] = ..., round: _Optional[int] = ..., of_one_moment: _Optional[bool] = ...) -> None: ...

class RecordedRequest(_message.Message):
    __slots__ = ("job_id", "worker_id", "incarnation", "step")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    worker_id: int
    incarnation: int
    step: int
    def __init__(self, job_id: _Optional[str] = ..., worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class RecordedResponse(_message.Message):
    __slots__ = ("state", "outcome")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[RecordedResponse.State]
        STATE_RECORDED: _ClassVar[RecordedResponse.State]
        STATE_OPEN: _ClassVar[RecordedResponse.State]
        STATE_NEVER: _ClassVar[RecordedResponse.State]
        STATE_FORGOTTEN: _ClassVar[RecordedResponse.State]
    STATE_UNSPECIFIED: RecordedResponse.State
    STATE_RECORDED: RecordedResponse.State
    STATE_OPEN: RecordedResponse.State
    STATE_NEVER: RecordedResponse.State
    STATE_FORGOTTEN: RecordedResponse.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    state: RecordedResponse.State
    outcome: Outcome
    def __init__(self, state: _Optional[_Union[RecordedResponse.State, str]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ...) -> None: ...

class BeatRequest(_message.Message):
    __slots__ = ("worker_id", "incarnation", "rank")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    rank: int
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., rank: _Optional[int] = ...) -> None: ...

class BeatResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShardStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerMessage(_message.Message):
    __slots__ = ("hello", "frames", "commit", "pull", "initial_values")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    PULL_FIELD_NUMBER: _ClassVar[int]
    INITIAL_VALUES_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    frames: Frames
    commit: Commit
    pull: Pull
    initial_values: InitialValues
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., frames: _Optional[_Union[Frames, _Mapping]] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., pull: _Optional[_Union[Pull, _Mapping]] = ..., initial_values: _Optional[_Union[InitialValues, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("job_id", "shard", "worker_id", "incarnation", "plan_fingerprint", "rank", "num_ranks", "blocks", "on_demand")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PLAN_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    NUM_RANKS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    ON_DEMAND_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    shard: int
    worker_id: int
    incarnation: int
    plan_fingerprint: str
    rank: int
    num_ranks: int
    blocks: _containers.RepeatedScalarFieldContainer[int]
    on_demand: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, job_id: _Optional[str] = ..., shard: _Optional[int] = ..., worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., plan_fingerprint: _Optional[str] = ..., rank: _Optional[int] = ..., num_ranks: _Optional[int] = ..., blocks: _Optional[_Iterable[int]] = ..., on_demand: _Optional[_Iterable[int]] = ...) -> None: ...

class Frames(_message.Message):
    __slots__ = ("step", "attempt", "blocks", "lengths", "payload", "values", "padding")
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    step: int
    attempt: int
    blocks: _containers.RepeatedScalarFieldContainer[int]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    payload: bytes
    values: bool
    padding: bytes
    def __init__(self, step: _Optional[int] = ..., attempt: _Optional[int] = ..., blocks: _Optional[_Iterable[int]] = ..., lengths: _Optional[_Iterable[int]] = ..., payload: _Optional[bytes] = ..., values: _Optional[bool] = ..., padding: _Optional[bytes] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("step", "attempt", "num_frames", "verdict", "num_samples", "scale", "groups", "absent", "base_versions", "round", "lots", "traceparent", "idle", "num_values", "average")
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NUM_FRAMES_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    LOTS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    IDLE_FIELD_NUMBER: _ClassVar[int]
    NUM_VALUES_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_FIELD_NUMBER: _ClassVar[int]
    step: int
    attempt: int
    num_frames: int
    verdict: Verdict
    num_samples: float
    scale: float
    groups: _containers.RepeatedCompositeFieldContainer[_common_pb2.ParameterGroup]
    absent: _containers.RepeatedScalarFieldContainer[int]
    base_versions: _containers.RepeatedScalarFieldContainer[int]
    round: int
    lots: _containers.RepeatedScalarFieldContainer[int]
    traceparent: bytes
    idle: bool
    num_values: int
    average: bool
    def __init__(self, step: _Optional[int] = ..., attempt: _Optional[int] = ..., num_frames: _Optional[int] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., num_samples: _Optional[float] = ..., scale: _Optional[float] = ..., groups: _Optional[_Iterable[_Union[_common_pb2.ParameterGroup, _Mapping]]] = ..., absent: _Optional[_Iterable[int]] = ..., base_versions: _Optional[_Iterable[int]] = ..., round: _Optional[int] = ..., lots: _Optional[_Iterable[int]] = ..., traceparent: _Optional[bytes] = ..., idle: _Optional[bool] = ..., num_values: _Optional[int] = ..., average: _Optional[bool] = ...) -> None: ...

class Pull(_message.Message):
    __slots__ = ("request", "base_versions", "blocks")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    request: int
    base_versions: _containers.RepeatedScalarFieldContainer[int]
    blocks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, request: _Optional[int] = ..., base_versions: _Optional[_Iterable[int]] = ..., blocks: _Optional[_Iterable[int]] = ...) -> None: ...

class InitialValues(_message.Message):
    __slots__ = ("grant", "blocks", "lengths", "payload", "padding")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    grant: int
    blocks: _containers.RepeatedScalarFieldContainer[int]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    payload: bytes
    padding: bytes
    def __init__(self, grant: _Optional[int] = ..., blocks: _Optional[_Iterable[int]] = ..., lengths: _Optional[_Iterable[int]] = ..., payload: _Optional[bytes] = ..., padding: _Optional[bytes] = ...) -> None: ...

class ShardMessage(_message.Message):
    __slots__ = ("welcome", "outcome", "values", "pull_done")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PULL_DONE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    outcome: Outcome
    values: Values
    pull_done: PullDone
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., values: _Optional[_Union[Values, _Mapping]] = ..., pull_done: _Optional[_Union[PullDone, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("epoch", "last_step")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    last_step: int
    def __init__(self, epoch: _Optional[int] = ..., last_step: _Optional[int] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("step", "kind", "duplicate", "code", "message", "round")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Outcome.Kind]
        KIND_APPLIED: _ClassVar[Outcome.Kind]
        KIND_SKIPPED: _ClassVar[Outcome.Kind]
        KIND_LATE: _ClassVar[Outcome.Kind]
        KIND_REFUSED: _ClassVar[Outcome.Kind]
    KIND_UNSPECIFIED: Outcome.Kind
    KIND_APPLIED: Outcome.Kind
    KIND_SKIPPED: Outcome.Kind
    KIND_LATE: Outcome.Kind
    KIND_REFUSED: Outcome.Kind
    STEP_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    step: int
    kind: Outcome.Kind
    duplicate: bool
    code: _common_pb2.ErrorCode
    message: str
    round: int
    def __init__(self, step: _Optional[int] = ..., kind: _Optional[_Union[Outcome.Kind, str]] = ..., duplicate: _Optional[bool] = ..., code: _Optional[_Union[_common_pb2.ErrorCode, str]] = ..., message: _Optional[str] = ..., round: _Optional[int] = ...) -> None: ...

class Values(_message.Message):
    __slots__ = ("blocks", "versions", "lengths", "delta", "payload", "padding")
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    blocks: _containers.RepeatedScalarFieldContainer[int]
    versions: _containers.RepeatedScalarFieldContainer[int]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    delta: bool
    payload: bytes
    padding: bytes
    def __init__(self, blocks: _Optional[_Iterable[int]] = ..., versions: _Optional[_Iterable[int]] = ..., lengths: _Optional[_Iterable[int]] = ..., delta: _Optional[bool] = ..., payload: _Optional[bytes] = ..., padding: _Optional[bytes] = ...) -> None: ...

class PullDone(_message.Message):
    __slots__ = ("request", "step", "round", "clock", "smallest_clock", "num_workers", "num_samples")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_CLOCK_FIELD_NUMBER: _ClassVar[int]
    NUM_WORKERS_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    request: int
    step: int
    round: int
    clock: int
    smallest_clock: int
    num_workers: int
    num_samples: float
    def __init__(self, request: _Optional[int] = ..., step: _Optional[int] = ..., round: _Optional[int] = ..., clock: _Optional[int] = ..., smallest_clock: _Optional[int] = ..., num_workers: _Optional[int] = ..., num_samples: _Optional[float] = ...) -> None: ...
