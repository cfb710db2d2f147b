"""Chooses a layout for every worker, and refuses what cannot fit with what would."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...protos.errors import DoesNotFitError, OverBudgetError, SettingError
from ...protos.registrar_pb2 import EnrolRequest
from ...ps_server.config import JobSettings
from ...ps_server.enrolment import check_budget
from ...ps_server.optimizers import optimizer_for
from ...worker.gradient_encoder import check_overrides
from ...worker.layout import Layout, parse_layout
from ...worker.optimizer_values import check_momentum
from ..progress import in_bytes
from .cluster import Cluster, WorkerMachine
from .forecast import Scene, Task, WorkerForecast, forecast_worker
from .holdings import num_elements, tensor_parallel_share
from .memory import Memory, server_memory
from .profile import ModelProfile
from .timing import StepTime, free_times, round_time
from .traffic import Band, total

NO_SLOWER = 0.05
"""Steps that differ by less are predicted to be equally fast."""
NARROW_STATE = "int8"
MOST_SHARDS_TRIED = 64
MOST_TIMES_DEVICES_TRIED = 16


@dataclass(frozen=True)
class Candidate:
    """A layout that was considered for a worker."""

    layout: Layout
    bytes_needed: int
    """On the device of the rank that needs the most."""
    seconds: float
    misfit: str | None

    @property
    def split(self) -> int:
        """Parts into which the model is cut."""
        return self.layout.pp * self.layout.fsdp * self.layout.tp


@dataclass(frozen=True)
class PlannedWorker:
    """A worker with the layout chosen for it, and the others, the best first."""

    forecast: WorkerForecast
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class PlannedShard:
    """One server process."""

    shard: int
    num_blocks: int
    parameter_bytes: int
    memory: Memory
    pushed: Band
    """Bytes of gradients that come in with one step of every worker."""
    moved_bytes: int
    """That come in with them at most: of buffers and frozen parameters that the script moves, from one worker."""
    pulled: Band
    replaced_bytes: int
    """Of published frames that newer ones have replaced, at most, beside `memory`: where steps change only some blocks."""


@dataclass(frozen=True)
class Forecast:
    """Everything that the command prints."""

    scene: Scene
    workers: tuple[PlannedWorker, ...]
    shards: tuple[PlannedShard, ...]
    times: tuple[StepTime, ...]
    """One for each worker; in rounds all the same."""


def plan_job(job: JobSettings, cluster: Cluster, folder: Path) -> Forecast:
    """Works out a whole job; `folder` is where the files that `cluster` names are.

    Raises:
        SettingError: the description or the model contradicts itself.
        DoesNotFitError: something does not fit; says all of it, and for each the smallest changes that would.
    """
    profile = ModelProfile(cluster, folder)
    task = Task(cluster, job, profile)
    check_overrides(task.encoders, profile.entries[: profile.num_parameters])
    check_momentum(profile.optimizer, task.encoders)
    num_shards = len(cluster.server_machines)
    misfits: list[str] = []
    chosen: list[tuple[WorkerMachine, Layout, tuple[Candidate, ...]]] = []
    for machine in cluster.worker_machines:
        candidates = tuple(_candidates(task, machine, num_shards))
        if candidates[0].misfit is not None:
            misfits.append(_what_would_fit(task, machine, candidates[0], num_shards))
        chosen.append((machine, candidates[0].layout, candidates))
    scene = Scene.of(task, num_shards, *(layout for _, layout, _ in chosen))
    workers = tuple(
        PlannedWorker(forecast_worker(scene, machine, layout, task.batch_size(machine)), candidates)
        for machine, layout, candidates in chosen
    )
    shards = _shards(scene, [worker.forecast for worker in workers])
    misfits += _server_misfits(scene, [worker.forecast for worker in workers], shards)
    if misfits:
        raise DoesNotFitError(" ".join(misfits))
    return Forecast(scene, workers, shards, tuple(_times(scene, [worker.forecast for worker in workers])))


def _candidates(task: Task, machine: WorkerMachine, num_shards: int) -> list[Candidate]:
    """Those that fit first: of the about equally fast ones the least split, then by the time of a step. If none fits, by the
    memory they need."""
    found = []
    for layout in dict.fromkeys(_layouts(task, machine)):
        try:
            forecast = forecast_worker(Scene.of(task, num_shards, layout), machine, layout, task.batch_size(machine))
        except SettingError:
            continue  # a stage without parameters, say: nobody could train this way
        need = forecast.tightest.memory.where_it_computes.total
        found.append(Candidate(layout, need, forecast.alone_seconds, forecast.misfit))
    if not found:
        raise SettingError(f"No layout is possible for {machine.name}: its batch is smaller than its parts.")
    fitting = [candidate for candidate in found if candidate.misfit is None]
    if not fitting:
        return sorted(found, key=lambda candidate: candidate.bytes_needed)
    fast_enough = (1 + NO_SLOWER) * min(candidate.seconds for candidate in fitting)
    return sorted(found, key=lambda c: (c.misfit is not None, c.seconds > fast_enough, c.split, c.seconds))


def _layouts(task: Task, machine: WorkerMachine) -> Iterator[Layout]:
    if machine.fixed_layout is not None:
        yield machine.fixed_layout
        return
    most = len(machine.ranks)
    batch_size = task.batch_size(machine)
    declared = [parse_layout(text) for text in task.job.layouts]
    for layout in [Layout(), *declared] if declared else _all_layouts(task, most):
        if layout.num_ranks <= most and layout.num_data_ranks <= batch_size:
            yield layout


def _all_layouts(task: Task, most: int) -> Iterator[Layout]:
    """Products whose number of ranks divides the number of devices. Tensor parallelism needs to be told what to cut."""
    can_cut = tensor_parallel_share(task.profile.entries, task.grid()) > 0
    divisors = [n for n in range(1, most + 1) if most % n == 0]
    for pp, dp, fsdp, tp in itertools.product(divisors, repeat=4):
        if most % (pp * dp * fsdp * tp) == 0 and (tp == 1 or can_cut):
            yield Layout(pp, dp, fsdp, tp)


def _what_would_fit(task: Task, machine: WorkerMachine, best: Candidate, num_shards: int) -> str:
    """Why not even the best candidate fits, and the smallest changes by which it would."""
    remedies = [f"devices with {in_bytes(best.bytes_needed)}"]
    room = min(device.memory for device in machine.ranks)

    def need(layout: Layout, batch_size: int) -> int:
        scene = Scene.of(task, num_shards, layout)
        return forecast_worker(scene, machine, layout, batch_size).tightest.memory.where_it_computes.total

    batch_size = task.batch_size(machine) // 2
    while batch_size >= best.layout.num_data_ranks:
        if need(best.layout, batch_size) <= room:
            remedies.append(f"batch_size: {batch_size}")
            break
        batch_size //= 2
    count = 2 * len(machine.ranks)
    while count <= MOST_TIMES_DEVICES_TRIED * len(machine.ranks):
        layout = Layout(fsdp=count)
        if count <= task.batch_size(machine) and need(layout, task.batch_size(machine)) <= room:
            remedies.append(f"{count} such devices with layout {layout.spec}")
            break
        count *= 2
    return (
        f"{machine.name} cannot train this model: with its best layout, {best.layout.spec}, {best.misfit}. "
        f"What would fit: {'; or '.join(remedies)}."
    )


def _shards(scene: Scene, workers: Sequence[WorkerForecast]) -> tuple[PlannedShard, ...]:
    plan, traffic = scene.plan, scene.traffic
    owned = [[block for share in worker.shares for block in share.owned] for worker in workers]
    state = optimizer_for(scene.task.profile.optimizer, [], 0, scene.task.job.optimizer_state).bytes_per_element
    return tuple(
        PlannedShard(
            shard=shard,
            num_blocks=len(plan.blocks_of_shard[shard]),
            parameter_bytes=plan.shard_bytes[shard],
            memory=server_memory(plan, traffic, shard, owned, state),
            replaced_bytes=traffic.replaced_bytes(shard),
            pushed=total(rank.pushed[shard] for worker in workers for rank in worker.ranks),
            moved_bytes=traffic.moved_bytes(shard, max(len(worker.ranks) for worker in workers)),
            pulled=total(rank.pulled[shard] for worker in workers for rank in worker.ranks),
        )
        for shard in range(plan.num_shards)
    )


def _server_misfits(scene: Scene, workers: Sequence[WorkerForecast], shards: Sequence[PlannedShard]) -> list[str]:
    task = scene.task
    machines = task.cluster.server_machines
    misfits = []
    for shard, machine in zip(shards, machines, strict=True):
        if shard.memory.total > machine.memory:
            misfits.append(
                f"Server {shard.shard} needs {in_bytes(shard.memory.total)} and has {in_bytes(machine.memory)}. What would "
                f"fit: {'; or '.join(_server_remedies(scene, workers, shard))}."
            )
            break
    request = EnrolRequest(plan=scene.plan.to_message(), optimizer=task.profile.optimizer)
    try:
        check_budget(request, task.job, len(shards), len(workers))
    except OverBudgetError as error:
        misfits.append(f"The servers would refuse: {error}.")
    return misfits


def _server_remedies(scene: Scene, workers: Sequence[WorkerForecast], shard: PlannedShard) -> list[str]:
    remedies = [f"memory: {in_bytes(shard.memory.total)}"]
    task = scene.task
    smallest = min(machine.memory for machine in task.cluster.server_machines)
    layouts = [worker.layout for worker in workers]
    for num_shards in range(len(task.cluster.server_machines) + 1, MOST_SHARDS_TRIED + 1):
        wider = Scene.of(task, num_shards, *layouts)
        forecasts = [
            forecast_worker(wider, worker.machine, worker.layout, task.batch_size(worker.machine)) for worker in workers
        ]
        if max(planned.memory.total for planned in _shards(wider, forecasts)) <= smallest:
            remedies.append(f"{num_shards} servers")
            break
    parts = shard.memory.parts
    narrow = optimizer_for(task.profile.optimizer, [], 0, NARROW_STATE).bytes_per_element
    state = round(narrow * num_elements(scene.plan, scene.traffic.optimised(scene.plan.blocks_of_shard[shard.shard])))
    if shard.memory.total - parts["optimizer state"] + state <= smallest:
        remedies.append(f"optimizer_state: {NARROW_STATE}")
    if parts["staged steps"] > parts["parameters"]:
        remedies.append("a narrower push_codec, e.g. int8")
    return remedies


def _times(scene: Scene, workers: Sequence[WorkerForecast]) -> list[StepTime]:
    servers = scene.task.cluster.server_machines
    loads = [worker.load for worker in workers]
    elements = [num_elements(scene.plan, ids) for ids in scene.plan.blocks_of_shard]
    if scene.task.job.mode == "sync":
        return [round_time(loads, servers, elements)] * len(loads)
    return free_times(loads, servers, elements)
