"""The blocks of a plan as one rank sees them: which are its own, and where in its tensors they lie. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..grid import Box
from ..plan import PlanBlock, ShardingPlan, TableEntry, contiguous_span
from .ownership import Holders, Holdings


@dataclass(frozen=True)
class CopiedBlocks:
    """Blocks that the same ranks hold and one of them owns, ascending; offsets and spans in this rank's tensors."""

    holders: Holders
    blocks: tuple[PlanBlock, ...]

    @property
    def num_elements(self) -> int:
        return sum(block.num_elements for block in self.blocks)


@dataclass(frozen=True)
class RankBlocks:
    """What one rank pushes and pulls.

    Its blocks have offsets and spans *in the rank's own tensors*; ids, sizes and shards are those of the plan.
    """

    plan: ShardingPlan
    blocks: Mapping[int, PlanBlock]
    """Blocks that this rank owns, by id, ascending."""
    copies: tuple[CopiedBlocks, ...] = ()
    """Blocks that this rank and others hold, whoever owns them, in an order that all ranks share."""

    @property
    def num_shards(self) -> int:
        return self.plan.num_shards

    @property
    def entries(self) -> tuple[TableEntry, ...]:
        return self.plan.entries

    @cached_property
    def blocks_of_shard(self) -> tuple[tuple[int, ...], ...]:
        """Ids of the rank's blocks on each shard, ascending."""
        owned: list[list[int]] = [[] for _ in range(self.num_shards)]
        for block in self.blocks.values():
            owned[block.shard].append(block.id)
        return tuple(tuple(ids) for ids in owned)

    @cached_property
    def blocks_of_entry(self) -> tuple[tuple[PlanBlock, ...], ...]:
        """The rank's blocks of each entry, ascending; none where it owns nothing."""
        owned: list[list[PlanBlock]] = [[] for _ in self.entries]
        for block in self.blocks.values():
            owned[block.entry].append(block)
        return tuple(tuple(blocks) for blocks in owned)


def all_blocks(plan: ShardingPlan) -> RankBlocks:
    """Of a worker with one rank: everything."""
    return RankBlocks(plan, {block.id: block for block in plan.blocks})


def rank_blocks(plan: ShardingPlan, holders: Sequence[Holders], held: Holdings, rank: int) -> RankBlocks:
    """What `rank` owns and shares, given who holds every block and where its own parts lie."""
    own: dict[int, PlanBlock] = {}
    shared: dict[Holders, list[PlanBlock]] = {}
    for block, of_block in zip(plan.blocks, holders, strict=True):
        if rank not in of_block.ranks:
            continue
        local = _within(block, held[block.entry])
        if of_block.owner == rank:
            own[block.id] = local
        if len(of_block.ranks) > 1:
            shared.setdefault(of_block, []).append(local)
    copies = sorted(shared.items(), key=lambda item: (item[0].ranks, item[0].owner))
    return RankBlocks(plan, own, tuple(CopiedBlocks(key, tuple(blocks)) for key, blocks in copies))


def _within(block: PlanBlock, box: Box) -> PlanBlock:
    corner, extent = box
    offsets = tuple(offset - first for offset, first in zip(block.offsets, corner, strict=True))
    return replace(block, offsets=offsets, span=contiguous_span(extent, offsets, block.sizes))
