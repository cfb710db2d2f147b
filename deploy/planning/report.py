"""A plan as people and programs read it."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from ..progress import grouped, in_bytes
from .forecast import RankForecast
from .memory import Memory
from .planner import Forecast, PlannedWorker
from .timing import StepTime
from .traffic import Band, total
from .units import in_rate, in_seconds

CANDIDATES_SHOWN = 4


def plan_object(forecast: Forecast) -> dict[str, Any]:
    """What `--json` prints. Bytes of a step are of frames and values, as `pushpull status` counts them."""
    plan, profile = forecast.scene.plan, forecast.scene.task.profile
    return {
        "model": {
            "parameters": profile.num_parameters,
            "elements": sum(entry.num_elements for entry in plan.entries),
            "blocks": len(plan.blocks),
            "fingerprint": plan.fingerprint,
            "measured": profile.measured,
        },
        "layouts": [layout.spec for layout in forecast.scene.grid.layouts],
        "workers": [
            _worker_object(worker, time) for worker, time in zip(forecast.workers, forecast.times, strict=True)
        ],
        "shards": [
            {
                "id": shard.shard,
                "blocks": shard.num_blocks,
                "bytes": shard.parameter_bytes,
                "memory_bytes": shard.memory.total,
                "memory": dict(shard.memory.parts),
                "replaced_frames_bytes": shard.replaced_bytes,
                "bytes_pushed_per_step": _band(shard.pushed),
                "moved_bytes_per_step": shard.moved_bytes,
                "bytes_pulled_per_step": _band(shard.pulled),
            }
            for shard in forecast.shards
        ],
        "step_seconds": max(time.seconds for time in forecast.times),
        "limited_by": max(forecast.times, key=lambda time: time.seconds).limited_by,
    }


def _worker_object(worker: PlannedWorker, time: StepTime) -> dict[str, Any]:
    forecast = worker.forecast
    return {
        "name": forecast.machine.name,
        "layout": forecast.layout.spec,
        "step_seconds": time.seconds,
        "limited_by": time.limited_by,
        "phases_seconds": dict(time.phases),
        "bytes_pushed_per_step": _band(forecast.pushed),
        "bytes_pulled_per_step": _band(forecast.pulled),
        "ranks": [_rank_object(rank) for rank in forecast.ranks],
        "candidates": [
            {"layout": c.layout.spec, "memory_bytes": c.bytes_needed, "step_seconds": c.seconds, "misfit": c.misfit}
            for c in worker.candidates
        ],
    }


def _rank_object(rank: RankForecast) -> dict[str, Any]:
    device = rank.memory.device
    return {
        "rank": rank.rank,
        "parameter_bytes": rank.held_bytes,
        "exchanged_parameter_bytes": rank.owned_bytes,
        "bytes_pushed_per_step": [_band(band) for band in rank.pushed],
        "bytes_pulled_per_step": [_band(band) for band in rank.pulled],
        "bytes_pulled_first": _band(rank.pulled_first),
        "control_bytes_per_step": rank.control_bytes,
        "memory_bytes": rank.memory.host.total,
        "memory": dict(rank.memory.host.parts),
        "device_memory_bytes": None if device is None else device.total,
        "device_memory": None if device is None else dict(device.parts),
    }


def _band(band: Band) -> dict[str, int]:
    return {"least": band.least, "most": band.most}


def print_plan(forecast: Forecast) -> None:
    """Tables for people."""
    console = Console(highlight=False, soft_wrap=True)
    plan, task = forecast.scene.plan, forecast.scene.task
    elements = sum(entry.num_elements for entry in plan.entries)
    console.print(
        f"{grouped(elements)} elements in {len(plan.entries)} tensors, {len(plan.blocks)} blocks on {plan.num_shards} servers; "
        f"{task.profile.optimizer.name}, mode {task.job.mode}, push {task.job.push_codec}, pull {task.job.pull_codec}"
    )
    if not task.profile.measured:
        console.print("Work by the formula of 6 operations per parameter and token; with `loss:` it would be measured.")
    for worker in forecast.workers:
        console.print()
        console.print(_headline(worker))
        console.print(_candidates(worker))
        for rank in worker.forecast.ranks:
            for line in _rank_lines(rank):
                console.print(line)
    console.print()
    for shard in forecast.shards:
        console.print(
            f"server {shard.shard}: {shard.num_blocks} blocks, {in_bytes(shard.parameter_bytes)} of parameters; "
            f"{_text(shard.pushed)} come in and {_text(shard.pulled)} go out a step"
        )
        if shard.moved_bytes:
            console.print(
                f"  and up to {in_bytes(shard.moved_bytes)} come in while the script moves what no optimizer does (running "
                "statistics, teachers)"
            )
        console.print(f"  memory {in_bytes(shard.memory.total)}: {_parts(shard.memory)}")
        if shard.replaced_bytes:
            console.print(
                f"  and up to {in_bytes(shard.replaced_bytes)} while steps change only some blocks (frozen layers, experts)"
            )
    console.print()
    for line in _times(forecast):
        console.print(line)
    layouts = [layout.spec for layout in forecast.scene.grid.layouts]
    if set(layouts) - set(task.job.layouts):
        console.print(f"The job file needs  layouts: \\[{', '.join(layouts)}]")


def _headline(worker: PlannedWorker) -> str:
    forecast = worker.forecast
    machine = forecast.machine
    devices = ", ".join(f"{d.count} x {d.kind} {in_bytes(d.memory)}" for d in machine.devices)
    return (
        f"{machine.name} ({devices}, {in_rate(machine.bandwidth)}): layout {forecast.layout.spec}, "
        f"pushes {_text(forecast.pushed)} and pulls {_text(forecast.pulled)} a step"
    )


def _candidates(worker: PlannedWorker) -> Table:
    table = Table("  layout", Column("memory", justify="right"), Column("step alone", justify="right"), "", box=None)
    for number, candidate in enumerate(worker.candidates[:CANDIDATES_SHOWN]):
        verdict = candidate.misfit or ("chosen" if number == 0 else "fits")
        table.add_row(
            f"  {candidate.layout.spec}", in_bytes(candidate.bytes_needed), in_seconds(candidate.seconds), verdict
        )
    return table


def _rank_lines(rank: RankForecast) -> Iterator[str]:
    yield (
        f"  rank {rank.rank}: holds {in_bytes(rank.held_bytes)} of parameters; pushes {_text(total(rank.pushed))}, pulls "
        f"{_text(total(rank.pulled))}"
    )
    if rank.memory.device is not None:
        yield f"    device memory {in_bytes(rank.memory.device.total)}: {_parts(rank.memory.device)}"
    yield f"    memory {in_bytes(rank.memory.host.total)}: {_parts(rank.memory.host)}"


def _times(forecast: Forecast) -> list[str]:
    if forecast.scene.task.job.mode == "sync":
        time = forecast.times[0]
        return [f"A round takes {in_seconds(time.seconds)}: {_phases(time)}.", f"Limited by {time.limited_by}."]
    return [
        f"{worker.forecast.machine.name}: a step takes {in_seconds(time.seconds)}: {_phases(time)}. "
        f"Limited by {time.limited_by}."
        for worker, time in zip(forecast.workers, forecast.times, strict=True)
    ]


def _phases(time: StepTime) -> str:
    spent = [f"{name} {in_seconds(seconds)}" for name, seconds in time.phases.items() if seconds > 0]
    return ", ".join(spent)


def _parts(memory: Memory) -> str:
    return ", ".join(f"{name} {in_bytes(size)}" for name, size in memory.parts.items() if size)


def _text(band: Band) -> str:
    return in_bytes(band.most) if band.exact else f"{in_bytes(band.least)} to {in_bytes(band.most)}"
