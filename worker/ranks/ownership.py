"""Which rank of a worker pushes and pulls which block. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...protos.errors import SettingError
from ..grid import Box
from ..plan import PlanBlock, ShardingPlan

Holdings = Mapping[int, Box]
"""Where in each plan entry the part lies that one rank holds; entries that it does not hold are not named."""


@dataclass(frozen=True)
class Holders:
    """The ranks that hold a block. The owner alone pushes and pulls it, and hands its values on to the others."""

    owner: int
    ranks: tuple[int, ...]


def holders_of(plan: ShardingPlan, holdings: Sequence[Holdings], layout: str) -> tuple[Holders, ...]:
    """Holders of every block, from what each rank holds; the same on every rank.

    Blocks that several ranks hold are given to the one that owns the fewest elements so far, blocks in plan order, ties to
    the lowest rank: so a worker that comes back with the same layout owns the same blocks.

    Raises:
        SettingError: a rank's part cuts a block, or nobody holds one; `layout` is named in the advice.
    """
    owned = [0] * len(holdings)
    holders = []
    for block in plan.blocks:
        ranks = tuple(rank for rank, held in enumerate(holdings) if _holds(held, block, plan, rank, layout))
        if not ranks:
            raise SettingError(
                f"no rank of this worker holds {_place(block)} of {plan.entries[block.entry].name}; every parameter of the "
                "whole model must be in the part of some rank"
            )
        owner = min(ranks, key=lambda rank: (owned[rank], rank))
        owned[owner] += block.num_elements
        holders.append(Holders(owner, ranks))
    return tuple(holders)


def _holds(held: Holdings, block: PlanBlock, plan: ShardingPlan, rank: int, layout: str) -> bool:
    box = held.get(block.entry)
    if box is None or not _overlap(box, block):
        return False
    if not _inside(box, block):
        name = plan.entries[block.entry].name
        raise SettingError(
            f"rank {rank} holds {_box(box)} of {name}, which cuts {_place(block)}, a block of this job. Name the worker's "
            f"layout ({layout}) in `layouts` of the job file, and the dimension in which tensor parallelism cuts {name} in "
            "`tensor_splits`"
        )
    return True


def _inside(box: Box, block: PlanBlock) -> bool:
    return all(
        first <= offset and offset + size <= first + extent
        for first, extent, offset, size in zip(*box, block.offsets, block.sizes, strict=True)
    )


def _overlap(box: Box, block: PlanBlock) -> bool:
    return all(
        offset < first + extent and first < offset + size
        for first, extent, offset, size in zip(*box, block.offsets, block.sizes, strict=True)
    )


def _place(block: PlanBlock) -> str:
    return _box((block.offsets, block.sizes))


def _box(box: Box) -> str:
    spans = ", ".join(f"{first}:{first + size}" for first, size in zip(*box, strict=True))
    return f"[{spans}]"
