"""The blocks a shard owns: values, versions and optimizer state. Pure; one owner at a time for each bundle."""

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ..protos.common_pb2 import OptimizerSpecification, ParameterGroup, Plan
from ..protos.errors import StepError
from .optimizers import GroupValues, optimizer_for


@dataclass(frozen=True)
class OwnedBlock:
    """One block of this shard: where it lies in the flat buffers."""

    block_id: int
    start: int
    stop: int
    group: int
    """Parameter group of the optimizer; -1 = never updated."""
    parameter: str
    parameter_index: int = 0
    """Position of the parameter in the plan."""

    @property
    def num_elements(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Bundle:
    """Consecutive blocks that are updated, published and sent together: one message."""

    number: int
    first: int
    last: int
    """Positions of its blocks on the shard: first <= position < last."""
    start: int
    stop: int
    """Elements in the flat buffers."""
    lock: threading.Lock = field(default_factory=threading.Lock, compare=False)
    """Held while its values or its published copy change or are read."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last))

    def __len__(self) -> int:
        return self.last - self.first


class BlockStore:
    """Values, versions and optimizer state of one shard's blocks, in flat FP32 buffers in block-id order.

    `versions[i]` counts the updates applied to block i of the shard: it rises only when its optimizer runs.
    """

    def __init__(
        self,
        plan: Plan,
        specification: OptimizerSpecification,
        shard: int,
        bundle_elements: int,
        optimizer_state: str = "fp32",
    ) -> None:
        self.blocks: list[OwnedBlock] = []
        start = 0
        for block_id, block in enumerate(plan.blocks):
            if block.shard != shard:
                continue
            stop = start + math.prod(block.sizes)
            parameter = plan.parameters[block.parameter]
            self.blocks.append(OwnedBlock(block_id, start, stop, parameter.group, parameter.name, block.parameter))
            start = stop
        self.num_elements = start
        self.block_elements: NDArray[np.int64] = np.array([b.num_elements for b in self.blocks], dtype=np.int64)
        """Of each block."""
        self._optimised = np.array([block.group >= 0 for block in self.blocks], dtype=np.bool_)
        self.position_of = {block.block_id: position for position, block in enumerate(self.blocks)}
        self.values = torch.zeros(start)
        self._array: NDArray[np.float32] = self.values.numpy()
        self.versions: NDArray[np.int64] = np.zeros(len(self.blocks), dtype=np.int64)
        self.replaced_at: NDArray[np.int64] = np.full(len(self.blocks), -1, dtype=np.int64)
        """Version that each block got when its values were last replaced; -1 = never."""
        self.bundles = list(bundles_of(self.blocks, bundle_elements))
        self.bundle_of = np.zeros(len(self.blocks), dtype=np.int64)
        for bundle in self.bundles:
            self.bundle_of[bundle.first : bundle.last] = bundle.number
        self._number_names = [set(group.numbers) for group in specification.groups]
        self.flags = [dict(group.flags) for group in specification.groups]
        ranges = [(block.start, block.stop) for block in self.blocks]
        self.optimizer = optimizer_for(specification, ranges, start, optimizer_state)
        self._views = [self.values[block.start : block.stop] for block in self.blocks]

    @property
    def pushed_ids(self) -> set[int]:
        """Ids of the blocks that gradients are pushed for."""
        return {block.block_id for block in self.blocks if block.group >= 0}

    @property
    def version_spread(self) -> int:
        """Largest minus smallest version of the blocks that are optimised, in updates."""
        versions = self.versions[self._optimised]
        return int(versions.max() - versions.min()) if versions.size else 0

    @property
    def parameter_bytes(self) -> int:
        return 4 * self.num_elements

    @property
    def optimizer_state_bytes(self) -> float:
        return self.optimizer.bytes_per_element * self.num_elements

    def array(self, block: OwnedBlock) -> NDArray[np.float32]:
        """The values of one block, shared, not copied; float32 [num_elements]."""
        return self._array[block.start : block.stop]

    def check_groups(self, groups: Sequence[ParameterGroup]) -> None:
        """Refuses group values that the optimizer could not be run with: it must not fail half-way.

        Raises:
            StepError: other groups or numbers than the job's, or one that is not finite.
            SettingError: see `BlockOptimizer.check`.
        """
        names = [set(group.numbers) for group in groups]
        if names != self._number_names:
            raise StepError("the step does not carry the numbers of every parameter group of the job")
        for group in groups:
            if not all(math.isfinite(number) for number in group.numbers.values()):
                raise StepError("a number of a parameter group is not finite")
            self.optimizer.check(group.numbers)

    def update(
        self,
        positions: Sequence[int],
        gradients: Sequence[torch.Tensor],
        numbers: dict[str, float],
        group: int,
    ) -> None:
        """Runs the optimizer on blocks of one group and raises their versions."""
        self.optimizer.update(positions, self.views(positions), list(gradients), self.group(group, numbers))
        self.raise_versions(positions)

    def views(self, positions: Sequence[int]) -> list[torch.Tensor]:
        """The values of some blocks, shared, not copied; float32 [num_elements] each."""
        return [self._views[position] for position in positions]

    def group(self, number: int, numbers: dict[str, float]) -> GroupValues:
        """A parameter group with the numbers of a step."""
        return GroupValues(numbers, self.flags[number])

    def replaced(self, positions: Sequence[int]) -> None:
        """The values of these blocks have nothing to do with those before."""
        self.raise_versions(positions)
        self.replaced_at[positions] = self.versions[positions]

    def raise_versions(self, positions: Sequence[int]) -> None:
        """These blocks were updated."""
        for position in positions:
            self.versions[position] += 1


def bundles_of(blocks: Sequence[OwnedBlock], bundle_elements: int) -> Iterator[Bundle]:
    """Cuts a shard's blocks into bundles of at most so many elements, unless a single block is larger."""
    number, first = 0, 0
    for position, block in enumerate(blocks):
        if position > first and block.stop - blocks[first].start > bundle_elements:
            yield Bundle(number, first, position, blocks[first].start, blocks[position - 1].stop)
            number, first = number + 1, position
    if blocks:
        yield Bundle(number, first, len(blocks), blocks[first].start, blocks[-1].stop)
