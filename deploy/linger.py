"""`pushpull worker --linger`: where a process that ends is started again, one whose work is done must stay."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..protos.ending_signals import ending_signals
from .logs import say


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
    say("the script has ended; this worker stays until SIGTERM (--linger).")
    threading.Event().wait()
