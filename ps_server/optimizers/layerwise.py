"""Optimizers that scale the update of each parameter by norms of the whole parameter: LARS and LAMB.

An update has two halves, with the norms between them, since blocks of one parameter lie on several shards: `prepare` makes
raw updates and moves the moments on, `finish` scales the updates and adds them to the parameters.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

from ...compression.kernels import sum_of_squares
from .base import BlockOptimizer, GroupValues
from .scratch import ThreadScratch
from .slots import Slot, Slots
from .torch_optimizers import Sgd

BYTES_OF_HELD_UPDATE = 4.0


def square(values: Tensor) -> float:
    """Sum of squares in float64, in order; `values` is float32 and flat."""
    return float(sum_of_squares(values.numpy()))


class LayerwiseOptimizer(BlockOptimizer):
    """An optimizer with a trust ratio for each parameter. The group's flag `adapt` turns it off (ratio 1)."""

    @property
    def bytes_per_element(self) -> float:
        """Includes the update that is held until the norms of all shards are known."""
        return super().bytes_per_element + BYTES_OF_HELD_UPDATE

    @abstractmethod
    def prepare(
        self, blocks: Sequence[int], parameters: list[Tensor], gradients: list[Tensor], group: GroupValues
    ) -> None:
        """Turns gradients into raw updates, in place. Parameters are only read."""

    @abstractmethod
    def finish(
        self,
        blocks: Sequence[int],
        parameters: list[Tensor],
        updates: list[Tensor],
        ratios: Sequence[float],
        group: GroupValues,
    ) -> None:
        """Subtracts learning rate x ratio x update, a ratio for each block; updates are overwritten."""

    def trust_ratio(self, weight_square: float, update_square: float, group: GroupValues) -> float:
        """From the sums of squares of a whole parameter and of its raw update.

        1 where either is zero, as for a parameter that starts at zero, or not finite.
        """
        weight, update = math.sqrt(weight_square), math.sqrt(update_square)
        usable = 0 < weight < math.inf and 0 < update < math.inf
        return self._ratio(weight, update, group) if usable and group.flags.get("adapt", True) else 1.0

    def update(
        self, blocks: Sequence[int], parameters: list[Tensor], gradients: list[Tensor], group: GroupValues
    ) -> None:
        """As if each block were a whole parameter."""
        self.prepare(blocks, parameters, gradients, group)
        pairs = zip(parameters, gradients, strict=True)
        ratios = [self.trust_ratio(square(parameter), square(update), group) for parameter, update in pairs]
        self.finish(blocks, parameters, gradients, ratios, group)

    @abstractmethod
    def _ratio(self, weight: float, update: float, group: GroupValues) -> float:
        """From two norms that are not zero."""


class Lars(LayerwiseOptimizer, Sgd):
    """`pushpull.worker.LARS`: SGD whose gradients, with weight decay, are scaled by their parameters' trust ratios.

    The raw update is the gradient itself.
    """

    def prepare(
        self, blocks: Sequence[int], parameters: list[Tensor], gradients: list[Tensor], group: GroupValues
    ) -> None:
        self.check(group.numbers)

    def finish(
        self,
        blocks: Sequence[int],
        parameters: list[Tensor],
        updates: list[Tensor],
        ratios: Sequence[float],
        group: GroupValues,
    ) -> None:
        decay = group.numbers["weight_decay"]
        if decay:
            torch._foreach_add_(updates, parameters, alpha=decay)
        torch._foreach_mul_(updates, list(ratios))
        decayed = GroupValues({**group.numbers, "weight_decay": 0.0}, group.flags)
        Sgd.update(self, blocks, parameters, updates, decayed)

    def _ratio(self, weight: float, update: float, group: GroupValues) -> float:
        numbers = group.numbers
        return numbers["trust_coefficient"] * weight / (update + numbers["weight_decay"] * weight + numbers["eps"])


class Lamb(LayerwiseOptimizer):
    """`pushpull.worker.LAMB`: the direction of Adam plus decoupled weight decay, scaled to the norm of the parameter."""

    def __init__(self, num_blocks: int, slots: Slots, groups: Sequence[GroupValues]) -> None:
        super().__init__(num_blocks, slots, groups)
        self._scratch = ThreadScratch()

    def _add_slots(self, groups: Sequence[GroupValues]) -> None:
        self._slots.add("exp_avg", Slot.SIGNED_MEAN)
        self._slots.add("exp_avg_sq", Slot.UNSIGNED_MEAN)

    def prepare(
        self, blocks: Sequence[int], parameters: list[Tensor], gradients: list[Tensor], group: GroupValues
    ) -> None:
        numbers = group.numbers
        directions = self._zeros_like(gradients)
        with self._slots.opened(("exp_avg", "exp_avg_sq"), blocks) as slots:
            # torch's fused Adam, started from zero with learning rate 1, gives minus the direction
            adam(
                directions,
                gradients,
                slots["exp_avg"],
                slots["exp_avg_sq"],
                [],
                self._step_counts(blocks),
                foreach=False,
                fused=True,
                amsgrad=False,
                beta1=numbers["betas.0"],
                beta2=numbers["betas.1"],
                lr=1.0,
                weight_decay=0.0,
                eps=numbers["eps"],
                maximize=False,
            )
        torch._foreach_copy_(gradients, parameters)
        torch._foreach_mul_(gradients, numbers["weight_decay"])
        torch._foreach_sub_(gradients, directions)

    def finish(
        self,
        blocks: Sequence[int],
        parameters: list[Tensor],
        updates: list[Tensor],
        ratios: Sequence[float],
        group: GroupValues,
    ) -> None:
        torch._foreach_mul_(updates, [group.numbers["lr"] * ratio for ratio in ratios])
        torch._foreach_sub_(parameters, updates)

    def _ratio(self, weight: float, update: float, group: GroupValues) -> float:
        return weight / update

    def _zeros_like(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        sizes = [tensor.numel() for tensor in tensors]
        return list(torch.split(torch.from_numpy(self._scratch.take(sum(sizes))).zero_(), sizes))
