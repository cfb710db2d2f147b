"""Loss scaling for a worker of several ranks.

torch's own scaler decides on each rank alone, or asks along the mesh of the first gradient only: ranks then disagree about an
overflow in silence. Here all ranks of the worker agree on every step.
"""

from typing import Any

import torch

from ..local_tensors import local_tensor
from .group import Ranks


class RankGradScaler(torch.amp.GradScaler):
    """One scale for the whole worker: a gradient that is not finite on any rank skips the step on all of them."""

    def __init__(self, ranks: Ranks, device: str, **settings: Any) -> None:
        super().__init__(device, **settings)
        self._ranks = ranks
        # A pipeline stage that computes no loss never calls scale(), and would have no scale to update.
        self.scale(torch.zeros((), device=device))

    def _unscale_grads_(
        self, optimizer: torch.optim.Optimizer, inv_scale: torch.Tensor, found_inf: torch.Tensor, allow_fp16: bool
    ) -> dict[torch.device, torch.Tensor]:
        """Called by torch for `unscale_` and, with a factor of 1, to look for overflows (a private method of its)."""
        parts: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    part = local_tensor(parameter.grad)
                    parts.setdefault((part.device, part.dtype), []).append(part)
        found = found_inf.clone()
        for (device, _), tensors in parts.items():
            on_device = found_inf.to(device)
            torch._amp_foreach_non_finite_check_and_unscale_(tensors, on_device, inv_scale.to(device))
            found += on_device.to(found.device)
        anywhere = self._ranks.sums([float(found)])[0] > 0
        return {found_inf.device: torch.full_like(found_inf, float(anywhere))}
