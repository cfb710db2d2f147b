"""Nothing outlives the launcher, not even when the launcher is killed with SIGKILL.

The launcher alone holds the writing ends of two pipes; the operating system closes them when the launcher is
gone, however it went. Two kinds of reader wait for that:

* every server and worker (`watch_launcher`), in a thread that then kills the process and its descendants;
* one watchdog process (`python -m pushpull.deploy.guard FD`), which also reaches processes that hold the
  interpreter lock and those whose parent is dead already. The launcher tells it by lines `+PGID` and `-PGID`
  what to kill.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


def descendants_of(pids: Iterable[int]) -> "list[psutil.Process]":
    """Living children of these processes, and theirs, also those in sessions of their own."""
    import psutil  # loaded only when there is something to kill: the watchdog stays small

    found: list[psutil.Process] = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            found += psutil.Process(pid).children(recursive=True)
    return found


def kill_processes(processes: "Iterable[psutil.Process]") -> None:
    """SIGKILLs these processes, if they are still the ones that were found, but never the caller."""
    import psutil

    for process in processes:
        if process.pid != os.getpid():
            with contextlib.suppress(psutil.Error):
                process.kill()


def kill_trees(groups: Iterable[int]) -> None:
    """SIGKILLs every process of these process groups and every living descendant of their leaders."""
    groups = list(groups)
    kill_processes(descendants_of(groups))
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def watch_launcher(fd: int) -> None:
    """From now on this process dies with its launcher, whose pipe `fd` it reads. Call before user code, in the main thread.

    Ctrl-C comes from the launcher too: a shell that starts it in the background makes all its children ignore SIGINT.
    """
    os.set_inheritable(fd, False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_die_at_end_of, args=(fd,), name="pushpull-guard", daemon=True).start()


def _die_at_end_of(fd: int) -> None:
    while os.read(fd, 4096):
        pass
    kill_trees([os.getpgrp(), os.getpid()])
    os.kill(os.getpid(), signal.SIGKILL)


def _watchdog(fd: int) -> None:
    """Keeps the set of living groups, and kills it at the end of the pipe."""
    groups: set[int] = set()
    with open(fd, encoding="ascii") as lines:
        for line in lines:
            group = int(line[1:])
            if line.startswith("+"):
                groups.add(group)
            else:
                groups.discard(group)
    kill_trees(groups)


if __name__ == "__main__":
    _watchdog(int(sys.argv[1]))
