"""How long a step takes, and what holds it up. Pure.

A model of links and machines, not a simulation: computing at a share of the devices' peak, every link used by one direction
at a time, pushes hidden behind backward, the servers' work one after the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...worker.layout import Layout
from .cluster import ServerMachine, WorkerMachine

BACKWARD_SHARE = 2 / 3
"""Of computing: backward costs twice as much as forward."""
MICROBATCHES_PER_STAGE = 4
FSDP_PASSES = 3
"""Over the parameters: gathered for forward and for backward, gradients reduced (Rajbhandari et al. 2020, section 7)."""
REPLICA_PASSES = 2
"""Of an all-reduce of the gradients."""


@dataclass(frozen=True)
class Load:
    """What one worker does and moves in a step."""

    name: str
    bandwidth: float
    """Bytes per second to the servers."""
    compute_seconds: float
    inner_seconds: float
    """Between its ranks."""
    pushed: Sequence[int]
    """Bytes by shard."""
    pulled: Sequence[int]

    @property
    def push_seconds(self) -> float:
        return sum(self.pushed) / self.bandwidth

    @property
    def pull_seconds(self) -> float:
        return sum(self.pulled) / self.bandwidth

    def exposed(self, push_seconds: float) -> float:
        """What of a push is not hidden behind backward."""
        return max(0.0, push_seconds - BACKWARD_SHARE * self.compute_seconds)


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step (in rounds: of a round), by phase, and what takes longest."""

    phases: Mapping[str, float]
    """By what they are spent on."""

    @property
    def seconds(self) -> float:
        return sum(self.phases.values())

    @property
    def limited_by(self) -> str:
        return max(self.phases, key=lambda name: self.phases[name])


def compute_seconds(machine: WorkerMachine, layout: Layout, flops: float, efficiency: float) -> float:
    """Of one step; the slowest device sets the pace of all ranks that are used."""
    slowest = min(device.tflops for device in machine.ranks) * 1e12
    bubble = 1 + (layout.pp - 1) / (MICROBATCHES_PER_STAGE * layout.pp)
    return bubble * flops / (layout.num_ranks * slowest * efficiency)


def inner_seconds(machine: WorkerMachine, layout: Layout, parameter_bytes: int, tensor_parallel_bytes: float) -> float:
    """Of one step's communication between the ranks: `tensor_parallel_bytes` are what row-wise layers put out, in forward and
    backward; all-reduces move 2 (n - 1) / n of them."""
    rate = machine.interconnect or machine.bandwidth
    model_bytes = parameter_bytes / (layout.tp * layout.pp)
    moved = FSDP_PASSES * model_bytes * (layout.fsdp - 1) / layout.fsdp
    moved += REPLICA_PASSES * model_bytes / layout.fsdp * (layout.dp - 1) / layout.dp
    moved += 2 * tensor_parallel_bytes / layout.num_data_ranks * (layout.tp - 1) / layout.tp
    return moved / rate


def round_time(loads: Sequence[Load], servers: Sequence[ServerMachine], elements: Sequence[int]) -> StepTime:
    """Synchronous: everybody waits for the slowest worker, then for the servers, then for the pulls.

    `elements` are those of each shard.
    """
    into = [sum(load.pushed[s] for load in loads) / server.bandwidth for s, server in enumerate(servers)]
    out = [sum(load.pulled[s] for load in loads) / server.bandwidth for s, server in enumerate(servers)]
    apply = [count / server.elements_per_second for count, server in zip(elements, servers, strict=True)]
    slowest = max(loads, key=lambda load: load.compute_seconds + load.inner_seconds + load.exposed(load.push_seconds))
    phases = {
        f"computing of {slowest.name}": slowest.compute_seconds,
        f"the ranks of {slowest.name} among themselves": slowest.inner_seconds,
    }
    busiest_in, busiest_out = into.index(max(into)), out.index(max(out))
    own = slowest.exposed(slowest.push_seconds)
    if slowest.exposed(into[busiest_in]) > own:
        phases[f"pushes over the link of server {busiest_in}"] = slowest.exposed(into[busiest_in])
    else:
        phases[f"pushes over the link of {slowest.name}"] = own
    phases[f"the optimizer on server {apply.index(max(apply))}"] = max(apply)
    puller = max(loads, key=lambda load: load.pull_seconds)
    if out[busiest_out] > puller.pull_seconds:
        phases[f"pulls over the link of server {busiest_out}"] = out[busiest_out]
    else:
        phases[f"pulls over the link of {puller.name}"] = puller.pull_seconds
    return StepTime(phases)


def free_times(loads: Sequence[Load], servers: Sequence[ServerMachine], elements: Sequence[int]) -> list[StepTime]:
    """Bounded and asynchronous: every worker at its own pace, unless the servers are busy all the time."""
    apply = max(count / server.elements_per_second for count, server in zip(elements, servers, strict=True))
    times = []
    for load in loads:
        phases = {
            f"computing of {load.name}": load.compute_seconds,
            f"the ranks of {load.name} among themselves": load.inner_seconds,
            f"pushes over the link of {load.name}": load.exposed(load.push_seconds),
            "the optimizer on the servers": apply,
            f"pulls over the link of {load.name}": load.pull_seconds,
        }
        times.append(StepTime(phases))
    busy = {}
    for s, server in enumerate(servers):
        paces = [1 / time.seconds for time in times]
        busy[f"the link of server {s}"] = sum(
            max(load.pushed[s], load.pulled[s]) * pace / server.bandwidth
            for load, pace in zip(loads, paces, strict=True)
        )
        busy[f"the optimizer on server {s}"] = sum(paces) * elements[s] / server.elements_per_second
    busiest = max(busy, key=lambda name: busy[name])
    if busy[busiest] <= 1:
        return times
    # what is asked of it is more than it can do: all wait for it in proportion
    return [StepTime({**time.phases, busiest: time.seconds * (busy[busiest] - 1)}) for time in times]
