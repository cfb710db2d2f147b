"""Steps of one worker on one shard: what is staged, what was committed, what became of the last one. Pure.

A worker sends nothing of step t+1 before it knows the outcome of t, so one (step, outcome) per incarnation is the whole
table that makes pushes exactly-once, whatever its number of ranks: each sends its own part, and a step is whole when all
ranks have committed theirs.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..compression.frame import Frame
from ..protos.common_pb2 import ErrorCode
from ..protos.errors import ConflictError, PushpullError, StepError, code_of
from ..protos.shard_pb2 import Commit, Outcome
from .keys import Key, StreamKey
from .shares import Share


@dataclass(frozen=True)
class StagedFrame:
    """A validated frame and the bytes it was parsed from, kept encoded until its step's outcome."""

    frame: Frame
    data: memoryview


@dataclass
class Part:
    """What one rank has sent of the step that is under way. A higher attempt replaces it until it is committed."""

    attempt: int
    frames: dict[int, StagedFrame] = field(default_factory=dict)
    """By block id."""
    values: dict[int, StagedFrame] = field(default_factory=dict)
    """By block id: what replaces values, instead of a gradient."""
    commit: Commit | None = None
    base_versions: NDArray[np.int64] | None = None
    """Of the rank's blocks on this shard, with the commit."""
    refusal: tuple[ErrorCode, str] | None = None
    """The first thing wrong with this attempt: the step cannot be applied any more."""

    def refuse(self, error: PushpullError) -> None:
        """Marks it as one that cannot be applied; the first reason is kept."""
        if self.refusal is None:
            self.refusal = (code_of(error), str(error))
            self.frames.clear()
            self.values.clear()

    @property
    def value_bytes(self) -> int:
        return sum(staged.data.nbytes for staged in self.values.values())

    @property
    def num_bytes(self) -> int:
        return self.value_bytes + sum(staged.data.nbytes for staged in self.frames.values())


@dataclass
class OpenStep:
    """The step that is under way: a part for each rank that has sent something."""

    step: int
    parts: dict[int, Part] = field(default_factory=dict)
    """By rank."""
    refusal: tuple[ErrorCode, str] | None = None
    """What is wrong with the parts together."""
    closing: bool = False
    """Its application is decided and under way: nothing replaces it now."""

    def whole(self, num_ranks: int) -> bool:
        """Whether the commits of all ranks are in."""
        return self.num_committed == num_ranks

    @property
    def num_committed(self) -> int:
        return sum(part.commit is not None for part in self.parts.values())

    @property
    def commits(self) -> dict[int, Commit]:
        """By rank, ascending."""
        return {rank: part.commit for rank, part in sorted(self.parts.items()) if part.commit is not None}

    @property
    def commit(self) -> Commit | None:
        """Of the lowest rank: what concerns the whole worker is the same in all."""
        return next(iter(self.commits.values()), None)

    @property
    def averages(self) -> bool:
        """Whether its values go into a mean."""
        return self.commit is not None and self.commit.average

    @property
    def first_refusal(self) -> tuple[ErrorCode, str] | None:
        """Why it cannot be applied: what the lowest rank's part suffers from, else all parts together."""
        refused = ((rank, part.refusal) for rank, part in sorted(self.parts.items()) if part.refusal is not None)
        for rank, (code, message) in refused:
            return code, message if len(self.parts) == 1 else f"rank {rank}: {message}"
        return self.refusal

    @property
    def frames(self) -> dict[int, StagedFrame]:
        """Of all ranks, by block id: no two ranks own the same block."""
        return {block: staged for part in self.parts.values() for block, staged in part.frames.items()}

    @property
    def values(self) -> dict[int, StagedFrame]:
        """What replaces values, of all ranks, by block id."""
        return {block: staged for part in self.parts.values() for block, staged in part.values.items()}

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts.values())


@dataclass
class StepLedger:
    """All that a shard keeps of one incarnation of a worker."""

    worker_id: int
    incarnation: int
    num_ranks: int = 1
    shares: dict[int, Share] = field(default_factory=dict)
    """What each rank that has opened a stream owns here; empty once the incarnation is live no more."""
    last_outcome: Outcome = field(default_factory=Outcome)
    """Of the newest settled step; step 0 = none."""
    last_lots: list[int] = field(default_factory=list)
    open: OpenStep | None = None

    @property
    def key(self) -> Key:
        return self.worker_id, self.incarnation

    @property
    def streams(self) -> tuple[StreamKey, ...]:
        """Of all ranks."""
        return tuple(StreamKey(self.worker_id, self.incarnation, rank) for rank in range(self.num_ranks))

    def recorded(self, step: int) -> Outcome | None:
        """The outcome of a step that is settled already, as a duplicate; None if it is not settled."""
        if step > self.last_outcome.step:
            return None
        outcome = Outcome()
        outcome.CopyFrom(self.last_outcome)
        outcome.duplicate = True
        return outcome

    def begin(self, step: int, rank: int, attempt: int) -> Part | None:
        """A rank's part of the open step, begun or replaced as needed; None if the attempt is stale.

        Raises:
            StepError: not the step that is due.
        """
        if step != self.last_outcome.step + 1:
            raise StepError(f"worker {self.worker_id} sent step {step}, but step {self.last_outcome.step + 1} is due")
        if self.open is None:
            self.open = OpenStep(step)
        part = self.open.parts.get(rank)
        # What is committed is reported as it is: nothing replaces it.
        replaceable = part is None or (part.attempt < attempt and part.commit is None)
        if replaceable and not self.open.closing:
            part = self.open.parts[rank] = Part(attempt)
        return part if part is not None and part.attempt == attempt else None

    def taking_frames(self, step: int, rank: int, attempt: int) -> Part | None:
        """The part that frames of this key may still be staged in."""
        if self.open is None or self.open.step != step:
            return None
        part = self.open.parts.get(rank)
        return part if part is not None and part.commit is None and part.attempt == attempt else None

    def add(self, part: Part, block: int, staged: StagedFrame, values: bool = False) -> bool:
        """Stages one frame, of a gradient or of values; False if the same bytes are there already.

        Raises:
            ConflictError: other bytes are there under the same key.
        """
        frames = part.values if values else part.frames
        present = frames.get(block)
        if present is None:
            frames[block] = staged
            return True
        if present.data == staged.data:
            return False
        raise ConflictError(
            f"worker {self.worker_id} sent other bytes for block {block} of step {self.last_outcome.step + 1}, attempt "
            f"{part.attempt}"
        )

    def settle(self, outcome: Outcome, lots: list[int]) -> None:
        """Records the outcome of the step that is due and frees what was staged."""
        self.last_outcome = outcome
        self.last_lots = lots
        if self.open is not None and self.open.step <= outcome.step:
            self.open = None
