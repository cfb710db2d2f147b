"""What every optimizer on a shard can do."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...protos.errors import SettingError
from .slots import Slots


@dataclass(frozen=True)
class GroupValues:
    """One parameter group: numbers of this step, flags of the job."""

    numbers: Mapping[str, float]
    flags: Mapping[str, bool]


class BlockOptimizer(ABC):
    """Optimizer state of all blocks of a shard.

    `slots` holds what is kept for each element (momentum, ...); `_steps` counts each block's updates, as torch counts a
    parameter's. Calls for different blocks may run at the same time.
    """

    keeps_momentum_only_if_used: ClassVar[bool] = False

    def __init__(self, num_blocks: int, slots: Slots, groups: Sequence[GroupValues]) -> None:
        self._slots = slots
        self._steps = torch.zeros(num_blocks).unbind()
        self._add_slots(groups)

    @abstractmethod
    def _add_slots(self, groups: Sequence[GroupValues]) -> None:
        """Makes the slots that an optimizer with these groups needs."""

    @property
    def bytes_per_element(self) -> float:
        """Memory for each parameter element, beside its value."""
        return self._slots.bytes_per_element

    @property
    def slot_names(self) -> tuple[str, ...]:
        """What is kept for each element, by torch's names."""
        return self._slots.names

    def slot(self, name: str, block: int) -> Tensor:
        """A slot of a block (position on the shard), only to be read; float32, flat."""
        return self._slots.read(name, block)

    def num_updates(self, block: int) -> int:
        """How often a block was updated."""
        return int(self._steps[block])

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

    def _step_counts(self, blocks: Sequence[int]) -> list[Tensor]:
        return [self._steps[block] for block in blocks]
