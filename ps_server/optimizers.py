"""torch's own optimizers, applied to lists of blocks: functional calls, state in flat buffers, no Optimizer objects.

Fused where torch has a fused CPU kernel (SGD, Adam, AdamW, Adagrad), `foreach` for RMSprop: fixed per optimizer, so that the
same job gives the same bits everywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from ..protos.common_pb2 import OptimizerSpecification
from ..protos.errors import SettingError


@dataclass(frozen=True)
class GroupValues:
    """One parameter group: numbers of this step, flags of the job."""

    numbers: Mapping[str, float]
    flags: Mapping[str, bool]


class BlockOptimizer(ABC):
    """Optimizer state of all blocks of a shard.

    Slots (momentum, ...) are flat FP32 buffers laid out like the parameters; `steps` counts each block's updates, as torch
    counts a parameter's. Calls for different blocks may run at the same time.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], num_elements: int) -> None:
        self._ranges = ranges
        self._num_elements = num_elements
        self._slots: dict[str, list[Tensor]] = {}
        self._steps = torch.zeros(len(ranges)).unbind()

    keeps_momentum_only_if_used = False

    @property
    def num_slots(self) -> int:
        """FP32 numbers kept for each parameter element."""
        return len(self._slots)

    @abstractmethod
    def update(
        self,
        blocks: Sequence[int],
        parameters: list[Tensor],
        gradients: list[Tensor],
        group: GroupValues,
    ) -> None:
        """Updates the parameters of these blocks (positions on the shard) in place; gradients may be overwritten."""

    def check(self, numbers: Mapping[str, float]) -> None:
        """Refuses numbers of a group that this state cannot be updated with.

        Raises:
            SettingError: momentum where none is kept.
        """
        if self.keeps_momentum_only_if_used and numbers.get("momentum", 0.0) and "momentum_buffer" not in self._slots:
            raise SettingError("momentum was 0 when the optimizer was made; it cannot be switched on later")

    def _add_slot(self, name: str, initial: float = 0.0) -> None:
        # calloc: pages of blocks that are never optimised are never touched
        flat = torch.zeros(self._num_elements)
        if initial:
            flat.fill_(initial)
        self._slots[name] = [flat[start:stop] for start, stop in self._ranges]

    def _of(self, name: str, blocks: Sequence[int]) -> list[Tensor]:
        views = self._slots.get(name)
        return [views[block] for block in blocks] if views is not None else []

    def _step_counts(self, blocks: Sequence[int]) -> list[Tensor]:
        return [self._steps[block] for block in blocks]


class Sgd(BlockOptimizer):
    """torch.optim.SGD."""

    keeps_momentum_only_if_used = True

    def __init__(self, ranges: Sequence[tuple[int, int]], num_elements: int, groups: Sequence[GroupValues]) -> None:
        super().__init__(ranges, num_elements)
        if any(group.numbers.get("momentum", 0.0) for group in groups):
            self._add_slot("momentum_buffer")

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
        kept = self._of("momentum_buffer", blocks) if momentum else []
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

    def __init__(self, ranges: Sequence[tuple[int, int]], num_elements: int, groups: Sequence[GroupValues]) -> None:
        super().__init__(ranges, num_elements)
        self._add_slot("exp_avg")
        self._add_slot("exp_avg_sq")
        if any(group.flags.get("amsgrad", False) for group in groups):
            self._add_slot("max_exp_avg_sq")

    def update(
        self,
        blocks: Sequence[int],
        parameters: list[Tensor],
        gradients: list[Tensor],
        group: GroupValues,
    ) -> None:
        numbers, amsgrad = group.numbers, group.flags.get("amsgrad", False)
        function = adamw if self.decoupled or group.flags.get("decoupled_weight_decay", False) else adam
        function(
            parameters,
            gradients,
            self._of("exp_avg", blocks),
            self._of("exp_avg_sq", blocks),
            self._of("max_exp_avg_sq", blocks) if amsgrad else [],
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

    def __init__(self, ranges: Sequence[tuple[int, int]], num_elements: int, groups: Sequence[GroupValues]) -> None:
        super().__init__(ranges, num_elements)
        self._add_slot("sum", initial=groups[0].numbers.get("initial_accumulator_value", 0.0))

    def update(
        self,
        blocks: Sequence[int],
        parameters: list[Tensor],
        gradients: list[Tensor],
        group: GroupValues,
    ) -> None:
        adagrad(
            parameters,
            gradients,
            self._of("sum", blocks),
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

    def __init__(self, ranges: Sequence[tuple[int, int]], num_elements: int, groups: Sequence[GroupValues]) -> None:
        super().__init__(ranges, num_elements)
        self._add_slot("square_avg")
        if any(group.flags.get("centered", False) for group in groups):
            self._add_slot("grad_avg")
        if any(group.numbers.get("momentum", 0.0) for group in groups):
            self._add_slot("momentum_buffer")

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
        rmsprop(
            parameters,
            gradients,
            self._of("square_avg", blocks),
            self._of("grad_avg", blocks) if centered else [],
            self._of("momentum_buffer", blocks) if momentum else [],
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


OPTIMIZERS: dict[str, type[Sgd] | type[Adam] | type[Adagrad] | type[RmsProp]] = {
    "SGD": Sgd,
    "Adam": Adam,
    "AdamW": AdamW,
    "Adagrad": Adagrad,
    "RMSprop": RmsProp,
}


def check_optimizer(specification: OptimizerSpecification) -> None:
    """Refuses an optimizer that the servers do not have, or groups without numbers.

    Raises:
        SettingError: names the optimizers there are, or what is missing.
    """
    optimizer = optimizer_for(specification, [(0, 1)], 1)
    for group in specification.groups:
        values = GroupValues(dict(group.numbers), dict(group.flags))
        try:
            optimizer.update([0], [torch.ones(1)], [torch.ones(1)], values)
        except KeyError as missing:
            raise SettingError(f"optimizer {specification.name} needs {missing} in every parameter group") from None


def optimizer_for(
    specification: OptimizerSpecification, ranges: Sequence[tuple[int, int]], num_elements: int
) -> BlockOptimizer:
    """The optimizer that a specification names, with fresh state.

    Args:
        ranges: start and stop of each block in the flat parameter buffer.
        num_elements: of that buffer.

    Raises:
        SettingError: no such optimizer here, or a group without its numbers.
    """
    kind = OPTIMIZERS.get(specification.name)
    if kind is None:
        raise SettingError(f"optimizer {specification.name} is not one of {', '.join(OPTIMIZERS)}")
    groups = [GroupValues(dict(group.numbers), dict(group.flags)) for group in specification.groups]
    if not groups or any("lr" not in group.numbers for group in groups):
        raise SettingError(f"optimizer {specification.name} needs at least one parameter group, each with lr")
    return kind(ranges, num_elements, groups)
