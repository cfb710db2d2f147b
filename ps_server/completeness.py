"""Whether a committed step can be applied: each rank's part for itself, then all parts together. Pure."""

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from ..protos.errors import PushpullError, StepError
from ..protos.shard_pb2 import Commit, Verdict
from .shares import Share
from .steps import OpenStep, Part

WORKER_WIDE = ("verdict", "num_samples", "scale", "groups", "round", "lots", "average")
"""Fields of a commit that are decided once for the whole worker."""


def fault_of_part(part: Part, commit: Commit, share: Share) -> PushpullError | None:
    """What keeps one rank's part from being applied: frames that are missing, numbers that cannot be."""
    if commit.verdict != Verdict.VERDICT_APPLY:
        return None
    if len(part.values) != commit.num_values:
        return StepError(
            f"step {commit.step} has {len(part.values)} frames of values and announces {commit.num_values}"
        )
    if commit.average and not share.pushed_ids.isdisjoint(part.values):
        return StepError(f"step {commit.step} asks for the mean of a parameter that is optimised")
    expected = share.pushed_ids - set(commit.absent)
    if len(part.frames) != commit.num_frames or part.frames.keys() != expected:
        return StepError(
            f"step {commit.step} has {len(part.frames)} frames, announces {commit.num_frames} and needs {len(expected)}"
        )
    if not (np.isfinite(commit.scale) and 0 <= commit.num_samples < np.inf):
        return StepError("scale and num_samples must be finite numbers")
    return None


def fault_of_whole(step: OpenStep, pushed_ids: Collection[int], shares: Iterable[Share]) -> PushpullError | None:
    """What keeps parts that are right for themselves from making one step."""
    commits = step.commits
    field = disagreement(commits)
    if field is not None:
        said = ", ".join(f"{rank}: {_text(getattr(commit, field))}" for rank, commit in commits.items())
        return StepError(f"the ranks of step {step.step} do not agree in {field} ({said})")
    if commits and next(iter(commits.values())).verdict != Verdict.VERDICT_APPLY:
        return None
    unowned = set(pushed_ids).difference(*(share.pushed_ids for share in shares))
    if unowned:
        return StepError(f"step {step.step} is incomplete: no rank of its worker owns block {min(unowned)}")
    return None


def disagreement(commits: Mapping[int, Commit]) -> str | None:
    """The first field in which the commits of a worker's ranks differ though it concerns the worker as a whole."""
    first, *others = commits.values()
    for field in WORKER_WIDE:
        if any(getattr(other, field) != getattr(first, field) for other in others):
            return field
    return None


def _text(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."
