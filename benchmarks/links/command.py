"""`pushpull bench links`: time to a loss over shaped links, for pushpull and for DistributedDataParallel.

Each worker of `examples/char_gpt.py` sits in a network namespace of this machine, behind its own link; the servers sit
together behind none. Needs root, Linux, iproute2, ping and iperf3. All workers share this machine's cores.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table

from ...deploy.json_values import strict_json
from ...protos.errors import SettingError
from ..arguments import in_its_words, positive, positive_number
from .link import Link, parse_links
from .measured_links import MeasuredLink, measure
from .network import Network, TcpSettings
from .runs import Goal, Run, run
from .systems import SERVERS, SYSTEMS, Task, systems_named

UNLIKE_LINKS = "1gbit,100mbit/20ms,20mbit/80ms/1%"
_QUICK = (
    "--width",
    "16",
    "--layers",
    "1",
    "--heads",
    "2",
    "--context",
    "16",
    "--batch-size",
    "2",
    "--text-bytes",
    "100000",
)


def measure_all(options: argparse.Namespace, console: Console) -> dict[str, object]:
    """Runs everything; the object that `--json` prints."""
    systems = systems_named(options.systems)
    task = Task(arguments=_task_arguments(options), num_shards=options.shards, seed=options.seed)
    goal = Goal(loss=options.target_loss, limit_seconds=options.limit_seconds)
    tcp = TcpSettings(
        congestion_control=options.congestion_control, sysctls=options.sysctl, route=options.route.split()
    )
    lines = _opened(options.log) if options.log else None
    measured: list[MeasuredLink] = []
    runs: list[Run] = []

    def relay(name: str, line: str) -> None:
        if lines is not None:
            lines.write(f"[{name}] {line}\n")

    for number, system in enumerate([*systems] * options.repetitions):
        # A network of its own for each run: no connection, congestion window or queue is inherited.
        with Network(_hosts(options.links), tcp, relay) as network:
            servers = network.hosts[SERVERS]
            if number == 0 and not options.no_link_check:
                workers = [host for host in network.hosts.values() if host is not servers]
                measured = [measure(network, worker, servers) for worker in workers]
                _print_links(measured, console)
            runs.append(run(network, system, task, goal))
        console.print(_line(runs[-1]), highlight=False)
    return {
        "links": [str(link) for link in options.links],
        "tcp": asdict(tcp),
        "measured_links": [asdict(link) for link in measured],
        "training": list(task.arguments),
        "shards": task.num_shards,
        "seed": task.seed,
        "target_loss": goal.loss,
        "limit_seconds": goal.limit_seconds,
        "runs": [asdict(one) for one in runs],
    }


def _opened(path: Path) -> TextIO:
    try:
        return path.open("w", buffering=1)
    except OSError as error:
        raise SettingError(f"--log: {path} cannot be written: {error.strerror}.") from None


def _hosts(links: Sequence[Link]) -> dict[str, Link | None]:
    return {SERVERS: None, **{f"worker {number}": link for number, link in enumerate(links)}}


def _task_arguments(options: argparse.Namespace) -> list[str]:
    size = _QUICK if options.quick else ("--width", "64", "--layers", "2", "--context", "64", "--text-bytes", "1000000")
    return [
        *(*size, "--steps", str(options.steps), "--validate-every", str(10**9)),
        *("--optimizer", "sgd", "--learning-rate", "0.1"),
        *([] if options.quick else ["--batch-size", "16"]),
        *options.training,
    ]


def _line(one: Run) -> str:
    """One run, for people."""
    loss = "-" if one.loss is None else f"{one.loss:.3f}"
    end = (
        f"not in {one.seconds:.0f} s: loss {loss}"
        if one.seconds_to_target is None
        else f"{one.seconds_to_target:.1f} s"
    )
    steps = max(1, one.num_steps)
    load = f"load average {one.load_average_before:.1f} -> {one.load_average_after:.1f}"
    return f"{one.system:<24}{end:<32}{one.num_steps:>6} steps, {1e3 * one.seconds / steps:.0f} ms each   {load}"


def _print_links(measured: Sequence[MeasuredLink], console: Console) -> None:
    table = Table(title="Links as they are, one TCP connection to the servers")
    for heading in ("worker", "asked", "round trip ms", "up Mbit/s", "down Mbit/s", "congestion control"):
        table.add_column(heading)
    for link in measured:
        figures = (f"{link.rtt_ms:.1f}", f"{link.up_mbits:.1f}", f"{link.down_mbits:.1f}")
        table.add_row(link.worker, link.asked, *figures, link.congestion_control)
    console.print(table)


def _print_runs(runs: Sequence[dict[str, object]], console: Console) -> None:
    table = Table(title="Bytes of a step and seconds of a step, by worker")
    for heading in (
        "system",
        "worker",
        "steps",
        "KB up",
        "KB down",
        "compute ms",
        "wait ms",
        "round ms: 10%",
        "50%",
        "90%",
    ):
        table.add_column(heading)
    for one in runs:
        for worker in one["workers"]:  # type: ignore[attr-defined]
            steps = max(1, worker["num_steps"])
            spent = worker["seconds"]
            parts = [f"{1e3 * spent[part] / steps:.0f}" if spent else "" for part in ("compute", "wait")]
            rounds = [f"{1e3 * one:.0f}" for one in worker["round_seconds"] or ()]
            kilobytes = [f"{worker[way] / steps / 1000:.1f}" for way in ("bytes_up", "bytes_down")]
            table.add_row(str(one["system"]), worker["name"], str(worker["num_steps"]), *kilobytes, *parts, *rounds)
    console.print(table)


def _literal(text: str) -> str:
    """As argparse takes it in a help text, where a percent sign begins a placeholder."""
    return text.replace("%", "%%")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pushpull bench links", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names, unlike = _literal("; ".join(system.name for system in SYSTEMS)), _literal(UNLIKE_LINKS)
    parser.add_argument(
        "--links", type=in_its_words(parse_links), default=parse_links(UNLIKE_LINKS), help=f"default: {unlike}"
    )
    parser.add_argument("--systems", type=lambda text: text.split(";"), help=f"separated by semicolons, of: {names}")
    parser.add_argument(
        "--target-loss", type=positive_number, default=2.9, help="mean of the last 20 steps of each, nats"
    )
    parser.add_argument("--limit-seconds", type=positive_number, default=900, help="of a run, from its first step on")
    parser.add_argument("--repetitions", type=positive, default=1, help="of all systems, one after the other")
    parser.add_argument("--steps", type=positive, default=400, help="of each worker; the learning rate follows them")
    parser.add_argument("--shards", type=positive, default=2, help="servers, all on one host")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--congestion-control", default="cubic", help="of TCP, on every host")
    parser.add_argument(
        "--sysctl", action="append", default=[], metavar="KEY=VALUE", help="on every host; again for more"
    )
    parser.add_argument(
        "--route", default="", help="more words of `ip route` on every host, for example 'rto_min 50ms'"
    )
    parser.add_argument("--log", type=Path, help="file for what the processes say")
    parser.add_argument("--no-link-check", action="store_true", help="do not measure the links first")
    parser.add_argument("--quick", action="store_true", help="a tiny model: does the benchmark work here?")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument(
        "--training", type=shlex.split, default=[], help="more arguments of char_gpt.py: --training='--width 96'"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Entry point of `pushpull bench links`; returns the exit status."""
    options = _parser().parse_args(argv)
    if options.systems is None:
        options.systems = [system.name for system in SYSTEMS]
    console = Console(stderr=options.json, width=None if sys.stderr.isatty() else 140)
    result = measure_all(options, console)
    _print_runs(result["runs"], console)  # type: ignore[arg-type]
    if options.json:
        print(strict_json(result))
    return 0
