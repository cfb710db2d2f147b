"""A worker's model as one of its ranks takes part in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...protos.errors import PlanMismatchError, SettingError
from ..given_parameters import GivenParameters
from ..grid import Box
from ..layout import Layout
from ..live_tensors import live_tensors
from ..local_tensors import local_box, mesh_dimensions
from ..model_table import ModelTable
from ..plan import ShardingPlan
from ..tensor_memory import TensorMemory
from .copies import BlockCopies
from .gradients import RankGradients
from .group import Ranks
from .ownership import holders_of
from .rank_blocks import RankBlocks, all_blocks, rank_blocks
from .reductions import GradientReduction, reductions_of


@dataclass(frozen=True)
class RankModel:
    """Everything of the model that a step of this rank touches."""

    ranks: Ranks
    blocks: RankBlocks
    memory: TensorMemory
    copies: BlockCopies
    gradients: RankGradients
    num_parameters: int
    """Plan entries that are parameters; buffers are behind them."""
    given: GivenParameters

    @property
    def plan(self) -> ShardingPlan:
        return self.blocks.plan


@dataclass(frozen=True)
class Holding:
    """What one rank says to the others about one plan entry."""

    box: Box
    mesh_dimensions: frozenset[str]
    """Over which torch divides or repeats it, and reduces its gradient."""


def rank_model(
    table: ModelTable, plan: ShardingPlan, ranks: Ranks, layout: Layout, parts: Sequence[torch.nn.Module]
) -> RankModel:
    """Agrees with the other ranks on who owns what.

    Raises:
        SettingError: parts do not fit the plan's grid or the layout, or nobody holds a block.
        PlanMismatchError: ranks describe different models.
    """
    held = table.held
    memory = TensorMemory(table.tensors, _before_writing(parts), table.words, live_tensors(table, parts))
    given = GivenParameters(table, parts)
    if ranks.num_ranks == 1:
        own = all_blocks(plan)
        return RankModel(
            ranks, own, memory, BlockCopies(ranks, (), memory), RankGradients(ranks, held), table.num_parameters, given
        )
    said = ranks.gather((plan.fingerprint, ranks.together(lambda: _holdings(table, parts))))
    if any(fingerprint != plan.fingerprint for fingerprint, _ in said):
        raise PlanMismatchError(
            "the ranks of this worker describe different models; every rank must pass the same whole=... and the same "
            "parameter groups to worker.optimizer()"
        )
    holdings = [holding for _, holding in said]
    _check_sharded(plan, holdings, layout)
    boxes = [{entry: holding.box for entry, holding in of_rank.items()} for of_rank in holdings]
    holders = holders_of(plan, boxes, layout.spec)
    averaged = [frozenset(e for e, h in of_rank.items() if "dp" in h.mesh_dimensions) for of_rank in holdings]
    reductions = [reductions_of(rank, layout, boxes, averaged) for rank in range(ranks.num_ranks)]
    ranks.prepare([h.ranks for h in holders] + [r.ranks for of_rank in reductions for r in of_rank])
    own = rank_blocks(plan, holders, boxes[ranks.rank], ranks.rank)
    reduction = (
        GradientReduction(ranks, reductions[ranks.rank], len(plan.entries)) if any(map(bool, reductions)) else None
    )
    return RankModel(
        ranks,
        own,
        memory,
        BlockCopies(ranks, own.copies, memory),
        RankGradients(ranks, held, reduction, final_in_backward=layout.pp == 1 and not any(map(_is_replicated, parts))),
        table.num_parameters,
        given,
    )


def _holdings(table: ModelTable, parts: Sequence[torch.nn.Module]) -> dict[int, Holding]:
    replicated = {id(p) for part in parts if _is_replicated(part) for p in part.parameters()}
    boxes = {
        entry: ((0,), table.entries[entry].shape) if entry in table.words else local_box(tensor)
        for entry, tensor in table.held.items()
    }
    return {entry: _holding(tensor, boxes[entry], id(tensor) in replicated) for entry, tensor in table.held.items()}


def _holding(tensor: torch.Tensor, box: Box, replicated: bool) -> Holding:
    return Holding(box, mesh_dimensions(tensor) | (frozenset({"dp"}) if replicated else frozenset()))


def _is_replicated(part: torch.nn.Module) -> bool:
    """Whether torch averages its gradients over replicas itself, behind the hooks of the parameters."""
    return isinstance(part, torch.nn.parallel.DistributedDataParallel)


def _check_sharded(plan: ShardingPlan, holdings: Sequence[Mapping[int, Holding]], layout: Layout) -> None:
    """With `fsdp` every trained parameter must be divided by `fully_shard`: otherwise nobody averages its gradient."""
    if layout.fsdp == 1:
        return
    for of_rank in holdings:
        for entry, holding in of_rank.items():
            if plan.entries[entry].group >= 0 and "fsdp" not in holding.mesh_dimensions:
                raise SettingError(
                    f"the layout is {layout.spec}, but {plan.entries[entry].name} is not divided over the mesh dimension "
                    "fsdp, so its gradient would differ from rank to rank; call fully_shard(module, "
                    'mesh=worker.mesh["fsdp"]) on a module that contains it, use dp instead of fsdp, or leave it out of the '
                    "optimizer's parameter groups if it is never trained"
                )


def _before_writing(parts: Sequence[torch.nn.Module]) -> Callable[[], None]:
    """FSDP keeps the root's parameters gathered behind a forward without backward: what is written then would be lost."""
    sharded: list[Any] = [module for part in parts for module in part.modules() if _is_fully_sharded(module)]
    reshards = [module.reshard for module in sharded]

    def reshard() -> None:
        for call in reshards:
            call()

    return reshard


def _is_fully_sharded(module: torch.nn.Module) -> bool:
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)
