"""Where the state of an optimizer is kept between updates: as FP32, or moments in 8 bits."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ...compression import moment_kernels as kernels
from ...compression.encoder import block_seed
from ...compression.warm_up import one_at_a_time
from .scratch import ThreadScratch

Views = Mapping[str, list[Tensor]]
"""By slot, a flat FP32 tensor for each block that was asked for."""


class Slot(Enum):
    """What numbers of a slot mean."""

    SIGNED_MEAN = "signed mean"
    """A decaying mean of any sign: gradients."""
    UNSIGNED_MEAN = "unsigned mean"
    """A decaying mean that is never negative: squares."""
    EXACT = "exact"
    """What only grows, or is subtracted from another slot: small errors would not die out."""


class Slots(ABC):
    """FP32 numbers of an optimizer for each parameter element, a slot for each kind of number.

    Blocks are named by position. Calls for different blocks may run at the same time.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], num_elements: int) -> None:
        self._ranges = ranges
        self._num_elements = num_elements
        self._floats: dict[str, list[Tensor]] = {}

    @property
    @abstractmethod
    def bytes_per_element(self) -> float:
        """Memory of all slots for one parameter element."""

    @abstractmethod
    def __contains__(self, name: str) -> bool:
        """Whether there is a slot of this name."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of all slots."""

    @abstractmethod
    def read(self, name: str, block: int) -> Tensor:
        """A slot of a block, only to be read; float32, flat."""

    @abstractmethod
    def add(self, name: str, kind: Slot, initial: float = 0.0) -> None:
        """A new slot, full of `initial`."""

    @abstractmethod
    def opened(self, names: Sequence[str], blocks: Sequence[int]) -> AbstractContextManager[Views]:
        """A context whose value are these slots of these blocks: what is written into them before it ends is kept."""

    def _add_floats(self, name: str, initial: float) -> None:
        # calloc: pages of blocks that are never optimised are never touched
        flat = torch.zeros(self._num_elements)
        if initial:
            flat.fill_(initial)
        self._floats[name] = [flat[start:stop] for start, stop in self._ranges]


class FloatSlots(Slots):
    """Every slot in FP32."""

    @property
    def bytes_per_element(self) -> float:
        return 4.0 * len(self._floats)

    def __contains__(self, name: str) -> bool:
        return name in self._floats

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._floats)

    def read(self, name: str, block: int) -> Tensor:
        return self._floats[name][block]

    def add(self, name: str, kind: Slot, initial: float = 0.0) -> None:
        self._add_floats(name, initial)

    @contextmanager
    def opened(self, names: Sequence[str], blocks: Sequence[int]) -> Iterator[Views]:
        yield {name: [self._floats[name][block] for block in blocks] for name in names}


class _CodedSlot:
    """One slot of all blocks in 8 bits. Zeros are zeros of every kind: fresh memory is a slot full of zeros."""

    def __init__(self, ranges: Sequence[tuple[int, int]], num_elements: int, kind: Slot, number: int) -> None:
        sizes = [stop - start for start, stop in ranges]
        group_ends = np.cumsum([0, *map(kernels.num_groups, sizes)])
        self._codes = np.zeros(num_elements, dtype=np.uint8)
        self._tops = np.zeros(int(group_ends[-1]), dtype=np.int16)
        self._ranges = [slice(start, stop) for start, stop in ranges]
        self._groups = [slice(start, stop) for start, stop in pairwise(group_ends)]
        self._signed = kind is Slot.SIGNED_MEAN
        self._number = number

    def read(self, block: int, values: np.ndarray) -> None:
        decode = kernels.decode_signed if self._signed else kernels.decode_unsigned
        decode(self._codes[self._ranges[block]], self._tops[self._groups[block]], values)

    def write(self, block: int, values: np.ndarray, num_writes: int) -> None:
        encode = kernels.encode_signed if self._signed else kernels.encode_unsigned
        seed = block_seed(block, num_writes << 8 | self._number)
        encode(
            values,
            self._codes[self._ranges[block]],
            self._tops[self._groups[block]],
            np.uint32((seed ^ seed >> 32) & 0xFFFFFFFF),
        )


class EightBitSlots(Slots):
    """Decaying means in 8 bits, decoded into the thread's scratch while they are open; other slots in FP32.

    The same sequence of updates gives the same bits: what rounding draws depends on the block's position on the shard and
    on how often it was written.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], num_elements: int) -> None:
        super().__init__(ranges, num_elements)
        self._coded: dict[str, _CodedSlot] = {}
        self._writes = np.zeros(len(ranges), dtype=np.int64)
        self._scratch = ThreadScratch()
        if ranges:  # who only asks how much memory it takes, as the registrar does, need not wait for the compiler
            warm_up()

    @property
    def bytes_per_element(self) -> float:
        return 4.0 * len(self._floats) + len(self._coded) * (1.0 + 2.0 / kernels.GROUP)

    def __contains__(self, name: str) -> bool:
        return name in self._floats or name in self._coded

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._coded, *self._floats)

    def read(self, name: str, block: int) -> Tensor:
        if name in self._floats:
            return self._floats[name][block]
        start, stop = self._ranges[block]
        values = np.empty(stop - start, np.float32)
        self._coded[name].read(block, values)
        return torch.from_numpy(values)

    def add(self, name: str, kind: Slot, initial: float = 0.0) -> None:
        if kind is Slot.EXACT or initial:
            self._add_floats(name, initial)
        else:
            self._coded[name] = _CodedSlot(self._ranges, self._num_elements, kind, len(self._coded))

    @contextmanager
    def opened(self, names: Sequence[str], blocks: Sequence[int]) -> Iterator[Views]:
        coded = [name for name in names if name in self._coded]
        sizes = [self._ranges[block][1] - self._ranges[block][0] for block in blocks]
        ends = np.cumsum([0, *(sizes * len(coded))])
        scratch = self._scratch.take(int(ends[-1]))
        parts = iter([scratch[start:stop] for start, stop in pairwise(ends)])
        arrays = {name: [next(parts) for _ in blocks] for name in coded}
        for name in coded:
            for block, array in zip(blocks, arrays[name], strict=True):
                self._coded[name].read(block, array)
        views = {name: [torch.from_numpy(array) for array in arrays[name]] for name in coded}
        yield views | {name: [self._floats[name][block] for block in blocks] for name in names if name not in coded}
        for position, block in enumerate(blocks):
            for name in coded:
                self._coded[name].write(block, arrays[name][position], int(self._writes[block]))
            self._writes[block] += 1


def warm_up() -> None:
    """Compiles the kernels, or loads them from the disk cache."""
    values, codes, tops = np.zeros(1, np.float32), np.zeros(1, np.uint8), np.zeros(1, np.int16)
    with one_at_a_time():
        for encode, decode in (
            (kernels.encode_signed, kernels.decode_signed),
            (kernels.encode_unsigned, kernels.decode_unsigned),
        ):
            encode(values, codes, tops, np.uint32(0))
            decode(codes, tops, values)


SLOTS: dict[str, type[FloatSlots] | type[EightBitSlots]] = {"fp32": FloatSlots, "int8": EightBitSlots}
"""By the job's `optimizer_state`."""
