from pushpull.protos import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_TRAINER: _ClassVar[Role]
    ROLE_OBSERVER: _ClassVar[Role]
ROLE_UNSPECIFIED: Role
ROLE_TRAINER: Role
ROLE_OBSERVER: Role

class JoinRequest(_message.Message):
    __slots__ = ("worker_id", "role", "host", "pid", "num_ranks", "layout", "nonce", "replaces", "job_name", "resume")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    NUM_RANKS_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    JOB_NAME_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    role: Role
    host: str
    pid: int
    num_ranks: int
    layout: str
    nonce: int
    replaces: int
    job_name: str
    resume: bool
    def __init__(self, worker_id: _Optional[int] = ..., role: _Optional[_Union[Role, str]] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., num_ranks: _Optional[int] = ..., layout: _Optional[str] = ..., nonce: _Optional[int] = ..., replaces: _Optional[int] = ..., job_name: _Optional[str] = ..., resume: _Optional[bool] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("worker_id", "incarnation", "job", "num_workers", "life", "replaced")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    NUM_WORKERS_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    job: _common_pb2.JobSpecification
    num_workers: int
    life: int
    replaced: str
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., job: _Optional[_Union[_common_pb2.JobSpecification, _Mapping]] = ..., num_workers: _Optional[int] = ..., life: _Optional[int] = ..., replaced: _Optional[str] = ...) -> None: ...

class AbsentRequest(_message.Message):
    __slots__ = ("worker_id", "host", "pids", "failure")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PIDS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    host: str
    pids: _containers.RepeatedScalarFieldContainer[int]
    failure: str
    def __init__(self, worker_id: _Optional[int] = ..., host: _Optional[str] = ..., pids: _Optional[_Iterable[int]] = ..., failure: _Optional[str] = ...) -> None: ...

class AbsentResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EnrolRequest(_message.Message):
    __slots__ = ("worker_id", "incarnation", "plan", "optimizer", "values")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    plan: _common_pb2.Plan
    optimizer: _common_pb2.OptimizerSpecification
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., plan: _Optional[_Union[_common_pb2.Plan, _Mapping]] = ..., optimizer: _Optional[_Union[_common_pb2.OptimizerSpecification, _Mapping]] = ..., values: _Optional[_Iterable[int]] = ...) -> None: ...

class Origin(_message.Message):
    __slots__ = ("incarnation", "who", "seconds_ago", "values")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    SECONDS_AGO_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    who: str
    seconds_ago: float
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, incarnation: _Optional[int] = ..., who: _Optional[str] = ..., seconds_ago: _Optional[float] = ..., values: _Optional[_Iterable[int]] = ...) -> None: ...

class EnrolResponse(_message.Message):
    __slots__ = ("state", "grant", "message", "clock", "origin")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[EnrolResponse.State]
        STATE_INITIALISE: _ClassVar[EnrolResponse.State]
        STATE_WAIT: _ClassVar[EnrolResponse.State]
        STATE_READY: _ClassVar[EnrolResponse.State]
    STATE_UNSPECIFIED: EnrolResponse.State
    STATE_INITIALISE: EnrolResponse.State
    STATE_WAIT: EnrolResponse.State
    STATE_READY: EnrolResponse.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    state: EnrolResponse.State
    grant: int
    message: str
    clock: int
    origin: Origin
    def __init__(self, state: _Optional[_Union[EnrolResponse.State, str]] = ..., grant: _Optional[int] = ..., message: _Optional[str] = ..., clock: _Optional[int] = ..., origin: _Optional[_Union[Origin, _Mapping]] = ...) -> None: ...

class ActivateRequest(_message.Message):
    __slots__ = ("worker_id", "incarnation", "last_clock")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LAST_CLOCK_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    last_clock: int
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., last_clock: _Optional[int] = ...) -> None: ...

class ActivateResponse(_message.Message):
    __slots__ = ("open", "message", "first_round", "clock")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROUND_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    open: bool
    message: str
    first_round: int
    clock: int
    def __init__(self, open: _Optional[bool] = ..., message: _Optional[str] = ..., first_round: _Optional[int] = ..., clock: _Optional[int] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ("worker_id", "incarnation", "held", "number")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    held: _containers.RepeatedScalarFieldContainer[int]
    number: int
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., held: _Optional[_Iterable[int]] = ..., number: _Optional[int] = ...) -> None: ...

class PauseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerReport(_message.Message):
    __slots__ = ("num_steps", "num_samples", "steps_applied", "steps_skipped", "steps_dropped", "steps_restaged", "bytes_resent", "first_metrics", "metrics", "compute_seconds", "encode_seconds", "wait_seconds", "decode_seconds", "first_samples", "last_samples", "bytes_pushed", "bytes_pulled", "peak_memory_bytes", "peak_device_memory_bytes")
    class FirstMetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    STEPS_APPLIED_FIELD_NUMBER: _ClassVar[int]
    STEPS_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    STEPS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    STEPS_RESTAGED_FIELD_NUMBER: _ClassVar[int]
    BYTES_RESENT_FIELD_NUMBER: _ClassVar[int]
    FIRST_METRICS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ENCODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DECODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    LAST_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    BYTES_PUSHED_FIELD_NUMBER: _ClassVar[int]
    BYTES_PULLED_FIELD_NUMBER: _ClassVar[int]
    PEAK_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PEAK_DEVICE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    num_steps: int
    num_samples: float
    steps_applied: int
    steps_skipped: int
    steps_dropped: int
    steps_restaged: int
    bytes_resent: int
    first_metrics: _containers.ScalarMap[str, float]
    metrics: _containers.ScalarMap[str, float]
    compute_seconds: float
    encode_seconds: float
    wait_seconds: float
    decode_seconds: float
    first_samples: float
    last_samples: float
    bytes_pushed: int
    bytes_pulled: int
    peak_memory_bytes: int
    peak_device_memory_bytes: int
    def __init__(self, num_steps: _Optional[int] = ..., num_samples: _Optional[float] = ..., steps_applied: _Optional[int] = ..., steps_skipped: _Optional[int] = ..., steps_dropped: _Optional[int] = ..., steps_restaged: _Optional[int] = ..., bytes_resent: _Optional[int] = ..., first_metrics: _Optional[_Mapping[str, float]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., compute_seconds: _Optional[float] = ..., encode_seconds: _Optional[float] = ..., wait_seconds: _Optional[float] = ..., decode_seconds: _Optional[float] = ..., first_samples: _Optional[float] = ..., last_samples: _Optional[float] = ..., bytes_pushed: _Optional[int] = ..., bytes_pulled: _Optional[int] = ..., peak_memory_bytes: _Optional[int] = ..., peak_device_memory_bytes: _Optional[int] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("worker_id", "incarnation", "report", "rank")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    report: WorkerReport
    rank: int
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., report: _Optional[_Union[WorkerReport, _Mapping]] = ..., rank: _Optional[int] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("num_workers", "suspended", "is_first", "unlike")
    NUM_WORKERS_FIELD_NUMBER: _ClassVar[int]
    SUSPENDED_FIELD_NUMBER: _ClassVar[int]
    IS_FIRST_FIELD_NUMBER: _ClassVar[int]
    UNLIKE_FIELD_NUMBER: _ClassVar[int]
    num_workers: int
    suspended: str
    is_first: bool
    unlike: _containers.RepeatedCompositeFieldContainer[UnlikeNumber]
    def __init__(self, num_workers: _Optional[int] = ..., suspended: _Optional[str] = ..., is_first: _Optional[bool] = ..., unlike: _Optional[_Iterable[_Union[UnlikeNumber, _Mapping]]] = ...) -> None: ...

class UnlikeNumber(_message.Message):
    __slots__ = ("worker_id", "group", "name", "value", "holder_id", "held", "round")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    HOLDER_ID_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    group: int
    name: str
    value: float
    holder_id: int
    held: float
    round: int
    def __init__(self, worker_id: _Optional[int] = ..., group: _Optional[int] = ..., name: _Optional[str] = ..., value: _Optional[float] = ..., holder_id: _Optional[int] = ..., held: _Optional[float] = ..., round: _Optional[int] = ...) -> None: ...

class DealRequest(_message.Message):
    __slots__ = ("worker_id", "incarnation", "epoch", "dataset_size", "batch_size", "drop_last", "num_lots", "leave_epoch", "number", "data_set", "fingerprint", "ahead", "held", "unreadable", "strided")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DATASET_SIZE_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    DROP_LAST_FIELD_NUMBER: _ClassVar[int]
    NUM_LOTS_FIELD_NUMBER: _ClassVar[int]
    LEAVE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DATA_SET_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    STRIDED_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    epoch: int
    dataset_size: int
    batch_size: int
    drop_last: bool
    num_lots: int
    leave_epoch: bool
    number: int
    data_set: str
    fingerprint: int
    ahead: bool
    held: _containers.RepeatedScalarFieldContainer[int]
    unreadable: _containers.RepeatedScalarFieldContainer[int]
    strided: bool
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., epoch: _Optional[int] = ..., dataset_size: _Optional[int] = ..., batch_size: _Optional[int] = ..., drop_last: _Optional[bool] = ..., num_lots: _Optional[int] = ..., leave_epoch: _Optional[bool] = ..., number: _Optional[int] = ..., data_set: _Optional[str] = ..., fingerprint: _Optional[int] = ..., ahead: _Optional[bool] = ..., held: _Optional[_Iterable[int]] = ..., unreadable: _Optional[_Iterable[int]] = ..., strided: _Optional[bool] = ...) -> None: ...

class Lot(_message.Message):
    __slots__ = ("id", "epoch", "first", "size")
    ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    id: int
    epoch: int
    first: int
    size: int
    def __init__(self, id: _Optional[int] = ..., epoch: _Optional[int] = ..., first: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

class DealResponse(_message.Message):
    __slots__ = ("state", "lots", "take_part", "recalled", "place", "num_places")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[DealResponse.State]
        STATE_LOTS: _ClassVar[DealResponse.State]
        STATE_EXHAUSTED: _ClassVar[DealResponse.State]
        STATE_WAIT: _ClassVar[DealResponse.State]
        STATE_OVER: _ClassVar[DealResponse.State]
    STATE_UNSPECIFIED: DealResponse.State
    STATE_LOTS: DealResponse.State
    STATE_EXHAUSTED: DealResponse.State
    STATE_WAIT: DealResponse.State
    STATE_OVER: DealResponse.State
    STATE_FIELD_NUMBER: _ClassVar[int]
    LOTS_FIELD_NUMBER: _ClassVar[int]
    TAKE_PART_FIELD_NUMBER: _ClassVar[int]
    RECALLED_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    NUM_PLACES_FIELD_NUMBER: _ClassVar[int]
    state: DealResponse.State
    lots: _containers.RepeatedCompositeFieldContainer[Lot]
    take_part: bool
    recalled: bool
    place: int
    num_places: int
    def __init__(self, state: _Optional[_Union[DealResponse.State, str]] = ..., lots: _Optional[_Iterable[_Union[Lot, _Mapping]]] = ..., take_part: _Optional[bool] = ..., recalled: _Optional[bool] = ..., place: _Optional[int] = ..., num_places: _Optional[int] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("worker_id", "incarnation", "report", "failure", "rank", "whole_worker")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WHOLE_WORKER_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    report: WorkerReport
    failure: str
    rank: int
    whole_worker: bool
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., report: _Optional[_Union[WorkerReport, _Mapping]] = ..., failure: _Optional[str] = ..., rank: _Optional[int] = ..., whole_worker: _Optional[bool] = ...) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ("unlike",)
    UNLIKE_FIELD_NUMBER: _ClassVar[int]
    unlike: _containers.RepeatedCompositeFieldContainer[UnlikeNumber]
    def __init__(self, unlike: _Optional[_Iterable[_Union[UnlikeNumber, _Mapping]]] = ...) -> None: ...

class JobStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("worker_id", "incarnation", "state", "clock", "report", "host", "pid", "layout", "ranks", "failure", "heard_seconds_ago", "reported_seconds_ago", "suspended")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    HEARD_SECONDS_AGO_FIELD_NUMBER: _ClassVar[int]
    REPORTED_SECONDS_AGO_FIELD_NUMBER: _ClassVar[int]
    SUSPENDED_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    state: str
    clock: int
    report: WorkerReport
    host: str
    pid: int
    layout: str
    ranks: _containers.RepeatedCompositeFieldContainer[WorkerReport]
    failure: str
    heard_seconds_ago: float
    reported_seconds_ago: float
    suspended: str
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., state: _Optional[str] = ..., clock: _Optional[int] = ..., report: _Optional[_Union[WorkerReport, _Mapping]] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., layout: _Optional[str] = ..., ranks: _Optional[_Iterable[_Union[WorkerReport, _Mapping]]] = ..., failure: _Optional[str] = ..., heard_seconds_ago: _Optional[float] = ..., reported_seconds_ago: _Optional[float] = ..., suspended: _Optional[str] = ...) -> None: ...

class Summary(_message.Message):
    __slots__ = ("count", "sum", "max")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    count: int
    sum: float
    max: float
    def __init__(self, count: _Optional[int] = ..., sum: _Optional[float] = ..., max: _Optional[float] = ...) -> None: ...

class ShardStatus(_message.Message):
    __slots__ = ("shard", "address", "epoch", "num_blocks", "parameter_bytes", "bytes_pushed", "bytes_pulled", "elements_pushed", "steps_applied", "duplicates_dropped", "pushes_refused", "version_staleness", "clock_lag", "pulls_waited", "round", "peak_memory_bytes", "non_finite_sums", "staged_bytes", "memory_bytes", "reported_seconds_ago", "draining")
    class PushesRefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_PUSHED_FIELD_NUMBER: _ClassVar[int]
    BYTES_PULLED_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_PUSHED_FIELD_NUMBER: _ClassVar[int]
    STEPS_APPLIED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_DROPPED_FIELD_NUMBER: _ClassVar[int]
    PUSHES_REFUSED_FIELD_NUMBER: _ClassVar[int]
    VERSION_STALENESS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_LAG_FIELD_NUMBER: _ClassVar[int]
    PULLS_WAITED_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PEAK_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    NON_FINITE_SUMS_FIELD_NUMBER: _ClassVar[int]
    STAGED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    REPORTED_SECONDS_AGO_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    shard: int
    address: str
    epoch: int
    num_blocks: int
    parameter_bytes: int
    bytes_pushed: int
    bytes_pulled: int
    elements_pushed: int
    steps_applied: int
    duplicates_dropped: int
    pushes_refused: _containers.ScalarMap[str, int]
    version_staleness: Summary
    clock_lag: Summary
    pulls_waited: int
    round: int
    peak_memory_bytes: int
    non_finite_sums: int
    staged_bytes: int
    memory_bytes: int
    reported_seconds_ago: float
    draining: bool
    def __init__(self, shard: _Optional[int] = ..., address: _Optional[str] = ..., epoch: _Optional[int] = ..., num_blocks: _Optional[int] = ..., parameter_bytes: _Optional[int] = ..., bytes_pushed: _Optional[int] = ..., bytes_pulled: _Optional[int] = ..., elements_pushed: _Optional[int] = ..., steps_applied: _Optional[int] = ..., duplicates_dropped: _Optional[int] = ..., pushes_refused: _Optional[_Mapping[str, int]] = ..., version_staleness: _Optional[_Union[Summary, _Mapping]] = ..., clock_lag: _Optional[_Union[Summary, _Mapping]] = ..., pulls_waited: _Optional[int] = ..., round: _Optional[int] = ..., peak_memory_bytes: _Optional[int] = ..., non_finite_sums: _Optional[int] = ..., staged_bytes: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., reported_seconds_ago: _Optional[float] = ..., draining: _Optional[bool] = ...) -> None: ...

class JobStatus(_message.Message):
    __slots__ = ("job", "phase", "round", "workers", "shards", "lease_expiries", "failures", "split_steps", "longest_round_gap_seconds", "age_seconds", "clock", "ending", "num_forgotten", "forgotten", "origin")
    JOB_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    LEASE_EXPIRIES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    SPLIT_STEPS_FIELD_NUMBER: _ClassVar[int]
    LONGEST_ROUND_GAP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    ENDING_FIELD_NUMBER: _ClassVar[int]
    NUM_FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    job: _common_pb2.JobSpecification
    phase: str
    round: int
    workers: _containers.RepeatedCompositeFieldContainer[WorkerStatus]
    shards: _containers.RepeatedCompositeFieldContainer[ShardStatus]
    lease_expiries: int
    failures: int
    split_steps: int
    longest_round_gap_seconds: float
    age_seconds: float
    clock: int
    ending: str
    num_forgotten: int
    forgotten: WorkerReport
    origin: Origin
    def __init__(self, job: _Optional[_Union[_common_pb2.JobSpecification, _Mapping]] = ..., phase: _Optional[str] = ..., round: _Optional[int] = ..., workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ..., shards: _Optional[_Iterable[_Union[ShardStatus, _Mapping]]] = ..., lease_expiries: _Optional[int] = ..., failures: _Optional[int] = ..., split_steps: _Optional[int] = ..., longest_round_gap_seconds: _Optional[float] = ..., age_seconds: _Optional[float] = ..., clock: _Optional[int] = ..., ending: _Optional[str] = ..., num_forgotten: _Optional[int] = ..., forgotten: _Optional[_Union[WorkerReport, _Mapping]] = ..., origin: _Optional[_Union[Origin, _Mapping]] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("worker_id", "incarnation", "active", "first_round", "start_clock", "observer", "num_ranks")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROUND_FIELD_NUMBER: _ClassVar[int]
    START_CLOCK_FIELD_NUMBER: _ClassVar[int]
    OBSERVER_FIELD_NUMBER: _ClassVar[int]
    NUM_RANKS_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    active: bool
    first_round: int
    start_clock: int
    observer: bool
    num_ranks: int
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., active: _Optional[bool] = ..., first_round: _Optional[int] = ..., start_clock: _Optional[int] = ..., observer: _Optional[bool] = ..., num_ranks: _Optional[int] = ...) -> None: ...

class View(_message.Message):
    __slots__ = ("number", "members", "fences", "newest_incarnation")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    FENCES_FIELD_NUMBER: _ClassVar[int]
    NEWEST_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    number: int
    members: _containers.RepeatedCompositeFieldContainer[Member]
    fences: _containers.RepeatedCompositeFieldContainer[Fence]
    newest_incarnation: int
    def __init__(self, number: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., fences: _Optional[_Iterable[_Union[Fence, _Mapping]]] = ..., newest_incarnation: _Optional[int] = ...) -> None: ...

class Fence(_message.Message):
    __slots__ = ("worker_id", "incarnation", "reason")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    reason: _common_pb2.ErrorCode
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., reason: _Optional[_Union[_common_pb2.ErrorCode, str]] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("worker_id", "incarnation", "step", "num_samples", "scale", "apply")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    APPLY_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    step: int
    num_samples: float
    scale: float
    apply: bool
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., step: _Optional[int] = ..., num_samples: _Optional[float] = ..., scale: _Optional[float] = ..., apply: _Optional[bool] = ...) -> None: ...

class RoundRecord(_message.Message):
    __slots__ = ("round", "contributions", "groups")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    round: int
    contributions: _containers.RepeatedCompositeFieldContainer[Contribution]
    groups: _containers.RepeatedCompositeFieldContainer[_common_pb2.ParameterGroup]
    def __init__(self, round: _Optional[int] = ..., contributions: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ..., groups: _Optional[_Iterable[_Union[_common_pb2.ParameterGroup, _Mapping]]] = ...) -> None: ...

class ShardReport(_message.Message):
    __slots__ = ("hello", "plan_installed", "view_installed", "initialised", "staged", "refused", "settled", "alive", "status", "norms", "draining")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    PLAN_INSTALLED_FIELD_NUMBER: _ClassVar[int]
    VIEW_INSTALLED_FIELD_NUMBER: _ClassVar[int]
    INITIALISED_FIELD_NUMBER: _ClassVar[int]
    STAGED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    NORMS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    hello: ShardHello
    plan_installed: PlanInstalled
    view_installed: ViewInstalled
    initialised: Initialised
    staged: StepStaged
    refused: StepRefused
    settled: StepSettled
    alive: WorkersAlive
    status: ShardStatus
    norms: BlockNorms
    draining: Draining
    def __init__(self, hello: _Optional[_Union[ShardHello, _Mapping]] = ..., plan_installed: _Optional[_Union[PlanInstalled, _Mapping]] = ..., view_installed: _Optional[_Union[ViewInstalled, _Mapping]] = ..., initialised: _Optional[_Union[Initialised, _Mapping]] = ..., staged: _Optional[_Union[StepStaged, _Mapping]] = ..., refused: _Optional[_Union[StepRefused, _Mapping]] = ..., settled: _Optional[_Union[StepSettled, _Mapping]] = ..., alive: _Optional[_Union[WorkersAlive, _Mapping]] = ..., status: _Optional[_Union[ShardStatus, _Mapping]] = ..., norms: _Optional[_Union[BlockNorms, _Mapping]] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ...) -> None: ...

class ShardHello(_message.Message):
    __slots__ = ("shard", "address", "epoch", "last_sequence", "job_id", "has_plan", "initial_checksum")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    HAS_PLAN_FIELD_NUMBER: _ClassVar[int]
    INITIAL_CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    shard: int
    address: str
    epoch: int
    last_sequence: int
    job_id: str
    has_plan: bool
    initial_checksum: str
    def __init__(self, shard: _Optional[int] = ..., address: _Optional[str] = ..., epoch: _Optional[int] = ..., last_sequence: _Optional[int] = ..., job_id: _Optional[str] = ..., has_plan: _Optional[bool] = ..., initial_checksum: _Optional[str] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ("address", "failure")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    address: str
    failure: str
    def __init__(self, address: _Optional[str] = ..., failure: _Optional[str] = ...) -> None: ...

class PlanInstalled(_message.Message):
    __slots__ = ("fingerprint",)
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    def __init__(self, fingerprint: _Optional[str] = ...) -> None: ...

class ViewInstalled(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class Initialised(_message.Message):
    __slots__ = ("grant",)
    GRANT_FIELD_NUMBER: _ClassVar[int]
    grant: int
    def __init__(self, grant: _Optional[int] = ...) -> None: ...

class StepStaged(_message.Message):
    __slots__ = ("worker_id", "incarnation", "step", "round", "apply", "num_samples", "scale", "groups", "lots", "idle")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    APPLY_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    LOTS_FIELD_NUMBER: _ClassVar[int]
    IDLE_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    step: int
    round: int
    apply: bool
    num_samples: float
    scale: float
    groups: _containers.RepeatedCompositeFieldContainer[_common_pb2.ParameterGroup]
    lots: _containers.RepeatedScalarFieldContainer[int]
    idle: bool
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., step: _Optional[int] = ..., round: _Optional[int] = ..., apply: _Optional[bool] = ..., num_samples: _Optional[float] = ..., scale: _Optional[float] = ..., groups: _Optional[_Iterable[_Union[_common_pb2.ParameterGroup, _Mapping]]] = ..., lots: _Optional[_Iterable[int]] = ..., idle: _Optional[bool] = ...) -> None: ...

class StepRefused(_message.Message):
    __slots__ = ("worker_id", "incarnation", "step", "code", "lots", "round")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    LOTS_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    step: int
    code: _common_pb2.ErrorCode
    lots: _containers.RepeatedScalarFieldContainer[int]
    round: int
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., step: _Optional[int] = ..., code: _Optional[_Union[_common_pb2.ErrorCode, str]] = ..., lots: _Optional[_Iterable[int]] = ..., round: _Optional[int] = ...) -> None: ...

class StepSettled(_message.Message):
    __slots__ = ("worker_id", "incarnation", "step", "applied", "lots", "lots_done")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    LOTS_FIELD_NUMBER: _ClassVar[int]
    LOTS_DONE_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    step: int
    applied: bool
    lots: _containers.RepeatedScalarFieldContainer[int]
    lots_done: bool
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., step: _Optional[int] = ..., applied: _Optional[bool] = ..., lots: _Optional[_Iterable[int]] = ..., lots_done: _Optional[bool] = ...) -> None: ...

class WorkersAlive(_message.Message):
    __slots__ = ("incarnations", "ranks")
    INCARNATIONS_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    incarnations: _containers.RepeatedScalarFieldContainer[int]
    ranks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, incarnations: _Optional[_Iterable[int]] = ..., ranks: _Optional[_Iterable[int]] = ...) -> None: ...

class BlockNorms(_message.Message):
    __slots__ = ("shard", "round", "blocks", "weight_squares", "update_squares", "settled")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_SQUARES_FIELD_NUMBER: _ClassVar[int]
    UPDATE_SQUARES_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    shard: int
    round: int
    blocks: _containers.RepeatedScalarFieldContainer[int]
    weight_squares: _containers.RepeatedScalarFieldContainer[float]
    update_squares: _containers.RepeatedScalarFieldContainer[float]
    settled: _containers.RepeatedCompositeFieldContainer[SettledStep]
    def __init__(self, shard: _Optional[int] = ..., round: _Optional[int] = ..., blocks: _Optional[_Iterable[int]] = ..., weight_squares: _Optional[_Iterable[float]] = ..., update_squares: _Optional[_Iterable[float]] = ..., settled: _Optional[_Iterable[_Union[SettledStep, _Mapping]]] = ...) -> None: ...

class SettledStep(_message.Message):
    __slots__ = ("worker_id", "incarnation", "step")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    worker_id: int
    incarnation: int
    step: int
    def __init__(self, worker_id: _Optional[int] = ..., incarnation: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class RegistrarOrder(_message.Message):
    __slots__ = ("sequence", "install_plan", "view", "initialise", "close", "norms", "end")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    INSTALL_PLAN_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    INITIALISE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    NORMS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    install_plan: InstallPlan
    view: View
    initialise: Initialise
    close: RoundRecord
    norms: BlockNorms
    end: JobEnd
    def __init__(self, sequence: _Optional[int] = ..., install_plan: _Optional[_Union[InstallPlan, _Mapping]] = ..., view: _Optional[_Union[View, _Mapping]] = ..., initialise: _Optional[_Union[Initialise, _Mapping]] = ..., close: _Optional[_Union[RoundRecord, _Mapping]] = ..., norms: _Optional[_Union[BlockNorms, _Mapping]] = ..., end: _Optional[_Union[JobEnd, _Mapping]] = ...) -> None: ...

class JobEnd(_message.Message):
    __slots__ = ("message", "lost")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    message: str
    lost: bool
    def __init__(self, message: _Optional[str] = ..., lost: _Optional[bool] = ...) -> None: ...

class InstallPlan(_message.Message):
    __slots__ = ("job", "plan", "optimizer")
    JOB_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    job: _common_pb2.JobSpecification
    plan: _common_pb2.Plan
    optimizer: _common_pb2.OptimizerSpecification
    def __init__(self, job: _Optional[_Union[_common_pb2.JobSpecification, _Mapping]] = ..., plan: _Optional[_Union[_common_pb2.Plan, _Mapping]] = ..., optimizer: _Optional[_Union[_common_pb2.OptimizerSpecification, _Mapping]] = ...) -> None: ...

class Initialise(_message.Message):
    __slots__ = ("grant", "done", "incarnation")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    grant: int
    done: bool
    incarnation: int
    def __init__(self, grant: _Optional[int] = ..., done: _Optional[bool] = ..., incarnation: _Optional[int] = ...) -> None: ...
