"""What the command `launch` shows."""

import sys

from .json_values import strict_json
from .launcher import LaunchConfig, Launcher
from .log_settings import LogFormat
from .progress import display_for_terminal
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
            print(strict_json(summary_object(end)), flush=True)
        else:
            print(summary_page(end), flush=True)
        if end.error is None:
            return 0
        return 128 + stop.signal_number if stop.signal_number is not None else 1
