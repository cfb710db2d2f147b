"""The group `pushpull bench`: each command hands its words to a benchmark, which parses them."""

import importlib
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

from ..protos.ending_signals import ending_signals

bench = typer.Typer(help="Measures.", no_args_is_help=True)

Words = Annotated[list[str] | None, typer.Argument(metavar="ARGS...", help="Its arguments.")]

# The benchmark parses everything, also --help.
_PASSED_ON = {"ignore_unknown_options": True, "help_option_names": []}


@bench.command("exchange", context_settings=_PASSED_ON)
def bench_exchange(arguments: Words = None) -> None:
    """Compare push + optimizer + pull with gloo all-reduce."""
    _run("pushpull.benchmarks.exchange", arguments or [])


@bench.command("codec", context_settings=_PASSED_ON)
def bench_codec(arguments: Words = None) -> None:
    """Show bits, speed and error of every gradient codec."""
    _run("pushpull.benchmarks.codec", arguments or [])


@bench.command("links", context_settings=_PASSED_ON)
def bench_links(arguments: Words = None) -> None:
    """Measure time to a loss over slow links, beside DistributedDataParallel. Needs root."""
    _run("pushpull.benchmarks.links.command", arguments or [])


def end_in_order() -> None:
    """From now on SIGTERM and SIGHUP end this process as Ctrl-C does: with it ends what it has started."""
    for number in ending_signals():
        signal.signal(number, _exit)


def _run(benchmark: str, words: Sequence[str]) -> None:
    end_in_order()
    sys.exit(importlib.import_module(benchmark).main(words))


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
