"""How a worker ends whose process somebody starts again: nobody must run it for ever when there is nothing left to do."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..protos.ending_signals import ending_signals
from ..protos.errors import RunOverError
from .log_settings import LogLevel
from .logs import say


@contextmanager
def ending(linger: bool, over_is_done: bool) -> Iterator[None]:
    """Around a worker's script. `linger` takes a run that is over for done, too: who starts processes again whatever their
    status (Kubernetes, of a Deployment) would start this one for ever.
    """
    if linger:
        with lingering(), done_if_over():
            yield
    elif over_is_done:
        with done_if_over():
            yield
    else:
        yield


@contextmanager
def done_if_over() -> Iterator[None]:
    """A block that was refused because the run is over ends well, and says so."""
    try:
        yield
    except RunOverError as error:
        say(f"nothing left to do: {error}", LogLevel.WARNING)


@contextmanager
def lingering() -> Iterator[None]:
    """Behind a block that ended well (also by an exit with status 0), waits for SIGTERM and exits with status 143."""
    try:
        yield
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    for number in (signal.SIGINT, *ending_signals()):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    say("the script has ended, or had nothing to do; this worker stays until SIGTERM (--linger).")
    threading.Event().wait()
