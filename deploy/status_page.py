"""`pushpull status` as people see it. Pure: from looks to what rich prints. Colour marks only what needs attention."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..protos.common_pb2 import JobSpecification, Mode
from ..protos.registrar_pb2 import JobStatus, ShardStatus, WorkerStatus
from ..protos.status_terms import LIVE_STATES, NAME_OF_MODE
from .figures import figures_of
from .progress import grouped, in_bytes
from .status_figures import (
    Looks,
    ShardRates,
    WorkerRates,
    clocks_behind,
    num_refused,
    workers_to_show,
)

WARN, ALARM = "yellow", "bold red"
OLD_SECONDS = 3.0
"""Figures of a shard that are older than this mean that its link to the registrar is down."""
UNKNOWN = "-"
WORKER_HEADINGS = (
    *("worker", "state", "clock", "behind", "samples/s", "loss", "comp/enc/wait/dec %", "up", "down", "layout", "host"),
    "heard",
)
SHARD_HEADINGS = (
    *("shard", "address", "round", "steps", "steps/s", "up", "down", "staged", "refused", "parameters", "memory"),
    "figures",
)
WORDS = ("state", "address", "layout", "host", "figures")
WIDE_COLUMNS = 120
WIDE_ONLY = ("layout", "host", "steps", "staged", "parameters")


@dataclass(frozen=True)
class Room:
    """What fits on the page."""

    workers: int | None = None
    """Rows; None is any number."""
    columns: int = 250


def status_page(looks: Looks, room: Room | None = None, trouble: str = "") -> RenderableType:
    """The whole job at the newest look. `trouble` is said first, in red."""
    room = room or Room()
    status = looks.newest.status
    lines: list[RenderableType] = [Text(trouble, style=ALARM)] if trouble else []
    lines += [Text(headline(status), style="bold"), _state(looks)]
    lines += [Text(f"the job ends: {status.ending}", style=ALARM)] if status.ending else []
    shown, left_out = workers_to_show(status.workers, room.workers)
    lines += ["", _workers(looks, shown, room)] if shown else ["", Text("no workers")]
    lines += [Text(f"... and {left_out} more: pushpull status --once lists all")] if left_out else []
    if any(len(worker.ranks) > 1 for worker in shown):
        lines += ["", _ranks(shown, room)]
    return Group(*lines, "", _shards(looks, room))


def headline(status: JobStatus) -> str:
    """Which job this is."""
    job = status.job
    codecs = f"push {job.push_codec}  pull {job.pull_codec}"
    name = f"{job.name}  " if job.name else ""
    return f"job {name}{job.job_id}  {status.phase}  {_mode(job)}  {codecs}  up {_span(status.age_seconds)}"


def _mode(job: JobSpecification) -> str:
    name = NAME_OF_MODE.get(job.mode, UNKNOWN)
    return f"{name}:{job.staleness_bound}" if job.mode == Mode.MODE_BOUNDED else name


def _state(looks: Looks) -> Text:
    status = looks.newest.status
    figures, rates = figures_of(status), looks.worker_rates()
    states = Counter(worker.state for worker in status.workers)
    there = ", ".join(f"{states[state]} {state}" for state in LIVE_STATES if states[state]) or "none"
    gone = ", ".join(f"{states[state]} {state}" for state in ("left", "failed", "expired", "replaced") if states[state])
    text = Text(f"clock {grouped(status.clock)}")
    if figures.last_loss is not None:
        text.append("  ").append(f"loss {figures.last_loss:.4f}", _style(not math.isfinite(figures.last_loss), ALARM))
    speed = sum(rate.samples_per_second for rate in rates.values())
    text.append(f"  {grouped(speed) if rates else UNKNOWN} samples/s")
    text.append(f"  staleness {figures.staleness.mean:.1f} (max {figures.staleness.max:.0f})")
    text.append(f"  workers: {there}")
    expected = status.job.expected_workers
    text.append(f" of {expected} expected" if status.phase != "training" and expected else "")
    text.append(f"; gone: {gone}" if gone else "")
    text.append("  ").append(f"failures {status.failures}", _style(status.failures > 0, WARN))
    return text


def _workers(looks: Looks, workers: list[WorkerStatus], room: Room) -> Table:
    status = looks.newest.status
    behind, rates = clocks_behind(status.workers), looks.worker_rates()
    rows = [
        _worker_row(worker, rates.get(worker.worker_id), behind.get(worker.worker_id), status.job) for worker in workers
    ]
    return _table(WORKER_HEADINGS, rows, room)


def _worker_row(
    worker: WorkerStatus, rates: WorkerRates | None, behind: int | None, job: JobSpecification
) -> list[Text]:
    live, loss = worker.state in LIVE_STATES, worker.report.metrics.get("loss")
    held_back = job.mode == Mode.MODE_BOUNDED and behind is not None and behind >= job.staleness_bound
    row = [
        Text(str(worker.worker_id)),
        Text(worker.state, "" if live else ALARM),
        Text(grouped(worker.clock)),
        Text(UNKNOWN if behind is None else grouped(behind), _style(held_back, WARN)),
        Text(UNKNOWN if rates is None else _rate(rates.samples_per_second)),
        Text(UNKNOWN if loss is None else f"{loss:.4f}", _style(loss is not None and not math.isfinite(loss), ALARM)),
        Text(UNKNOWN if rates is None or not any(rates.shares) else "/".join(f"{100 * s:.0f}" for s in rates.shares)),
        Text(UNKNOWN if rates is None else f"{in_bytes(rates.pushed_bytes_per_second)}/s"),
        Text(UNKNOWN if rates is None else f"{in_bytes(rates.pulled_bytes_per_second)}/s"),
        Text(worker.layout),
        Text(f"{worker.host}:{worker.pid}"),
    ]
    if not live:
        return [*row, Text(worker.failure[:60] or worker.state, ALARM)]
    if worker.suspended:
        return [*row, Text(f"suspended: {worker.suspended}"[:80], ALARM)]
    silent = worker.heard_seconds_ago
    return [*row, Text(f"{silent:.1f} s ago", _style(silent > job.lease_seconds / 3 and silent > 2.0, WARN))]


def _ranks(workers: list[WorkerStatus], room: Room) -> Table:
    """What each rank of the workers that have several has sent, received and used."""
    headings = ("worker", "layout", "rank", "pushed", "pulled", "peak memory", "on its GPU")
    rows = []
    for worker in workers:
        for rank, report in enumerate(worker.ranks if len(worker.ranks) > 1 else ()):
            device = report.peak_device_memory_bytes
            figures = (report.bytes_pushed, report.bytes_pulled, report.peak_memory_bytes)
            cells = [str(worker.worker_id), worker.layout, str(rank), *map(in_bytes, figures)]
            rows.append([Text(cell) for cell in (*cells, in_bytes(device) if device else UNKNOWN)])
    return _table(headings, rows, room)


def _shards(looks: Looks, room: Room) -> Table:
    rows = []
    rates = looks.shard_rates()
    known = {shard.shard: shard for shard in looks.newest.status.shards}
    addresses = looks.newest.status.job.shard_addresses
    for number in sorted(known.keys() | set(range(len(addresses)))):
        shard = known.get(number)
        if shard is None:
            rows.append(
                [
                    Text(str(number)),
                    Text(addresses[number] or UNKNOWN),
                    *[Text(UNKNOWN)] * 9,
                    Text("not linked yet", WARN),
                ]
            )
            continue
        rows.append(_shard_row(shard, rates.get(number), shard.address in looks.newest.answered))
    return _table(SHARD_HEADINGS, rows, room)


def _shard_row(shard: ShardStatus, rates: ShardRates | None, answered: bool) -> list[Text]:
    refused = num_refused(shard)
    return [
        Text(str(shard.shard)),
        Text(shard.address),
        Text(grouped(shard.round)),
        Text(grouped(shard.steps_applied)),
        Text(UNKNOWN if rates is None else _rate(rates.steps_per_second)),
        Text(UNKNOWN if rates is None else f"{in_bytes(rates.pushed_bytes_per_second)}/s"),
        Text(UNKNOWN if rates is None else f"{in_bytes(rates.pulled_bytes_per_second)}/s"),
        Text(in_bytes(shard.staged_bytes)),
        Text(grouped(refused), ALARM if rates is not None and rates.num_refused else _style(refused > 0, WARN)),
        Text(in_bytes(shard.parameter_bytes)),
        Text(in_bytes(shard.memory_bytes)),
        _freshness(shard, answered),
    ]


def _freshness(shard: ShardStatus, answered: bool) -> Text:
    draining = "draining; " if shard.draining else ""
    if answered:
        return Text(f"{draining}its own", _style(bool(draining), WARN))
    old = shard.reported_seconds_ago > OLD_SECONDS
    text = f"{draining}as reported {_span(shard.reported_seconds_ago)} ago"
    return Text(f"{text}: link down?" if old else text, ALARM if old else _style(bool(draining), WARN))


def _table(headings: Sequence[str], rows: Sequence[Sequence[Text]], room: Room) -> Table:
    """Numbers to the right, words to the left. On a narrow page without what can be done without."""
    table = Table(box=None, pad_edge=False)
    shown = [i for i, heading in enumerate(headings) if room.columns >= WIDE_COLUMNS or heading not in WIDE_ONLY]
    for i in shown:
        table.add_column(headings[i], justify="left" if headings[i] in WORDS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[i] for i in shown))
    return table


def _style(wrong: bool, style: str) -> str:
    return style if wrong else ""


def _rate(number: float) -> str:
    return grouped(number) if number >= 100 else f"{number:.1f}"


def _span(seconds: float) -> str:
    """For example 0.4 s, 12 s, 5 min or 3.2 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
