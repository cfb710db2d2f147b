"""Runs the user's training script as `python SCRIPT ARGS...` would, in this process."""

import os
import runpy
import signal
import sys
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import NoReturn

from ..protos.ending_signals import ending_signals
from ..protos.errors import PushpullError, SettingError


def run_script(script: str, arguments: Sequence[str]) -> None:
    """Runs `script` as `__main__` with `sys.argv == [script, *arguments]`.

    SIGTERM and SIGHUP end it as `sys.exit` would, so that `with connect()` says goodbye. An exception of the script is
    shown from the script's own first line on and becomes exit status 1, Ctrl-C status 130.
    """
    path = os.path.abspath(script)
    if not os.path.isfile(path):
        raise SettingError(f"There is no script {script} (working directory {os.getcwd()}).")
    sys.argv = [script, *arguments]
    if sys.flags.safe_path:
        sys.path.insert(0, os.path.dirname(path))
    else:
        sys.path[0] = os.path.dirname(path)
    for number in ending_signals():
        signal.signal(number, _ExitOnSignal())
    try:
        runpy.run_path(path, run_name="__main__")
    except PushpullError:
        raise
    except KeyboardInterrupt as interrupt:
        _show(interrupt, path)
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        _show(error, path)
        raise SystemExit(1) from None


class _ExitOnSignal:
    """Ends the script; a second signal ends the process at once. A worker that joins a job takes its place meanwhile."""

    ends_process = True

    def __call__(self, signal_number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal_number, signal.SIG_DFL)
        raise SystemExit(128 + signal_number)


def _show(error: BaseException, path: str) -> None:
    trace = _below(error.__traceback__, path)
    sys.last_value = error  # as the interpreter does: a worker that leaves at exit says what it failed of
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def _below(trace: TracebackType | None, path: str) -> TracebackType | None:
    """The traceback without the frames that led to the script."""
    inner = trace
    while inner is not None and inner.tb_frame.f_code.co_filename != path:
        inner = inner.tb_next
    return inner or trace
