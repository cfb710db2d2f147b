"""Steps of one worker on one shard: what is staged, what was committed, what became of the last one. Pure.

A worker sends nothing of step t+1 before it knows the outcome of t, so one (step, outcome) per incarnation is the whole
table that makes pushes exactly-once.
"""

from dataclasses import dataclass, field

from ..compression.frame import Frame
from ..protos.common_pb2 import ErrorCode
from ..protos.errors import ConflictError, PushpullError, StepError, code_of
from ..protos.shard_pb2 import Commit, Outcome


@dataclass(frozen=True)
class StagedFrame:
    """A validated frame and the bytes it was parsed from, kept encoded until its step's outcome."""

    frame: Frame
    data: memoryview


@dataclass
class OpenStep:
    """The step that is under way. A higher attempt replaces what a lower one staged."""

    step: int
    attempt: int
    frames: dict[int, StagedFrame] = field(default_factory=dict)
    """By block id."""
    commit: Commit | None = None
    refusal: tuple[ErrorCode, str] | None = None
    """The first thing wrong with this attempt: the step cannot be applied any more."""
    closing: bool = False
    """Its application is decided and under way: nothing replaces it now."""

    @property
    def num_bytes(self) -> int:
        return sum(staged.data.nbytes for staged in self.frames.values())


@dataclass
class StepLedger:
    """All that a shard keeps of one incarnation of a worker."""

    worker_id: int
    incarnation: int
    last_outcome: Outcome = field(default_factory=Outcome)
    """Of the newest settled step; step 0 = none."""
    last_lots: list[int] = field(default_factory=list)
    open: OpenStep | None = None

    def recorded(self, step: int) -> Outcome | None:
        """The outcome of a step that is settled already, as a duplicate; None if it is not settled."""
        if step > self.last_outcome.step:
            return None
        outcome = Outcome()
        outcome.CopyFrom(self.last_outcome)
        outcome.duplicate = True
        return outcome

    def begin(self, step: int, attempt: int) -> OpenStep | None:
        """The open step for this key, begun or replaced as needed; None if the attempt is stale.

        Raises:
            StepError: not the step that is due.
        """
        if step != self.last_outcome.step + 1:
            raise StepError(f"worker {self.worker_id} sent step {step}, but step {self.last_outcome.step + 1} is due")
        # What is committed is reported as it is: nothing replaces it.
        if self.open is None or (self.open.attempt < attempt and self.open.commit is None and not self.open.closing):
            self.open = OpenStep(step, attempt)
        return self.open if self.open.attempt == attempt else None

    def takes_frames(self, step: int, attempt: int) -> bool:
        """Whether frames of this key may still be staged."""
        return (
            self.open is not None
            and self.open.commit is None
            and (self.open.step, self.open.attempt) == (step, attempt)
        )

    def add(self, block: int, staged: StagedFrame) -> bool:
        """Stages one frame; False if the same bytes are there already.

        Raises:
            ConflictError: other bytes are there under the same key.
        """
        assert self.open is not None
        present = self.open.frames.get(block)
        if present is None:
            self.open.frames[block] = staged
            return True
        if present.data == staged.data:
            return False
        raise ConflictError(
            f"worker {self.worker_id} sent other bytes for block {block} of step {self.open.step}, attempt "
            f"{self.open.attempt}"
        )

    def refuse(self, error: PushpullError) -> None:
        """Marks the open step as one that cannot be applied; the first reason is kept."""
        assert self.open is not None
        if self.open.refusal is None:
            self.open.refusal = (code_of(error), str(error))
            self.open.frames.clear()

    def settle(self, outcome: Outcome, lots: list[int]) -> None:
        """Records the outcome of the step that is due and frees what was staged."""
        self.last_outcome = outcome
        self.last_lots = lots
        if self.open is not None and self.open.step <= outcome.step:
            self.open = None
