"""What torch.amp.GradScaler tells an optimizer whose `_step_supports_amp_scaling` is true: attributes set around `step()`."""

from dataclasses import dataclass

import numpy as np
import torch

from ..protos.errors import SettingError


@dataclass(frozen=True)
class LossScaling:
    """Of the step at hand; without a scaler, nothing is to be done."""

    factor: float
    """What the gradients have to be multiplied by."""
    overflow: bool
    """A gradient is not finite: the step must not count."""
    unchanged: bool
    """False: the scaler has divided the gradients already, without a trace."""


def loss_scaling_of(optimizer: torch.optim.Optimizer) -> LossScaling:
    """Reads `grad_scale` and `found_inf`."""
    scale = getattr(optimizer, "grad_scale", None)
    found_inf = getattr(optimizer, "found_inf", None)
    return LossScaling(
        factor=1.0 if scale is None else reciprocal(float(scale)),
        overflow=found_inf is not None and float(found_inf) > 0,
        unchanged=found_inf is None or scale is not None,
    )


def check_same_on_all(factor: float, sum_of_factors: float, num_ranks: int) -> None:
    """Raises SettingError unless the ranks of a worker, whose factors have this sum, divide by the same loss scale."""
    if sum_of_factors != num_ranks * factor:
        raise SettingError(
            "the ranks of this worker have different loss scales; use worker.grad_scaler(), which asks all of them about an "
            "overflow, instead of torch.amp.GradScaler"
        )


def reciprocal(scale: float) -> float:
    """One over the scale, rounded as torch rounds it."""
    return float(np.float32(1.0 / scale))
