"""What a simulated cluster consists of: workers, their streams, shards, and what happened."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from pushpull.protos.registrar_pb2 import RegistrarOrder, RoundRecord, ShardReport
from pushpull.protos.shard_pb2 import Commit, Frames, Outcome, PullDone
from pushpull.ps_server.apply import Pass
from pushpull.ps_server.effects import Job
from pushpull.ps_server.shard import Shard


@dataclass
class Faults:
    """How often things go wrong, as shares of the scheduler's turns."""

    repeat: float = 0.0
    cut: float = 0.0


@dataclass
class Pulled:
    """One answered pull, for the history."""

    worker: int
    clock: int
    smallest_clock: int
    commits_sent: dict[int, int]


@dataclass
class SimulatedShard:
    shard: Shard
    orders: deque[RegistrarOrder] = field(default_factory=deque)
    reports: deque[ShardReport] = field(default_factory=deque)
    jobs: deque[Job] = field(default_factory=deque)
    rounds: list[RoundRecord] = field(default_factory=list)
    passes: deque[Pass] | None = None
    """Of the job in front, once it has begun."""

    @property
    def may_run(self) -> bool:
        return bool(self.jobs) and (not self.passes or self.passes[0].ready())

    @property
    def values(self) -> np.ndarray:
        return self.shard.store.values.numpy()


@dataclass
class SimulatedStream:
    """What is under way between one rank and one shard."""

    rank: int
    shard: int
    up: deque[Frames | Commit] = field(default_factory=deque)
    down: deque[Outcome | PullDone] = field(default_factory=deque)
    outcomes: list[Outcome] = field(default_factory=list)
    sent: tuple[Frames, Commit] | None = None
    waiting: bool = False
    round: int = 0


@dataclass
class SimulatedWorker:
    """Pushes `gradients[t]` in step t + 1 until it has none left; `speed` is its share of the scheduler's turns."""

    id: int
    incarnation: int
    gradients: list[float]
    num_ranks: int = 1
    speed: float = 1.0
    streams: list[SimulatedStream] = field(default_factory=list)
    step: int = 0
    commits_sent: int = 0
    silent_ranks: set[int] = field(default_factory=set)

    @property
    def key(self) -> tuple[int, int]:
        return self.id, self.incarnation

    @property
    def waiting(self) -> bool:
        """Some rank has not heard from some shard what became of the step."""
        return any(stream.waiting for stream in self.streams)

    @property
    def outcomes(self) -> list[list[Outcome]]:
        """By shard, as rank 0 was told."""
        return [stream.outcomes for stream in self.streams if stream.rank == 0]

    def stream(self, rank: int, shard: int) -> SimulatedStream:
        return next(stream for stream in self.streams if (stream.rank, stream.shard) == (rank, shard))

    def owns(self, rank: int, block: int, num_shards: int) -> bool:
        """Blocks of a shard go to the ranks in turn."""
        return block // num_shards % self.num_ranks == rank
