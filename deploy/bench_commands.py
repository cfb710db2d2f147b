"""The group `pushpull bench`: each command hands its words to a benchmark, which parses them."""

import importlib
import sys
from typing import Annotated

import typer

bench = typer.Typer(help="Measures.", no_args_is_help=True)

Words = Annotated[list[str] | None, typer.Argument(metavar="ARGS...", help="Its arguments.")]

# The benchmark parses everything, also --help.
_PASSED_ON = {"ignore_unknown_options": True, "help_option_names": []}


@bench.command("exchange", context_settings=_PASSED_ON)
def bench_exchange(arguments: Words = None) -> None:
    """Compare push + optimizer + pull with gloo all-reduce."""
    sys.exit(importlib.import_module("pushpull.benchmarks.exchange").main(arguments or []))


@bench.command("codec", context_settings=_PASSED_ON)
def bench_codec(arguments: Words = None) -> None:
    """Show bits, speed and error of every gradient codec."""
    sys.exit(importlib.import_module("pushpull.benchmarks.codec").main(arguments or []))


@bench.command("links", context_settings=_PASSED_ON)
def bench_links(arguments: Words = None) -> None:
    """Measure time to a loss over slow links, beside DistributedDataParallel. Needs root."""
    sys.exit(importlib.import_module("pushpull.benchmarks.links.command").main(arguments or []))
