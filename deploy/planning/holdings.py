"""Which rank of a worker holds which block, and which one pushes and pulls it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...worker.gradient_encoder import names_of
from ...worker.grid import Grid, chunks
from ...worker.layout import Layout
from ...worker.plan import PlanBlock, ShardingPlan, TableEntry


@dataclass(frozen=True)
class Holdings:
    """Block ids by rank, ascending."""

    held: tuple[tuple[int, ...], ...]
    """Of each rank's part of the model."""
    owned: tuple[tuple[int, ...], ...]
    """Of what it alone pushes and pulls."""

    def held_elements(self, plan: ShardingPlan, rank: int) -> int:
        return sum(plan.blocks[block].num_elements for block in self.held[rank])


def holdings_of(plan: ShardingPlan, grid: Grid, layout: Layout) -> Holdings:
    """What each rank of a worker with this layout holds and owns.

    Stages of a pipeline are taken to be runs of modules of about equal size; a tied parameter is on the first stage and on
    the last. Each block is owned by one of its holders: in block order, the one that owns the fewest elements so far, ties to
    the lowest rank.
    """
    stages = _stages(plan.entries, layout.pp)
    held: list[list[int]] = [[] for _ in range(layout.num_ranks)]
    owned: list[list[int]] = [[] for _ in range(layout.num_ranks)]
    loads = [0] * layout.num_ranks
    ranks_at = {layout.coordinates(rank): rank for rank in range(layout.num_ranks)}
    for block in plan.blocks:
        entry = plan.entries[block.entry]
        split = grid.tensor_dimension(names_of(entry))
        holders = sorted(
            ranks_at[stage, replica, part, slice_]
            for stage in stages[block.entry]
            for replica in range(layout.dp)
            for part, slice_ in _places(entry, block, layout, split)
        )
        owner = min(holders, key=lambda rank: (loads[rank], rank))
        loads[owner] += block.num_elements
        owned[owner].append(block.id)
        for rank in holders:
            held[rank].append(block.id)
    return Holdings(tuple(map(tuple, held)), tuple(map(tuple, owned)))


def _places(entry: TableEntry, block: PlanBlock, layout: Layout, split: int | None) -> list[tuple[int, int]]:
    """(fsdp, tp) coordinates of the ranks that hold the block: tensor parallelism cuts first, FSDP inside its pieces."""
    first, last = 0, entry.shape[0] if entry.shape else 1
    slices = list(range(layout.tp))
    if split is not None and layout.tp > 1:
        pieces = chunks(entry.shape[split], layout.tp)
        slices = [_piece_with(pieces, block.offsets[split])]
        if split == 0:
            first, last = pieces[slices[0]]
    if layout.fsdp == 1:
        parts = [0]
    else:
        row = block.offsets[0] if block.offsets else 0
        parts = [_piece_with(chunks(last - first, layout.fsdp), row - first)]
    return [(part, slice_) for part in parts for slice_ in slices]


def _piece_with(pieces: Sequence[tuple[int, int]], index: int) -> int:
    return next(number for number, (first, last) in enumerate(pieces) if first <= index < last)


def _stages(entries: Sequence[TableEntry], num_stages: int) -> list[list[int]]:
    """The stages that hold each entry."""
    total = sum(entry.num_elements for entry in entries)
    stages: list[list[int]] = []
    done, stage, module = 0, 0, ""
    for entry in entries:
        name = entry.name.rpartition(".")[0]
        if name != module:
            module = name
            stage = min(num_stages - 1, num_stages * done // max(1, total))
        done += entry.num_elements
        stages.append(sorted({stage, num_stages - 1}) if entry.aliases else [stage])
    return stages
