"""Figures of one server that are read when Prometheus asks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..protos.exposition import Family, Reading
from .health import Phase

INFO = Family("gauge", "pushpull_shard_info", "Which shard this process is, and where workers reach it.", ("address",))
PHASE = Family(
    "gauge", "pushpull_server_phase", "1 for the phase that this server is in, 0 for the others.", ("phase",)
)
LINK_UP = Family("gauge", "pushpull_registrar_link_up", "1 while linked: to the registrar; shard 0: to all others.")
TRAINED = Family("gauge", "pushpull_shard_trained", "1 once this shard holds initialised parameters.")
DIVERGED = Family("gauge", "pushpull_shard_diverged", "1 once a parameter is not finite: training cannot go on.")
ROUND = Family("gauge", "pushpull_shard_round", "Newest round applied on this shard.")
BLOCKS = Family("gauge", "pushpull_shard_blocks", "Blocks of this shard.")
PARAMETER_BYTES = Family("gauge", "pushpull_parameter_bytes", "FP32 bytes of the blocks of this shard.")
STATE_BYTES = Family(
    "gauge", "pushpull_optimizer_state_bytes", "Bytes of optimizer state for the blocks of this shard."
)
STAGED_BYTES = Family("gauge", "pushpull_staged_bytes", "Bytes of frames held for steps that are not settled.")
SPREAD = Family("gauge", "pushpull_block_version_spread", "Largest minus smallest version of the optimised blocks.")
STREAMS = Family("gauge", "pushpull_worker_streams", "Open worker streams: one for each rank of each worker.")
MOST_STREAMS = Family("gauge", "pushpull_worker_streams_limit", "Worker streams that this shard takes at most.")
QUEUED_JOBS = Family("gauge", "pushpull_apply_queue_jobs", "Steps or rounds decided and not applied yet.")
DUPLICATES = Family("counter", "pushpull_duplicates_dropped", "Frames and commits received again.")
POOL_THREADS = Family(
    "gauge", "pushpull_rpc_threads", "Threads that handle calls of a kind; an open stream has one of them.", ("door",)
)
POOL_BUSY = Family("gauge", "pushpull_rpc_threads_busy", "Threads that handle a call now.", ("door",))
POOL_WAITING = Family("gauge", "pushpull_rpc_calls_waiting", "Calls that wait for a thread.", ("door",))

FAMILIES = (
    *(INFO, PHASE, LINK_UP, TRAINED, DIVERGED, ROUND, BLOCKS, PARAMETER_BYTES, STATE_BYTES, STAGED_BYTES, SPREAD),
    *(STREAMS, MOST_STREAMS, QUEUED_JOBS, DUPLICATES, POOL_THREADS, POOL_BUSY, POOL_WAITING),
)


@dataclass(frozen=True, kw_only=True)
class BlockFigures:
    """What a shard knows of itself once it has its plan."""

    trained: bool
    diverged: bool
    round: int
    num_blocks: int
    parameter_bytes: int
    optimizer_state_bytes: float
    staged_bytes: int
    version_spread: int
    num_queued_jobs: int
    duplicates_dropped: int


@dataclass(frozen=True, kw_only=True)
class ServerFigures:
    """One server at one moment."""

    address: str
    num_streams: int
    most_streams: int
    blocks: BlockFigures | None


@dataclass(frozen=True)
class Standing:
    """Where a server stands."""

    phase: Phase
    linked: bool
    """Shard 0: all others are linked to it. Others: they are linked to shard 0."""


@dataclass(frozen=True)
class PoolFigures:
    """Of the threads that handle calls of one kind."""

    name: str
    num_threads: int
    num_busy: int
    num_waiting: int


def readings(standing: Standing, server: ServerFigures, pools: Sequence[PoolFigures]) -> Iterator[Reading]:
    """As Prometheus is shown them."""
    yield INFO, (server.address,), 1
    yield from ((PHASE, (phase.value,), standing.phase is phase) for phase in Phase)
    yield LINK_UP, (), standing.linked
    yield STREAMS, (), server.num_streams
    yield MOST_STREAMS, (), server.most_streams
    for pool in pools:
        yield POOL_THREADS, (pool.name,), pool.num_threads
        yield POOL_BUSY, (pool.name,), pool.num_busy
        yield POOL_WAITING, (pool.name,), pool.num_waiting
    blocks = server.blocks
    yield TRAINED, (), blocks is not None and blocks.trained
    yield DIVERGED, (), blocks is not None and blocks.diverged
    if blocks is None:
        return
    yield ROUND, (), blocks.round
    yield BLOCKS, (), blocks.num_blocks
    yield PARAMETER_BYTES, (), blocks.parameter_bytes
    yield STATE_BYTES, (), blocks.optimizer_state_bytes
    yield STAGED_BYTES, (), blocks.staged_bytes
    yield SPREAD, (), blocks.version_spread
    yield QUEUED_JOBS, (), blocks.num_queued_jobs
    yield DUPLICATES, (), blocks.duplicates_dropped
