"""Parameter table -> blocks -> shards. Pure and deterministic: every worker computes the same plan."""

import hashlib
import heapq
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..protos import common_pb2
from ..protos.errors import SettingError
from .grid import UNCUT, Box, Grid

LARGEST_BLOCK_ELEMENTS = 1 << 20
SMALLEST_BLOCK_ELEMENTS = 64
BLOCKS_PER_MODEL = 64
BYTES_PER_ELEMENT = 4
BLOCK_ELEMENTS_LIMIT = 1 << 21
"""A block's FP32 frame must fit into one message with room to spare."""


@dataclass(frozen=True)
class TableEntry:
    """One named tensor of the model: a parameter, or behind the parameters a buffer that is saved."""

    name: str
    shape: tuple[int, ...]
    trainable: bool
    aliases: tuple[str, ...] = ()
    group: int = -1
    """Parameter group of the optimizer; -1 = not optimised."""
    carries: str = ""
    """Own type and shape of what travels as words; else empty."""

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class PlanBlock:
    """A hyper-rectangle of one entry. Row-major elements start..stop where it is contiguous, else `span` is None."""

    id: int
    entry: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    shard: int
    span: tuple[int, int] | None

    @property
    def num_elements(self) -> int:
        return math.prod(self.sizes)


@dataclass(frozen=True)
class ShardingPlan:
    """Which block of which tensor lives on which shard. Block ids are positions in `blocks` and ascend front to back."""

    entries: tuple[TableEntry, ...]
    blocks: tuple[PlanBlock, ...]
    num_shards: int
    block_elements: int

    @cached_property
    def blocks_of_shard(self) -> tuple[tuple[int, ...], ...]:
        """Block ids of each shard, ascending."""
        owned: list[list[int]] = [[] for _ in range(self.num_shards)]
        for block in self.blocks:
            owned[block.shard].append(block.id)
        return tuple(tuple(ids) for ids in owned)

    @cached_property
    def blocks_of_entry(self) -> tuple[tuple[PlanBlock, ...], ...]:
        """Blocks of each entry, ascending; none for an entry without elements."""
        cut: list[list[PlanBlock]] = [[] for _ in self.entries]
        for block in self.blocks:
            cut[block.entry].append(block)
        return tuple(tuple(blocks) for blocks in cut)

    @cached_property
    def shard_bytes(self) -> tuple[int, ...]:
        """FP32 bytes of each shard's blocks."""
        elements = (sum(self.blocks[i].num_elements for i in ids) for ids in self.blocks_of_shard)
        return tuple(BYTES_PER_ELEMENT * count for count in elements)

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 over everything above, in a canonical text form."""
        canonical = [
            [[e.name, e.shape, e.trainable, e.aliases, e.group, e.carries] for e in self.entries],
            [[b.entry, b.offsets, b.sizes, b.shard] for b in self.blocks],
            self.num_shards,
            self.block_elements,
        ]
        return hashlib.sha256(json.dumps(canonical, separators=(",", ":")).encode()).hexdigest()

    def to_message(self) -> common_pb2.Plan:
        """The plan as it travels."""
        return common_pb2.Plan(
            parameters=[
                common_pb2.Parameter(
                    name=e.name,
                    shape=e.shape,
                    trainable=e.trainable,
                    aliases=e.aliases,
                    group=e.group,
                    carries=e.carries,
                )
                for e in self.entries
            ],
            blocks=[
                common_pb2.Block(parameter=b.entry, offsets=b.offsets, sizes=b.sizes, shard=b.shard)
                for b in self.blocks
            ],
            num_shards=self.num_shards,
            block_elements=self.block_elements,
            fingerprint=self.fingerprint,
        )


def make_plan(
    entries: Sequence[TableEntry], num_shards: int, block_elements: int = 0, grid: Grid = UNCUT
) -> ShardingPlan:
    """Cuts every entry into blocks and places them. `block_elements` 0 = derived from the model's size.

    No block crosses a line of the grid.

    Raises:
        SettingError: a block would not fit into one message.
    """
    limit = block_elements or default_block_elements(sum(entry.num_elements for entry in entries))
    if limit > BLOCK_ELEMENTS_LIMIT:
        raise SettingError(
            f"block_elements={limit} is too large: a block must travel in one message; use at most {BLOCK_ELEMENTS_LIMIT}"
        )
    cuts = [(i, cut) for i, entry in enumerate(entries) for cut in _cut_on_grid(entry, grid, limit)]
    shards = place([math.prod(sizes) for _, (_, sizes) in cuts], num_shards)
    blocks = tuple(
        PlanBlock(number, i, offsets, sizes, shard, contiguous_span(entries[i].shape, offsets, sizes))
        for number, ((i, (offsets, sizes)), shard) in enumerate(zip(cuts, shards, strict=True))
    )
    return ShardingPlan(tuple(entries), blocks, num_shards, limit)


def default_block_elements(num_elements: int) -> int:
    """Does not depend on the number of shards, and gives enough blocks to balance eight of them."""
    return min(LARGEST_BLOCK_ELEMENTS, max(SMALLEST_BLOCK_ELEMENTS, num_elements // BLOCKS_PER_MODEL))


def _cut_on_grid(entry: TableEntry, grid: Grid, limit: int) -> Iterator[Box]:
    for corner, extent in grid.cells([entry.name, *entry.aliases], entry.shape):
        for offsets, sizes in cut_blocks(extent, limit):
            yield tuple(a + b for a, b in zip(corner, offsets, strict=True)), sizes


def cut_blocks(shape: Sequence[int], limit: int) -> Iterator[Box]:
    """Offsets and sizes of the blocks of a tensor, in row-major order, each of at most `limit` elements.

    Cuts run along the first dimension whose slices fit, the dimensions before it are taken one index at a time, so that
    every block is contiguous in row-major memory. Pieces of one dimension differ by at most one slice.
    """
    if math.prod(shape) == 0:
        return
    if math.prod(shape) <= limit:
        yield (0,) * len(shape), tuple(shape)
        return
    axis, inner = _cut_axis(shape, limit)
    pieces = _even_pieces(shape[axis], limit // inner)
    for leading in itertools.product(*(range(size) for size in shape[:axis])):
        for first, size in pieces:
            offsets = (*leading, first, *(0 for _ in shape[axis + 1 :]))
            yield offsets, (*(1 for _ in leading), size, *shape[axis + 1 :])


def place(num_elements: Sequence[int], num_shards: int) -> list[int]:
    """The shard of each block: largest first onto the least loaded shard; ties go to the lower number."""
    heap = [(0, shard) for shard in range(num_shards)]
    shards = [0] * len(num_elements)
    for block in sorted(range(len(num_elements)), key=lambda i: (-num_elements[i], i)):
        load, shard = heap[0]
        shards[block] = shard
        heapq.heapreplace(heap, (load + num_elements[block], shard))
    return shards


def contiguous_span(shape: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]) -> tuple[int, int] | None:
    """First and one-past-last row-major element of a hyper-rectangle, or None if it is not contiguous."""
    axis = next((i for i, size in enumerate(sizes) if size != 1), len(shape))
    if tuple(sizes[axis + 1 :]) != tuple(shape[axis + 1 :]):
        return None
    start = 0
    for size, offset in zip(shape, offsets, strict=True):
        start = start * size + offset
    return start, start + math.prod(sizes)


def portions(blocks: Iterable[PlanBlock], most_elements: int) -> list[list[PlanBlock]]:
    """Runs of blocks with at most that many elements together, unless a single block is larger."""
    found: list[list[PlanBlock]] = []
    room = 0
    for block in blocks:
        if block.num_elements > room:
            found.append([])
            room = most_elements
        found[-1].append(block)
        room -= block.num_elements
    return found


def _cut_axis(shape: Sequence[int], limit: int) -> tuple[int, int]:
    """The first dimension of which one slice fits, and the elements of that slice."""
    inner = math.prod(shape)
    for axis, size in enumerate(shape):
        inner //= size
        if inner <= limit:
            return axis, inner
    raise AssertionError("a single element always fits")


def _even_pieces(size: int, largest: int) -> list[tuple[int, int]]:
    count = -(-size // largest)
    cuts = [size * i // count for i in range(count + 1)]
    return [(first, last - first) for first, last in itertools.pairwise(cuts)]
