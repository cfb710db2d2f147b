from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_SYNC: _ClassVar[Mode]
    MODE_BOUNDED: _ClassVar[Mode]
    MODE_ASYNC: _ClassVar[Mode]

class ErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_CODE_UNSPECIFIED: _ClassVar[ErrorCode]
    WRONG_JOB: _ClassVar[ErrorCode]
    WRONG_SHARD: _ClassVar[ErrorCode]
    FENCED_REPLACED: _ClassVar[ErrorCode]
    FENCED_EXPIRED: _ClassVar[ErrorCode]
    UNKNOWN_INCARNATION: _ClassVar[ErrorCode]
    PLAN_MISMATCH: _ClassVar[ErrorCode]
    OPTIMIZER_MISMATCH: _ClassVar[ErrorCode]
    UNKNOWN_BLOCK: _ClassVar[ErrorCode]
    BAD_FRAME: _ClassVar[ErrorCode]
    NON_FINITE: _ClassVar[ErrorCode]
    CONFLICT: _ClassVar[ErrorCode]
    BAD_STEP: _ClassVar[ErrorCode]
    FUTURE_BASE: _ClassVar[ErrorCode]
    NOT_READY: _ClassVar[ErrorCode]
    OVER_BUDGET: _ClassVar[ErrorCode]
    BAD_SETTING: _ClassVar[ErrorCode]
    BAD_REQUEST: _ClassVar[ErrorCode]
    DRAINING: _ClassVar[ErrorCode]
    RUN_OVER: _ClassVar[ErrorCode]
    BUSY: _ClassVar[ErrorCode]
    SERVER_LOST: _ClassVar[ErrorCode]
MODE_UNSPECIFIED: Mode
MODE_SYNC: Mode
MODE_BOUNDED: Mode
MODE_ASYNC: Mode
ERROR_CODE_UNSPECIFIED: ErrorCode
WRONG_JOB: ErrorCode
WRONG_SHARD: ErrorCode
FENCED_REPLACED: ErrorCode
FENCED_EXPIRED: ErrorCode
UNKNOWN_INCARNATION: ErrorCode
PLAN_MISMATCH: ErrorCode
OPTIMIZER_MISMATCH: ErrorCode
UNKNOWN_BLOCK: ErrorCode
BAD_FRAME: ErrorCode
NON_FINITE: ErrorCode
CONFLICT: ErrorCode
BAD_STEP: ErrorCode
FUTURE_BASE: ErrorCode
NOT_READY: ErrorCode
OVER_BUDGET: ErrorCode
BAD_SETTING: ErrorCode
BAD_REQUEST: ErrorCode
DRAINING: ErrorCode
RUN_OVER: ErrorCode
BUSY: ErrorCode
SERVER_LOST: ErrorCode

class JobSpecification(_message.Message):
    __slots__ = ("job_id", "mode", "staleness_bound", "quorum", "damping", "push_codec", "pull_codec", "block_elements", "lease_seconds", "num_shards", "shard_addresses", "expected_workers", "server_patience_seconds", "seed", "message_bytes", "push_overrides", "layouts", "tensor_splits", "optimizer_state", "name", "average_buffers")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    STALENESS_BOUND_FIELD_NUMBER: _ClassVar[int]
    QUORUM_FIELD_NUMBER: _ClassVar[int]
    DAMPING_FIELD_NUMBER: _ClassVar[int]
    PUSH_CODEC_FIELD_NUMBER: _ClassVar[int]
    PULL_CODEC_FIELD_NUMBER: _ClassVar[int]
    BLOCK_ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARDS_FIELD_NUMBER: _ClassVar[int]
    SHARD_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_WORKERS_FIELD_NUMBER: _ClassVar[int]
    SERVER_PATIENCE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PUSH_OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    LAYOUTS_FIELD_NUMBER: _ClassVar[int]
    TENSOR_SPLITS_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_STATE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_BUFFERS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    mode: Mode
    staleness_bound: int
    quorum: int
    damping: str
    push_codec: str
    pull_codec: str
    block_elements: int
    lease_seconds: float
    num_shards: int
    shard_addresses: _containers.RepeatedScalarFieldContainer[str]
    expected_workers: int
    server_patience_seconds: float
    seed: int
    message_bytes: int
    push_overrides: _containers.RepeatedCompositeFieldContainer[CodecOverride]
    layouts: _containers.RepeatedScalarFieldContainer[str]
    tensor_splits: _containers.RepeatedCompositeFieldContainer[TensorSplit]
    optimizer_state: str
    name: str
    average_buffers: bool
    def __init__(self, job_id: _Optional[str] = ..., mode: _Optional[_Union[Mode, str]] = ..., staleness_bound: _Optional[int] = ..., quorum: _Optional[int] = ..., damping: _Optional[str] = ..., push_codec: _Optional[str] = ..., pull_codec: _Optional[str] = ..., block_elements: _Optional[int] = ..., lease_seconds: _Optional[float] = ..., num_shards: _Optional[int] = ..., shard_addresses: _Optional[_Iterable[str]] = ..., expected_workers: _Optional[int] = ..., server_patience_seconds: _Optional[float] = ..., seed: _Optional[int] = ..., message_bytes: _Optional[int] = ..., push_overrides: _Optional[_Iterable[_Union[CodecOverride, _Mapping]]] = ..., layouts: _Optional[_Iterable[str]] = ..., tensor_splits: _Optional[_Iterable[_Union[TensorSplit, _Mapping]]] = ..., optimizer_state: _Optional[str] = ..., name: _Optional[str] = ..., average_buffers: _Optional[bool] = ...) -> None: ...

class CodecOverride(_message.Message):
    __slots__ = ("pattern", "codec")
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    codec: str
    def __init__(self, pattern: _Optional[str] = ..., codec: _Optional[str] = ...) -> None: ...

class TensorSplit(_message.Message):
    __slots__ = ("pattern", "dimension")
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    dimension: int
    def __init__(self, pattern: _Optional[str] = ..., dimension: _Optional[int] = ...) -> None: ...

class Parameter(_message.Message):
    __slots__ = ("name", "shape", "trainable", "aliases", "group", "carries")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    CARRIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    trainable: bool
    aliases: _containers.RepeatedScalarFieldContainer[str]
    group: int
    carries: str
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., trainable: _Optional[bool] = ..., aliases: _Optional[_Iterable[str]] = ..., group: _Optional[int] = ..., carries: _Optional[str] = ...) -> None: ...

class Block(_message.Message):
    __slots__ = ("parameter", "offsets", "sizes", "shard")
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    parameter: int
    offsets: _containers.RepeatedScalarFieldContainer[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    shard: int
    def __init__(self, parameter: _Optional[int] = ..., offsets: _Optional[_Iterable[int]] = ..., sizes: _Optional[_Iterable[int]] = ..., shard: _Optional[int] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("parameters", "blocks", "num_shards", "block_elements", "fingerprint")
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARDS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    parameters: _containers.RepeatedCompositeFieldContainer[Parameter]
    blocks: _containers.RepeatedCompositeFieldContainer[Block]
    num_shards: int
    block_elements: int
    fingerprint: str
    def __init__(self, parameters: _Optional[_Iterable[_Union[Parameter, _Mapping]]] = ..., blocks: _Optional[_Iterable[_Union[Block, _Mapping]]] = ..., num_shards: _Optional[int] = ..., block_elements: _Optional[int] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class ParameterGroup(_message.Message):
    __slots__ = ("numbers", "flags", "lr_factor")
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class FlagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bool
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bool] = ...) -> None: ...
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    LR_FACTOR_FIELD_NUMBER: _ClassVar[int]
    numbers: _containers.ScalarMap[str, float]
    flags: _containers.ScalarMap[str, bool]
    lr_factor: float
    def __init__(self, numbers: _Optional[_Mapping[str, float]] = ..., flags: _Optional[_Mapping[str, bool]] = ..., lr_factor: _Optional[float] = ...) -> None: ...

class OptimizerSpecification(_message.Message):
    __slots__ = ("name", "groups")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    name: str
    groups: _containers.RepeatedCompositeFieldContainer[ParameterGroup]
    def __init__(self, name: _Optional[str] = ..., groups: _Optional[_Iterable[_Union[ParameterGroup, _Mapping]]] = ...) -> None: ...
