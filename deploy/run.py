"""What the commands `launch` and `status` show."""

import json
import sys
from typing import Any

from google.protobuf.message import Message
from rich.console import Console
from rich.table import Column, Table

from ..protos.registrar_pb2 import JobStatus
from .figures import figures_of
from .launcher import LaunchConfig, Launcher
from .log_settings import LogFormat
from .progress import display_for_terminal, grouped, in_bytes, progress_line
from .status import StatusClient, newest_status
from .stop_request import StopRequest
from .summary import summary_object, summary_page


def run_here(config: LaunchConfig, as_json: bool) -> int:
    """Runs the cluster on this machine and prints the summary; returns the exit status."""
    with StopRequest().installed() as stop:
        with display_for_terminal(log_format=config.logs.format) as display:
            end = Launcher(config, display, stop).run()
        if as_json:
            if config.logs.format is LogFormat.TEXT:
                print(summary_page(end), file=sys.stderr)
            print(json.dumps(summary_object(end)), flush=True)
        else:
            print(summary_page(end), flush=True)
        if end.error is None:
            return 0
        return 128 + stop.signal_number if stop.signal_number is not None else 1


def show_status(address: str, as_json: bool) -> None:
    """Prints the status of the job whose shard 0 is at `address`; raises ServerUnreachableError."""
    with StatusClient(address) as client:
        job_status = newest_status(client)
    if as_json:
        print(json.dumps(plain(job_status)))
        return
    console = Console()
    console.print(f"job {job_status.job.job_id}  {job_status.phase}", highlight=False)
    console.print(progress_line(figures_of(job_status), _rate(job_status)), highlight=False)
    console.print(_workers(job_status))
    if any(len(worker.ranks) > 1 for worker in job_status.workers):
        console.print(_ranks(job_status))
    console.print(_shards(job_status))


def _rate(job_status: JobStatus) -> float:
    figures = figures_of(job_status)
    return figures.num_samples / figures.training_seconds if figures.training_seconds > 0 else 0.0


def _workers(job_status: JobStatus) -> Table:
    table = Table("worker", "state", "clock", "steps", "samples", "loss", "host", "pid", box=None)
    for worker in job_status.workers:
        loss = worker.report.metrics.get("loss")
        table.add_row(
            str(worker.worker_id),
            worker.state,
            str(worker.clock),
            grouped(worker.report.num_steps),
            grouped(worker.report.num_samples),
            "" if loss is None else f"{loss:.4f}",
            worker.host,
            str(worker.pid),
        )
    return table


def _ranks(job_status: JobStatus) -> Table:
    """What each rank of the workers that have several has sent, received and used."""
    headings = ("worker", "layout", "rank", "pushed", "pulled", "peak memory", "on its GPU")
    table = Table(*headings, box=None)
    for worker in job_status.workers:
        for rank, report in enumerate(worker.ranks if len(worker.ranks) > 1 else ()):
            device = report.peak_device_memory_bytes
            table.add_row(
                str(worker.worker_id),
                worker.layout,
                str(rank),
                in_bytes(report.bytes_pushed),
                in_bytes(report.bytes_pulled),
                in_bytes(report.peak_memory_bytes),
                in_bytes(device) if device else "-",
            )
    return table


def _shards(job_status: JobStatus) -> Table:
    address = Column("address", no_wrap=True)
    table = Table("shard", address, "blocks", "parameters", "steps", "pushed", "pulled", "refused", box=None)
    for shard in job_status.shards:
        table.add_row(
            str(shard.shard),
            shard.address,
            str(shard.num_blocks),
            in_bytes(shard.parameter_bytes),
            grouped(shard.steps_applied),
            in_bytes(shard.bytes_pushed),
            in_bytes(shard.bytes_pulled),
            str(sum(shard.pushes_refused.values())),
        )
    return table


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON values, every field present, 64-bit integers as numbers."""
    return {field.name: _plain_field(message, field) for field in message.DESCRIPTOR.fields}


def _plain_field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.message_type is not None:
        return [plain(item) for item in value] if field.is_repeated else plain(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return list(value) if field.is_repeated else value
