"""What the steps of a closed round add to the parameters, and what of them they replace. Pure."""

from collections.abc import Sequence

import numpy as np

from ..protos.registrar_pb2 import Contribution
from .effects import AppliedPart
from .steps import OpenStep, StagedFrame

AppliedStep = tuple[Contribution, OpenStep]


def gradient_parts(applied: Sequence[AppliedStep], total: float) -> list[AppliedPart]:
    """Gradients with their weights in the sum; `total` is the weight of all contributions together.

    A step without samples takes part only if it has frames: one that replaces values has neither.
    """
    if total <= 0:
        return []
    return [
        AppliedPart(
            contribution.worker_id,
            float(np.float32(contribution.num_samples * contribution.scale / total)),
            step.frames,
        )
        for contribution, step in applied
        if contribution.num_samples > 0 or step.frames
    ]


def replacements(applied: Sequence[AppliedStep]) -> list[dict[int, StagedFrame]]:
    """Values that replace others, in the order of the contributions."""
    return [step.values for _, step in applied if step.values and not step.averages]


def to_average(applied: Sequence[AppliedStep]) -> list[dict[int, StagedFrame]]:
    """Values whose mean replaces others, in the order of the contributions."""
    return [step.values for _, step in applied if step.values and step.averages]
