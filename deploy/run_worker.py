"""`pushpull worker` for a worker of several ranks: starts them on this machine and waits for them."""

import sys
import threading
import time
from contextlib import suppress

from ..protos.deadlines import INTERRUPT_SECONDS, WORKER_KILL_SECONDS
from ..protos.errors import UnwritableOutputError
from .log_settings import LogLevel
from .logs import say
from .processes import Family
from .relayed_lines import relayed_line
from .stop_request import StopRequest
from .worker_processes import WorkerStart, start_worker

_POLL_SECONDS = 0.05


def run_ranks(start: WorkerStart) -> int:
    """Runs the ranks to their end, their output on standard output; returns the exit status as a shell would say it.

    That is the status of the first rank that failed, which takes the others with it.
    """
    lock = threading.Lock()

    def relay(name: str, line: str) -> None:
        # Ranks go on when nobody gets their lines any more; the command says so at its end.
        with lock, suppress(UnwritableOutputError):
            print(relayed_line(start.logs.format, name, line), file=sys.stdout, flush=True)

    with StopRequest().installed() as stop, Family(relay) as family:
        worker = start_worker(family, start)
        while not worker.tend():
            if stop.signal_number is not None:
                time_to_save = INTERRUPT_SECONDS if stop.interrupted else 0.0
                family.stop(worker.ranks, WORKER_KILL_SECONDS, lambda: stop.insists, time_to_save)
                return 128 + stop.signal_number
            time.sleep(_POLL_SECONDS)
        status = worker.exit_status or 0
    if status != 0:
        say(worker.how_it_ended(), LogLevel.ERROR)
    return 128 - status if status < 0 else status
