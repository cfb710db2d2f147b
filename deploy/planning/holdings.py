"""What each rank of a worker holds of a model that is split as its layout says. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...worker.gradient_encoder import names_of
from ...worker.grid import Box, Grid, chunks
from ...worker.layout import Layout
from ...worker.plan import ShardingPlan, TableEntry
from ...worker.ranks.ownership import holders_of


@dataclass(frozen=True)
class RankShare:
    """Block ids, ascending."""

    held: tuple[int, ...]
    """Of the rank's part of the model."""
    owned: tuple[int, ...]
    """Of what it alone pushes and pulls."""


def rank_shares(plan: ShardingPlan, grid: Grid, layout: Layout) -> tuple[RankShare, ...]:
    """The share of each rank of a worker with this layout; ownership is the workers' own rule.

    Stages of a pipeline are taken to be runs of modules of about equal size; a tied parameter is on its first stage and on
    the last.
    """
    stages = _stages(plan.entries, layout.pp)
    boxes: list[dict[int, Box]] = []
    for rank in range(layout.num_ranks):
        stage, _, part, piece = layout.coordinates(rank)
        boxes.append(
            {
                index: _box(entry, layout, grid.tensor_dimension(names_of(entry)), (part, piece))
                for index, entry in enumerate(plan.entries)
                if stage in stages[index]
            }
        )
    held: list[list[int]] = [[] for _ in boxes]
    owned: list[list[int]] = [[] for _ in boxes]
    for block, holders in zip(plan.blocks, holders_of(plan, boxes, layout.spec), strict=True):
        owned[holders.owner].append(block.id)
        for rank in holders.ranks:
            held[rank].append(block.id)
    return tuple(RankShare(tuple(a), tuple(b)) for a, b in zip(held, owned, strict=True))


def num_elements(plan: ShardingPlan, blocks: Iterable[int]) -> int:
    """Of these blocks together."""
    return sum(plan.blocks[block].num_elements for block in blocks)


def tensor_parallel_share(entries: Sequence[TableEntry], grid: Grid) -> float:
    """Share of the model's elements that tensor parallelism cuts."""
    cut = sum(e.num_elements for e in entries if grid.tensor_dimension(names_of(e)) is not None)
    return cut / max(1, sum(entry.num_elements for entry in entries))


def _box(entry: TableEntry, layout: Layout, split: int | None, place: tuple[int, int]) -> Box:
    """Tensor parallelism cuts first, FSDP inside its pieces; `place` is (fsdp, tp)."""
    offsets, sizes = [0] * len(entry.shape), list(entry.shape)
    part, piece = place
    cuts = [(split, layout.tp, piece)] if split is not None else []
    if entry.shape:
        cuts.append((0, layout.fsdp, part))
    for dimension, degree, index in cuts:
        first, last = chunks(sizes[dimension], degree)[index]
        offsets[dimension] += first
        sizes[dimension] = last - first
    return tuple(offsets), tuple(sizes)


def _stages(entries: Sequence[TableEntry], num_stages: int) -> list[set[int]]:
    """The stages that hold each entry."""
    total = sum(entry.num_elements for entry in entries)
    stages: list[set[int]] = []
    done, stage, module = 0, 0, ""
    for entry in entries:
        name = entry.name.rpartition(".")[0]
        if name != module:
            module = name
            stage = min(num_stages - 1, num_stages * done // max(1, total))
        done += entry.num_elements
        stages.append({stage, num_stages - 1} if entry.aliases else {stage})
    return stages
