"""Settings of a job and of one server process. Checked once, here."""

from dataclasses import dataclass

from ..protos.errors import SettingError

MODES = ("sync", "bounded", "async")
DAMPINGS = ("none", "inverse", "sqrt")
OPTIMIZER_STATES = ("fp32", "int8")
LONGEST_NAME = 100


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What holds for the whole job. Owned by the registrar; everybody else is told.

    Raises:
        SettingError: two settings contradict each other or one is out of its range.
    """

    name: str = ""
    """That workers must give when they join; empty is none."""
    mode: str = "sync"
    """`sync` (rounds), `bounded` (bounded staleness) or `async`."""
    staleness_bound: int = 4
    """Clocks a worker may be ahead of the slowest when it pulls; `bounded` only."""
    quorum: int | None = None
    """Workers whose steps close a round; None is every member; `sync` only."""
    damping: str = "inverse"
    """How version staleness lowers the learning rate: `none`, `inverse` or `sqrt`; `async` only."""
    push_codec: str = "fp32"
    """Codec of gradients, with what workers remember of them."""
    push_overrides: tuple[tuple[str, str], ...] = ()
    """(pattern, codec) for the gradients of parameters whose name matches the pattern; the first match wins."""
    pull_codec: str = "fp32"
    """Codec of parameters."""
    average_buffers: bool = False
    """Whether buffers of the model become the mean over the workers at the end of an epoch; `sync` only."""
    optimizer_state: str = "fp32"
    """How servers keep the moments of the optimizer: `fp32`, or `int8` for 8 bits each."""
    block_elements: int | None = None
    """Elements of a block at most; None derives it from the model."""
    layouts: tuple[str, ...] = ()
    """How workers of several ranks may split the model (`tp2`, `pp2xtp2`, ...): blocks are cut so that all of them fit."""
    tensor_splits: tuple[tuple[str, int], ...] = ()
    """(pattern, dimension that tensor parallelism cuts) for parameters whose name matches; the first match wins."""
    lease_seconds: float = 10.0
    """Silence after which a worker no longer counts."""
    expected_workers: int = 0
    """Workers that the first round waits for; 0 opens it with the first."""
    reserved_ids: int = 0
    """Worker ids below this are for workers that choose theirs; the registrar gives others their ids from here on."""
    start_timeout_seconds: float = 60.0
    """How long the first round waits for the expected workers after the first has enrolled."""
    progress_timeout_seconds: float = 600.0
    """How long others wait for a live worker that ends no step; 0 is for ever."""
    server_patience_seconds: float = 600.0
    """How long a worker retries a silent shard."""
    seed: int = 0
    """Of the data order and of stochastic rounding."""
    message_bytes: int = 1 << 20
    """Target size of one message of frames."""
    staging_bytes: int = 4 << 30
    """Bytes of staged frames a shard may hold."""
    memory_bytes: int | None = None
    """Bytes of parameters and optimizer state a shard may hold; None is the memory of shard 0's machine."""

    def __post_init__(self) -> None:
        if len(self.name) > LONGEST_NAME:
            raise SettingError(f"name={self.name[:20]}... has {len(self.name)} characters; use at most {LONGEST_NAME}")
        _one_of("mode", self.mode, MODES)
        _one_of("damping", self.damping, DAMPINGS)
        _one_of("optimizer_state", self.optimizer_state, OPTIMIZER_STATES)
        _at_least("staleness_bound", self.staleness_bound, 0)
        _at_least("expected_workers", self.expected_workers, 0)
        _at_least("reserved_ids", self.reserved_ids, 0)
        _at_least("progress_timeout_seconds", self.progress_timeout_seconds, 0)
        _at_least("message_bytes", self.message_bytes, 1 << 12)
        for name in ("lease_seconds", "start_timeout_seconds", "server_patience_seconds", "staging_bytes"):
            if not getattr(self, name) > 0:
                raise SettingError(f"{name}={getattr(self, name)} must be greater than 0")
        if self.block_elements is not None:
            _at_least("block_elements", self.block_elements, 1)
        if self.memory_bytes is not None:
            _at_least("memory_bytes", self.memory_bytes, 1)
        if self.quorum is not None:
            _at_least("quorum", self.quorum, 1)
            if self.mode != "sync":
                raise SettingError(f"quorum={self.quorum} needs mode=sync, not mode={self.mode}")
        if self.average_buffers and self.mode != "sync":
            raise SettingError(f"average_buffers=true needs mode=sync, not mode={self.mode}")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """One server process.

    Raises:
        SettingError: shard 0 without job settings, another shard without a registrar, or a shard that does not exist.
    """

    shard: int
    num_shards: int
    listen: str = "127.0.0.1:0"
    """host:port to bind; port 0 takes any free one."""
    advertise: str | None = None
    """host:port that workers dial; None is what was bound."""
    registrar: str | None = None
    """host:port of shard 0; None for shard 0 itself."""
    job: JobSettings | None = None
    """Shard 0 only."""
    init: str | None = None
    """File of the first values, the same for every server; None takes a worker's."""
    metrics_listen: str | None = "127.0.0.1:0"
    """host:port of the Prometheus endpoint; None serves none."""
    reflection: bool = False
    """gRPC reflection, for tools such as grpcurl."""
    num_apply_threads: int | None = None
    """Threads that apply steps; None is as many as torch would use (OMP_NUM_THREADS)."""
    max_workers: int = 128
    """Worker streams at the same time, one for each rank of each worker; one more is refused."""

    def __post_init__(self) -> None:
        if not 0 <= self.shard < self.num_shards:
            raise SettingError(f"shard={self.shard} does not exist among num_shards={self.num_shards}")
        _at_least("max_workers", self.max_workers, 1)
        if self.shard == 0 and self.job is None:
            raise SettingError("shard 0 is the registrar and needs the job's settings")
        if self.shard > 0 and self.registrar is None:
            raise SettingError(f"shard {self.shard} needs the address of shard 0 (registrar=host:port)")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingError(f"{name}={value} is not one of {', '.join(allowed)}")


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise SettingError(f"{name}={value} must be at least {least}")
