"""The model's memory seen as blocks: gradients are read from it, pulled values are written into it."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from ..compression.carried_words import put_words, words_of
from ..compression.checksum import checksum, checksum_of_tensor
from ..compression.frame import Frame
from .local_tensors import local_tensor
from .plan import PlanBlock

Floats = NDArray[np.float32]


class TensorMemory:
    """The live tensors behind a plan's entries: of divided ones, the part that lies in this process.

    Blocks have their offsets and spans in these tensors.

    `write` may be called from several threads for different blocks, between `refresh` and `publish`, which the training
    thread calls. Tensors change only in between; what somebody else has written there, `changed` tells.
    """

    def __init__(
        self,
        tensors: Sequence[torch.Tensor | None],
        before_writing: Callable[[], None] = lambda: None,
        words: Collection[int] = (),
        live: Mapping[int, Callable[[], torch.Tensor]] | None = None,
    ) -> None:
        """`tensors` by plan entry, None for one that this process does not hold.

        Args:
            before_writing: makes them writable.
            words: entries that travel as words, see `carried_words`.
            live: of entries whose tensor may be another one later, the one that it is now.
        """
        self._words = frozenset(words)
        self._words_lock = threading.Lock()
        self._tensors = tuple(tensors)
        self._live = live or {}
        self._before_writing = before_writing
        self._flat: list[_FlatView | None] = [None] * len(self._tensors)
        self._written: set[int] = set()
        self._changed: set[int] = set()
        self._checksums: dict[int, int] = {}
        """By block: of what was written there last."""

    def refresh(self) -> None:
        """Looks again where the tensors lie: a model may be moved between steps."""
        self._before_writing()
        for entry, tensor in enumerate(self._tensors):
            if tensor is not None and entry not in self._words:
                self._look(entry, self._local(entry))

    def write(self, block: PlanBlock, frame: Frame) -> None:
        """Replaces a block's values by a frame's."""
        self._changed.add(block.id)
        part = self._place_of(block)
        if part is not None:
            frame.decode_into(part)
            self._note(block, part)
            return
        values = np.empty(block.num_elements, np.float32)
        frame.decode_into(values)
        self.copy(block, values)

    def copy(self, block: PlanBlock, values: Floats) -> None:
        """Replaces a block's values by others, float32 [n]."""
        self._changed.add(block.id)
        part = self._place_of(block)
        if part is not None:
            part[:] = values
            self._note(block, part)
            return
        local = self._local(block.entry)
        if block.entry in self._words:
            with self._words_lock:  # other threads write other blocks, and this writes all of them
                words = words_of(local)
                _part(words, block)[:] = values
                put_words(local, words)
            self._checksums[block.id] = checksum(values)
            return
        with torch.no_grad():
            block_of(local, block).copy_(torch.from_numpy(values).view(block.sizes))
        # Of a narrower type, what is there now is not what was written.
        self._checksums[block.id] = _checksum_of_block(local, block)

    def has_changed(self, block: PlanBlock) -> bool:
        """Whether its values were replaced since `publish`."""
        return block.id in self._changed

    def publish(self) -> None:
        """Tells autograd which tensors were written through their memory."""
        self._changed.clear()
        for entry in self._written:
            torch.autograd.graph.increment_version(self._held(entry))
        self._written.clear()

    def changed(self, blocks: Iterable[PlanBlock]) -> list[PlanBlock]:
        """Those of these blocks whose bits are not what was written there last. Of what was never written, none.

        Fastest when blocks of the same entry follow one another.
        """
        known = (block for block in blocks if block.id in self._checksums)
        return [
            block
            for entry, of_entry in groupby(known, key=lambda block: block.entry)
            for block, found in self._checksums_of(entry, list(of_entry))
            if found != self._checksums[block.id]
        ]

    def values(self, block: PlanBlock) -> Floats:
        """A block's values, or words, now: float32, contiguous."""
        if block.entry in self._words:
            return _part(words_of(self._local(block.entry)), block)
        ((_, values),) = values_of_blocks(self._local(block.entry), [block])
        return values

    def is_floating(self, entry: int) -> bool:
        """Whether this process holds the entry, and it holds numbers with a fraction."""
        tensor = self._tensors[entry]
        return tensor is not None and tensor.is_floating_point()

    def is_words(self, entry: int) -> bool:
        """Whether it travels as words, which nobody can compute with."""
        return entry in self._words

    def note(self, block: PlanBlock, values: Floats) -> None:
        """These values, which `values` gave, count as written: `changed` is to say what differs from them."""
        self._checksums[block.id] = checksum(values)

    def _checksums_of(self, entry: int, blocks: Sequence[PlanBlock]) -> Iterator[tuple[PlanBlock, int]]:
        tensor = self._local(entry)
        if entry in self._words:
            words = words_of(tensor)
            return ((block, checksum(_part(words, block))) for block in blocks)
        if tensor.is_cuda:
            return ((block, _checksum_of_block(tensor, block)) for block in blocks)
        found = _values_of_blocks(tensor, blocks, self._look(entry, tensor))
        return ((block, checksum(values)) for block, values in found)

    def _look(self, entry: int, local: torch.Tensor) -> Floats | None:
        """The entry's memory in one piece, if it is that."""
        known = self._flat[entry]
        if known is None or not known.is_of(local):
            known = self._flat[entry] = _FlatView.of(local)
        return None if known is None else known.values

    def _place_of(self, block: PlanBlock) -> Floats | None:
        """The block's place in memory, if it is one piece."""
        flat = self._flat[block.entry]
        return None if flat is None or block.span is None else flat.values[slice(*block.span)]

    def _note(self, block: PlanBlock, values: Floats) -> None:
        """Written through memory, while it is still in the processor's cache."""
        self._written.add(block.entry)
        self._checksums[block.id] = checksum(values)

    def _held(self, entry: int) -> torch.Tensor:
        live = self._live.get(entry)
        tensor = self._tensors[entry] if live is None else live()
        assert tensor is not None, "a block of a tensor that this process does not hold"
        return tensor

    def _local(self, entry: int) -> torch.Tensor:
        return local_tensor(self._held(entry))


def block_of(tensor: torch.Tensor, block: PlanBlock) -> torch.Tensor:
    """The block as a view, in its own shape."""
    view = tensor.detach()
    for dimension, (offset, size) in enumerate(zip(block.offsets, block.sizes, strict=True)):
        if size != view.shape[dimension]:
            view = view.narrow(dimension, offset, size)
    return view


def _part(words: Floats, block: PlanBlock) -> Floats:
    """A block of words is a run of them."""
    return words[block.offsets[0] : block.offsets[0] + block.sizes[0]]


def _checksum_of_block(tensor: torch.Tensor, block: PlanBlock) -> int:
    """On a GPU there: nothing else of the block has to come here. Other devices may lack what it takes."""
    if tensor.is_cuda:
        return checksum_of_tensor(block_of(tensor, block).reshape(-1).float().contiguous())
    return checksum(_copied_values(tensor, block))


def values_of_blocks(tensor: torch.Tensor, blocks: Sequence[PlanBlock]) -> Iterator[tuple[PlanBlock, Floats]]:
    """Blocks of one tensor, each with its elements as contiguous float32 [n] in CPU memory: views where they lie so already.

    torch is asked once for all of them: each call into it gives the interpreter's lock away and has to get it back.
    """
    return _values_of_blocks(tensor, blocks, _flat_values(tensor))


def _values_of_blocks(
    tensor: torch.Tensor, blocks: Sequence[PlanBlock], flat: Floats | None
) -> Iterator[tuple[PlanBlock, Floats]]:
    for block in blocks:
        if flat is not None and block.span is not None:
            yield block, flat[slice(*block.span)]
        else:
            yield block, _copied_values(tensor, block)


def _copied_values(tensor: torch.Tensor, block: PlanBlock) -> Floats:
    part = block_of(tensor, block).reshape(-1)
    if part.is_cuda:
        pinned = torch.empty(part.shape, dtype=part.dtype, pin_memory=True)
        part = pinned.copy_(part)
    values: Floats = part.to(device="cpu", dtype=torch.float32).contiguous().numpy()
    return values


@dataclass(frozen=True)
class _FlatView:
    """A tensor's own memory as float32 [n]. It keeps the memory, so nothing else can lie at that address meanwhile."""

    address: int
    values: Floats

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "_FlatView | None":
        """None if it does not lie in one piece on the CPU."""
        flat = _flat_values(tensor)
        return None if flat is None else cls(tensor.data_ptr(), flat)

    def is_of(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor still lies there. Asks torch for nothing that gives the interpreter's lock away."""
        return (
            tensor.is_cpu
            and tensor.dtype == torch.float32
            and tensor.data_ptr() == self.address
            and tensor.numel() == self.values.size
            and tensor.is_contiguous()
            and not tensor.is_neg()
        )


def _flat_values(tensor: torch.Tensor) -> Floats | None:
    """The tensor's own memory as float32 [n], if it lies in one piece on the CPU."""
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or not tensor.is_contiguous():
        return None
    flat: Floats = tensor.detach().view(-1).numpy()
    return flat
