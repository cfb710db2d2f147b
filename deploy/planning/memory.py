"""Memory of every process, part by part. The constants are measured on Linux with glibc (docs/planning.md). Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...worker.layout import Layout
from ...worker.plan import BYTES_PER_ELEMENT, ShardingPlan
from .holdings import RankShare, num_elements
from .profile import StepCost
from .traffic import Traffic

SERVER_PROCESS_BYTES = 450_000_000
"""A server with no parameters: torch, compiled kernels, gRPC and its buffers."""
WORKER_PROCESS_BYTES = 590_000_000
"""A worker with no parameters, likewise."""
DEVICE_CONTEXT_BYTES = 500_000_000
"""Of CUDA, beside what torch allocates. Not measured."""
HEAP_BYTES_PER_OWNED_BYTE = 0.5
"""Messages under way, and what the C library keeps between the pieces, for each FP32 byte that a rank exchanges."""
COPIES_REMEMBERED = 2
"""Of what an encoder remembers: committed and pending."""


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class RankMemory:
    """Of one rank: its process, and its device where that is not the processor."""

    host: Memory
    device: Memory | None = None

    @property
    def where_it_computes(self) -> Memory:
        return self.host if self.device is None else self.device


def rank_memory(
    plan: ShardingPlan,
    traffic: Traffic,
    share: RankShare,
    model: Mapping[str, int],
    is_cpu: bool,
) -> RankMemory:
    """`model` is what computing takes (`model_memory`); the exchange is added."""
    exchange = exchange_memory(plan, traffic, share)
    if is_cpu:
        return RankMemory(Memory({**model, **exchange, "process": WORKER_PROCESS_BYTES}))
    return RankMemory(
        Memory({**exchange, "process": WORKER_PROCESS_BYTES}), Memory({**model, "context": DEVICE_CONTEXT_BYTES})
    )


def exchange_memory(plan: ShardingPlan, traffic: Traffic, share: RankShare) -> dict[str, int]:
    """What a rank needs to push and pull its blocks."""
    remembered = sum(
        COPIES_REMEMBERED
        * traffic.encoder_of(block).memory.num_rows
        * BYTES_PER_ELEMENT
        * plan.blocks[block].num_elements
        for block in traffic.optimised(share.owned)
    )
    owned_bytes = BYTES_PER_ELEMENT * num_elements(plan, share.owned)
    return {
        "frames": traffic.frame_bytes(share.owned).most,
        "encoder memory": remembered,
        "published copy": owned_bytes if traffic.pulls_differences else 0,
        "heap": round(HEAP_BYTES_PER_OWNED_BYTE * owned_bytes),
    }


def model_memory(
    plan: ShardingPlan, share: RankShare, layout: Layout, cost: StepCost, cut_share: float, largest_layer_elements: int
) -> dict[str, int]:
    """Parameters, gradients and activations of one rank.

    `cost` is that of the whole model for the rank's part of the batch; of its activations a rank of tensor parallelism holds
    the part that belongs to cut layers divided, and a stage of a pipeline its share. With FSDP two layers are gathered at a
    time, parameters and gradients.
    """
    held = BYTES_PER_ELEMENT * num_elements(plan, share.held)
    trained = (block for block in share.held if plan.entries[plan.blocks[block].entry].group >= 0)
    gradients = BYTES_PER_ELEMENT * num_elements(plan, trained)
    whole = BYTES_PER_ELEMENT * sum(entry.num_elements for entry in plan.entries if entry.group >= 0)
    kept = (cut_share / layout.tp + 1 - cut_share) / layout.pp
    # gradients take the place of activations while backward goes on
    live = max(kept * cost.saved_bytes, gradients) + kept * max(0, cost.peak_bytes - max(cost.saved_bytes, whole))
    gathered = 2 * 2 * BYTES_PER_ELEMENT * largest_layer_elements // layout.tp if layout.fsdp > 1 else 0
    return {
        "parameters": held,
        "gradients": gradients,
        "activations": max(0, round(live) - gradients),
        "gathered layers": gathered,
    }


def server_memory(
    plan: ShardingPlan, traffic: Traffic, shard: int, owned_by_worker: Sequence[Sequence[int]], state_bytes: float
) -> Memory:
    """P x (4 + optimizer) + W x encoded step + published copy + process, as docs/guarantees.md has it; `state_bytes` is what
    the optimizer keeps of an element."""
    blocks = plan.blocks_of_shard[shard]
    parameters = BYTES_PER_ELEMENT * num_elements(plan, blocks)
    published = traffic.pulled(blocks, shard) if traffic.pulls_differences else traffic.pulled_first(blocks, shard)
    return Memory(
        {
            "parameters": parameters,
            "optimizer state": round(state_bytes * num_elements(plan, traffic.optimised(blocks))),
            "staged steps": sum(traffic.frame_bytes(traffic.of_shard(owned, shard)).most for owned in owned_by_worker),
            "published copy": published.most + (parameters if traffic.pulls_differences else 0),
            "process": SERVER_PROCESS_BYTES,
        }
    )
