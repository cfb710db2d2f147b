"""One worker with one layout: what each rank holds, sends and needs, and whether that fits its machine."""

import math
from dataclasses import dataclass
from functools import cached_property

from ...compression.parameter_encoders import ParameterEncoders, parse_parameter_encoders
from ...ps_server.config import JobSettings
from ...worker.gradient_encoder import names_of
from ...worker.grid import Grid
from ...worker.layout import Layout, parse_layout
from ...worker.plan import BYTES_PER_ELEMENT, ShardingPlan, make_plan
from .cluster import Cluster, WorkerMachine
from .holdings import RankShare, num_elements, rank_shares, tensor_parallel_share
from .memory import RankMemory, model_memory, rank_memory
from .profile import FLOPS_PER_PARAMETER, ModelProfile
from .timing import Load, compute_seconds, inner_seconds
from .traffic import Band, Traffic, total


@dataclass(frozen=True)
class Task:
    """Everything that a plan is made for."""

    cluster: Cluster
    job: JobSettings
    profile: ModelProfile

    @cached_property
    def encoders(self) -> ParameterEncoders:
        return parse_parameter_encoders(self.job.push_codec, self.job.push_overrides)

    def grid(self, *layouts: Layout) -> Grid:
        """That of the job's layouts and of these."""
        several = [parse_layout(text) for text in self.job.layouts]
        several += [layout for layout in layouts if layout.num_ranks > 1]
        return Grid(tuple(dict.fromkeys(several)), self.job.tensor_splits)

    def batch_size(self, machine: WorkerMachine) -> int:
        return machine.batch_size or self.cluster.batch_size

    @cached_property
    def largest_layer_elements(self) -> int:
        """Of the modules at the depth at which layers are numbered: what FSDP gathers at a time."""
        layers: dict[str, int] = {}
        for entry in self.profile.entries:
            parts = entry.name.split(".")
            depth = next((i + 1 for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
            layer = ".".join(parts[:depth])
            layers[layer] = layers.get(layer, 0) + entry.num_elements
        return max(layers.values(), default=0)


@dataclass(frozen=True)
class Scene:
    """The plan that all workers of a job share, and its traffic."""

    task: Task
    grid: Grid
    plan: ShardingPlan
    traffic: Traffic

    @classmethod
    def of(cls, task: Task, num_shards: int, *layouts: Layout) -> "Scene":
        grid = task.grid(*layouts)
        plan = make_plan(task.profile.entries, num_shards, task.job.block_elements or 0, grid)
        return cls(task, grid, plan, Traffic(plan, task.encoders, task.job, task.profile.optimizer))


@dataclass(frozen=True)
class RankForecast:
    """One process of a worker."""

    rank: int
    held_bytes: int
    owned_bytes: int
    pushed: tuple[Band, ...]
    """Bytes of a step by shard."""
    pulled: tuple[Band, ...]
    pulled_first: Band
    """Bytes that come when the worker joins."""
    control_bytes: int
    memory: RankMemory


@dataclass(frozen=True)
class WorkerForecast:
    """One worker."""

    machine: WorkerMachine
    layout: Layout
    shares: tuple[RankShare, ...]
    ranks: tuple[RankForecast, ...]
    load: Load

    @property
    def alone_seconds(self) -> float:
        """Of a step without servers' work and waiting: what candidates are ranked by."""
        load = self.load
        return load.compute_seconds + load.inner_seconds + load.exposed(load.push_seconds) + load.pull_seconds

    @property
    def tightest(self) -> RankForecast:
        """The rank that needs the most memory where it computes."""
        return max(self.ranks, key=lambda rank: rank.memory.where_it_computes.total)

    @property
    def device_bytes(self) -> int:
        """Memory of the smallest device."""
        return min(device.memory for device in self.machine.ranks)

    @property
    def misfit(self) -> str | None:
        """Why this does not fit, if it does not."""
        need = self.tightest.memory.where_it_computes.total
        if self.machine.devices[0].kind == "cpu":
            room = self.device_bytes
        else:
            room = self.device_bytes
            host = sum(rank.memory.host.total for rank in self.ranks)
            if self.machine.host_memory is not None and host > self.machine.host_memory:
                return f"its processes need {_gb(host)} of host memory, and there are {_gb(self.machine.host_memory)}"
        return f"rank {self.tightest.rank} needs {_gb(need)} and a device has {_gb(room)}" if need > room else None

    @property
    def pushed(self) -> Band:
        return total(band for rank in self.ranks for band in rank.pushed)

    @property
    def pulled(self) -> Band:
        return total(band for rank in self.ranks for band in rank.pulled)


def forecast_worker(scene: Scene, machine: WorkerMachine, layout: Layout, batch_size: int) -> WorkerForecast:
    """What a worker of this layout would hold, send and need."""
    task, plan, traffic = scene.task, scene.plan, scene.traffic
    cost = task.profile.step(math.ceil(batch_size / layout.num_data_ranks))
    cut_share = tensor_parallel_share(plan.entries, scene.grid)
    shares = rank_shares(plan, scene.grid, layout)
    shards = range(plan.num_shards)
    is_cpu = machine.devices[0].kind == "cpu"
    ranks = []
    for rank, share in enumerate(shares):
        model = model_memory(plan, share, layout, cost, cut_share, task.largest_layer_elements)
        ranks.append(
            RankForecast(
                rank=rank,
                held_bytes=BYTES_PER_ELEMENT * num_elements(plan, share.held),
                owned_bytes=BYTES_PER_ELEMENT * num_elements(plan, share.owned),
                pushed=tuple(traffic.pushed(share.owned, shard) for shard in shards),
                pulled=tuple(traffic.pulled(share.owned, shard) for shard in shards),
                pulled_first=total(traffic.pulled_first(share.owned, shard) for shard in shards),
                control_bytes=sum(traffic.control_bytes(share.owned, shard) for shard in shards),
                memory=rank_memory(plan, traffic, share, model, is_cpu),
            )
        )
    return WorkerForecast(machine, layout, shares, tuple(ranks), _load(scene, machine, layout, batch_size, ranks))


def _load(scene: Scene, machine: WorkerMachine, layout: Layout, batch_size: int, ranks: list[RankForecast]) -> Load:
    task = scene.task
    flops = task.profile.step(batch_size).flops
    parameters = sum(entry.num_elements for entry in scene.plan.entries)
    rows = [
        entry.shape[0]
        for entry in scene.plan.entries
        if scene.grid.tensor_dimension(names_of(entry)) == 1 and len(entry.shape) == 2
    ]
    # tokens, told by the work: the batch may count anything
    tokens = flops / max(1, FLOPS_PER_PARAMETER * parameters)
    outputs = 2 * tokens * sum(rows) * BYTES_PER_ELEMENT
    shards = range(scene.plan.num_shards)
    return Load(
        name=machine.name,
        bandwidth=machine.bandwidth,
        compute_seconds=compute_seconds(machine, layout, flops, task.cluster.efficiency),
        inner_seconds=inner_seconds(machine, layout, BYTES_PER_ELEMENT * parameters, outputs),
        pushed=[sum(rank.pushed[shard].most for rank in ranks) for shard in shards],
        pulled=[sum(rank.pulled[shard].most for rank in ranks) for shard in shards],
    )


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
