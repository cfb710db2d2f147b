"""What a step says to the shards, and what their answers mean together. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..protos.common_pb2 import ParameterGroup
from ..protos.errors import NonFiniteError, error_of
from ..protos.shard_pb2 import Commit, Outcome, PullDone, Verdict
from .ranks.rank_blocks import RankBlocks
from .recorder import StepKind
from .staging import StagedStep


@dataclass(frozen=True, kw_only=True)
class StepRequest:
    """Everything that only optimizer.step() knows."""

    gradients: Mapping[int, torch.Tensor]
    """Of what this process holds, by plan entry."""
    groups: Sequence[ParameterGroup]
    num_samples: float
    lots: Sequence[int] = ()
    factor: float = 1.0
    """What gradients are multiplied by before they are encoded: one over the loss scale."""
    unchanged: bool = True
    """False: gradients may have changed since backward without a trace."""
    skip: bool = False
    idle: bool = False
    """It skips because it has no data and waits for others."""
    reduced: bool = False
    """They are the worker's already, alike on every rank that holds them."""
    void: bool = False
    """What the gradients were computed from is others' now: they are dropped here."""
    traceparent: bytes = b""
    """W3C trace context of this step; empty: it is not traced."""


@dataclass(frozen=True, kw_only=True)
class StagedFrames:
    """What of a step has been sent ahead of its commit."""

    attempt: int
    blocks: Sequence[Sequence[int]]
    """This rank's blocks with a frame, by shard."""
    absent: Sequence[Sequence[int]]
    """Its optimised blocks without one, by shard."""
    apply: bool
    num_values: Sequence[int] | None = None
    """Blocks whose values are replaced, by shard; None: none anywhere."""
    average: bool = False
    """Their mean over the workers is asked for."""
    scale: float = 1.0
    """Clipping factor."""
    failure: NonFiniteError | None = None
    """Why this step is a skip although there were gradients."""

    @classmethod
    def of_skip(cls, own: RankBlocks, attempt: int, failure: NonFiniteError | None = None) -> "StagedFrames":
        """A step without frames."""
        nothing: list[list[int]] = [[] for _ in range(own.num_shards)]
        return cls(attempt=attempt, blocks=nothing, absent=nothing, apply=False, failure=failure)

    @classmethod
    def of_gradients(cls, own: RankBlocks, staged: StagedStep, scale: float) -> "StagedFrames":
        """A step with a frame for each of the rank's blocks whose entry has a gradient."""
        blocks: list[list[int]] = [[] for _ in range(own.num_shards)]
        absent: list[list[int]] = [[] for _ in range(own.num_shards)]
        for block in own.blocks.values():
            if block.entry in staged.entries:
                blocks[block.shard].append(block.id)
            elif own.entries[block.entry].group >= 0:
                absent[block.shard].append(block.id)
        return cls(attempt=staged.attempt, blocks=blocks, absent=absent, apply=True, scale=scale)

    @classmethod
    def of_values(cls, own: RankBlocks, attempt: int) -> "StagedFrames":
        """A step that is applied and has no gradients."""
        return cls.of_gradients(own, StagedStep(attempt, frozenset(), 0.0), 1.0)


def clipping_factor(clip_norm: float | None, squares: float) -> float:
    """What a gradient with this sum of squares is multiplied by, as torch's clip_grad_norm_ does it."""
    return 1.0 if clip_norm is None else min(1.0, clip_norm / (squares**0.5 + 1e-6))


def commit_of(
    shard: int, request: StepRequest, frames: StagedFrames, base_versions: Sequence[int], key: tuple[int, int]
) -> Commit:
    """The commit for one shard; `key` is (step, round)."""
    step, round_number = key
    return Commit(
        step=step,
        attempt=frames.attempt,
        num_frames=len(frames.blocks[shard]),
        num_values=0 if frames.num_values is None else frames.num_values[shard],
        average=frames.average,
        verdict=Verdict.VERDICT_APPLY if frames.apply else Verdict.VERDICT_SKIP,
        num_samples=request.num_samples if frames.apply else 0.0,
        scale=frames.scale,
        groups=request.groups,
        absent=frames.absent[shard],
        base_versions=base_versions,
        round=round_number,
        lots=request.lots if shard == 0 else (),
        traceparent=request.traceparent,
        idle=request.idle and not frames.apply,
    )


def kind_of(outcomes: Sequence[Outcome]) -> StepKind:
    """What became of the step as a whole; raises the first refusal."""
    for outcome in outcomes:
        if outcome.kind == Outcome.KIND_REFUSED:
            raise error_of(outcome.code, outcome.message)
    kinds = {outcome.kind for outcome in outcomes}
    if Outcome.KIND_LATE in kinds:
        return StepKind.LATE
    return StepKind.APPLIED if Outcome.KIND_APPLIED in kinds else StepKind.SKIPPED


@dataclass
class Position:
    """Where this worker stands in the job, by the answers to its pulls."""

    round: int = 0
    """Sync: the round that every block it holds is of, or newer."""
    smallest_clock: int = 0
    """Bounded and async: the slowest member's clock when the held values were sent."""
    own_clock: int = 0
    """Never goes back."""
    num_workers: int = 0
    """Sync: whose steps made up the newest round; 0 = not known yet."""
    num_samples: int = 0
    """Sync: of those steps together, rounded down."""

    def note(self, answers: Sequence[PullDone]) -> None:
        """Takes the ends of pulls, one for each shard that was asked."""
        if not answers:
            return
        self.round = min(answer.round for answer in answers)
        self.smallest_clock = min(answer.smallest_clock for answer in answers)
        self.own_clock = max(self.own_clock, *(answer.clock for answer in answers))
        newest = max(answers, key=lambda answer: answer.round)
        self.num_workers, self.num_samples = newest.num_workers, int(newest.num_samples)

    def agree(self, smallest: Callable[[Sequence[int]], Sequence[int]]) -> None:
        """Several ranks stand where the slowest of them does; `smallest` is taken over all of them, number by number."""
        self.round, self.smallest_clock, own_clock, self.num_workers, self.num_samples = smallest(
            [self.round, self.smallest_clock, -self.own_clock, self.num_workers, self.num_samples]
        )
        self.own_clock = -own_clock
