"""What the command `launch` shows."""

import sys

from ..protos.errors import UnwritableOutputError
from .json_values import strict_json
from .launcher import LaunchConfig, Launcher
from .log_settings import LogFormat
from .progress import display_for_terminal
from .stop_request import StopRequest
from .summary import RunEnd, summary_object, summary_page


def _print_summary(end: RunEnd, log_format: LogFormat, as_json: bool) -> None:
    """Raises UnwritableOutputError; people see the page even then."""
    if as_json and log_format is LogFormat.TEXT:
        print(summary_page(end), file=sys.stderr)
    try:
        print(strict_json(summary_object(end)) if as_json else summary_page(end), flush=True)
    except UnwritableOutputError:
        if not as_json:
            print(summary_page(end), file=sys.stderr)
        raise


def run_here(config: LaunchConfig, as_json: bool) -> int:
    """Runs the cluster on this machine and prints the summary; returns the exit status."""
    with StopRequest().installed() as stop:
        with display_for_terminal(log_format=config.logs.format) as display:
            end = Launcher(config, display, stop).run()
        _print_summary(end, config.logs.format, as_json)
        if end.error is None:
            return 0
        return 128 + stop.signal_number if stop.signal_number is not None else 1
