"""What a shard's core decides and asks for: jobs to apply, messages to send. Pure data."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..protos.registrar_pb2 import ShardReport
from ..protos.shard_pb2 import Outcome, PullDone
from .keys import Key, StreamKey
from .steps import StagedFrame


@dataclass(frozen=True)
class AppliedPart:
    """What one worker adds in a job."""

    worker_id: int
    weight: float
    """FP32 factor of its decoded frames."""
    frames: dict[int, StagedFrame]
    """By block id."""


@dataclass(frozen=True)
class Job:
    """Work for the applying threads: reduce the parts in this order, then run the optimizer."""

    sequence: int
    parts: list[AppliedPart]
    """Ascending worker id: the order of the sum."""
    numbers: list[dict[str, float]]
    """Group values."""
    base_versions: NDArray[np.int64] | None
    """Of each of the shard's blocks; None in synchronous mode, where nothing is stale."""
    num_members: int
    settles: dict[Key, Outcome.Kind]
    """What becomes of whose open step when the job is done."""
    round: int
    num_samples: float = 0.0
    """Weight of all parts together; synchronous mode only."""
    replacements: list[dict[int, StagedFrame]] = field(default_factory=list)
    """Values that replace those of their blocks, by block id; ascending worker id: the first that changed an element wins."""
    averaged: list[dict[int, StagedFrame]] = field(default_factory=list)
    """Values whose mean replaces those of their blocks, by block id; ascending worker id: the order of the sum."""
    trust_ratios: dict[int, float] = field(default_factory=dict)
    """Of each parameter updated here, by position in the plan; decided while the job is applied, if the optimizer has any."""


@dataclass
class PullTicket:
    """A pull of one rank that has not been answered."""

    key: StreamKey
    request: int
    step: int
    """Step whose outcome comes first; 0 for a plain pull."""
    held: NDArray[np.int64]
    """Versions beside the shard's blocks, raised as values are sent; -1 = nothing held, `UNWANTED` = not to be sent."""
    after_job: int
    """Jobs that must be done first."""
    waited: bool = False


@dataclass(frozen=True)
class Tell:
    """Effect: send the outcome of a step to its worker's ranks."""

    keys: tuple[StreamKey, ...]
    outcome: Outcome


@dataclass(frozen=True)
class Report:
    """Effect: tell the registrar."""

    report: ShardReport


@dataclass(frozen=True)
class Run:
    """Effect: hand a job to the applying threads."""

    job: Job


@dataclass(frozen=True)
class AnswerPull:
    """Effect: send what the ticket lacks, then this message."""

    ticket: PullTicket
    done: PullDone
    clock_lag: int


@dataclass(frozen=True)
class Dismiss:
    """Effect: end the streams of an incarnation that is live no more."""

    key: Key


Effect = Tell | Report | Run | AnswerPull | Dismiss


@dataclass
class Counters:
    """What happened on this shard so far."""

    steps_applied: int = 0
    duplicates_dropped: int = 0
    pulls_waited: int = 0
    pushes_refused: dict[str, int] = field(default_factory=dict)
