"""torch's own optimizers, applied to lists of blocks: functional calls on opened slots, no Optimizer objects.

Fused where torch has a fused CPU kernel (SGD, Adam, AdamW, Adagrad), `foreach` for RMSprop: fixed per optimizer, so that the
same job gives the same bits everywhere.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from .base import BlockOptimizer, GroupValues
from .slots import Slot


class Sgd(BlockOptimizer):
    """torch.optim.SGD."""

    keeps_momentum_only_if_used = True

    def _add_slots(self, groups: Sequence[GroupValues]) -> None:
        if any(group.numbers.get("momentum", 0.0) for group in groups):
            self._slots.add("momentum_buffer", Slot.SIGNED_MEAN)

    def update(
        self,
        blocks: Sequence[int],
        parameters: list[Tensor],
        gradients: list[Tensor],
        group: GroupValues,
    ) -> None:
        self.check(group.numbers)
        momentum = group.numbers.get("momentum", 0.0)
        # torch's first step copies the gradient into the buffer, undamped: told apart by a missing buffer
        first_step = [bool(self._steps[block] == 0) for block in blocks]
        for fresh in set(first_step):
            chosen = [i for i in range(len(blocks)) if first_step[i] == fresh]
            self._update(
                [blocks[i] for i in chosen],
                [parameters[i] for i in chosen],
                [gradients[i] for i in chosen],
                group,
                momentum,
                fresh,
            )

    def _update(
        self,
        blocks: Sequence[int],
        parameters: list[Tensor],
        gradients: list[Tensor],
        group: GroupValues,
        momentum: float,
        fresh: bool,
    ) -> None:
        names = ("momentum_buffer",) if momentum else ()
        with self._slots.opened(names, blocks) as slots:
            kept = slots["momentum_buffer"] if momentum else []
            buffers: list[Tensor | None] = list(kept) if kept and not fresh else [None] * len(blocks)
            sgd(
                parameters,
                gradients,
                buffers,
                has_sparse_grad=False,
                foreach=False,
                fused=True,
                weight_decay=group.numbers.get("weight_decay", 0.0),
                momentum=momentum,
                lr=group.numbers["lr"],
                dampening=group.numbers.get("dampening", 0.0),
                nesterov=group.flags.get("nesterov", False),
                maximize=group.flags.get("maximize", False),
            )
            if kept and fresh:
                torch._foreach_copy_(kept, [buffer for buffer in buffers if buffer is not None])
        torch._foreach_add_(self._step_counts(blocks), 1)


class Adam(BlockOptimizer):
    """torch.optim.Adam and, with decoupled weight decay, torch.optim.AdamW."""

    decoupled = False

    def _add_slots(self, groups: Sequence[GroupValues]) -> None:
        self._slots.add("exp_avg", Slot.SIGNED_MEAN)
        self._slots.add("exp_avg_sq", Slot.UNSIGNED_MEAN)
        if any(group.flags.get("amsgrad", False) for group in groups):
            self._slots.add("max_exp_avg_sq", Slot.EXACT)

    def update(
        self,
        blocks: Sequence[int],
        parameters: list[Tensor],
        gradients: list[Tensor],
        group: GroupValues,
    ) -> None:
        numbers, amsgrad = group.numbers, group.flags.get("amsgrad", False)
        function = adamw if self.decoupled or group.flags.get("decoupled_weight_decay", False) else adam
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if amsgrad else ("exp_avg", "exp_avg_sq")
        with self._slots.opened(names, blocks) as slots:
            function(
                parameters,
                gradients,
                slots["exp_avg"],
                slots["exp_avg_sq"],
                slots.get("max_exp_avg_sq", []),
                self._step_counts(blocks),
                foreach=False,
                fused=True,
                amsgrad=amsgrad,
                beta1=numbers["betas.0"],
                beta2=numbers["betas.1"],
                lr=numbers["lr"],
                weight_decay=numbers["weight_decay"],
                eps=numbers["eps"],
                maximize=group.flags.get("maximize", False),
            )


class AdamW(Adam):
    """torch.optim.AdamW."""

    decoupled = True


class Adagrad(BlockOptimizer):
    """torch.optim.Adagrad."""

    def _add_slots(self, groups: Sequence[GroupValues]) -> None:
        self._slots.add("sum", Slot.EXACT, groups[0].numbers.get("initial_accumulator_value", 0.0))

    def update(
        self,
        blocks: Sequence[int],
        parameters: list[Tensor],
        gradients: list[Tensor],
        group: GroupValues,
    ) -> None:
        with self._slots.opened(("sum",), blocks) as slots:
            adagrad(
                parameters,
                gradients,
                slots["sum"],
                self._step_counts(blocks),
                fused=True,
                has_sparse_grad=False,
                foreach=False,
                lr=group.numbers["lr"],
                weight_decay=group.numbers["weight_decay"],
                lr_decay=group.numbers["lr_decay"],
                eps=group.numbers["eps"],
                maximize=group.flags.get("maximize", False),
            )


class RmsProp(BlockOptimizer):
    """torch.optim.RMSprop."""

    keeps_momentum_only_if_used = True

    def _add_slots(self, groups: Sequence[GroupValues]) -> None:
        centered = any(group.flags.get("centered", False) for group in groups)
        # centred, the square of one is subtracted from the other and the root is taken of what is left
        self._slots.add("square_avg", Slot.EXACT if centered else Slot.UNSIGNED_MEAN)
        if centered:
            self._slots.add("grad_avg", Slot.EXACT)
        if any(group.numbers.get("momentum", 0.0) for group in groups):
            self._slots.add("momentum_buffer", Slot.SIGNED_MEAN)

    def update(
        self,
        blocks: Sequence[int],
        parameters: list[Tensor],
        gradients: list[Tensor],
        group: GroupValues,
    ) -> None:
        numbers, centered = group.numbers, group.flags.get("centered", False)
        self.check(numbers)
        momentum = numbers.get("momentum", 0.0)
        names = ["square_avg"] + ["grad_avg"] * centered + ["momentum_buffer"] * bool(momentum)
        with self._slots.opened(names, blocks) as slots:
            rmsprop(
                parameters,
                gradients,
                slots["square_avg"],
                slots.get("grad_avg", []),
                slots.get("momentum_buffer", []),
                self._step_counts(blocks),
                foreach=True,
                lr=numbers["lr"],
                alpha=numbers["alpha"],
                eps=numbers["eps"],
                weight_decay=numbers["weight_decay"],
                momentum=momentum,
                centered=centered,
                maximize=group.flags.get("maximize", False),
            )
