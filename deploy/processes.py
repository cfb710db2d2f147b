"""The launcher's child processes: each in its own session, its output relayed, none left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from .guard import descendants_of, kill_processes, kill_trees

if TYPE_CHECKING:
    import psutil

Relay = Callable[[str, str], None]
"""Takes the name of a child and one line of what it wrote, without its end; called from threads."""

_LINE_BYTES = 1 << 16
_WHY_KILLED: dict[int, str] = {
    signal.SIGKILL: " (perhaps the machine ran out of memory)",
    signal.SIGABRT: " (a library gave up; often it could not get memory: see `ulimit -v`, and the lines before)",
    signal.SIGSEGV: " (a library failed; perhaps it could not get memory)",
    signal.SIGBUS: " (perhaps /dev/shm or a disk is full)",
    signal.SIGXCPU: " (it has used its time of the processor: see `ulimit -t`)",
}
"""By the number, what people should look at first."""
_POLL_SECONDS = 0.02


def how_it_ended(status: int) -> str:
    """A process with this exit status (minus the signal that killed it), for people."""
    if status < 0:
        name = signal.Signals(-status).name if -status in list(signal.Signals) else f"signal {-status}"
        return f"was killed by {name}{_WHY_KILLED.get(-status, '')}"
    return f"ended with status {status}"


class Child:
    """One server or worker process."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], relay: Relay) -> None:
        assert process.stdout is not None
        self.name = name
        self.pid = process.pid
        self.last_lines: deque[str] = deque(maxlen=20)
        self._process = process
        self._relay = relay
        self._relaying = threading.Thread(target=self._relay_lines, args=(process.stdout,), daemon=True)
        self._relaying.start()

    @property
    def exit_status(self) -> int | None:
        """Exit status, minus the signal that killed it, or None while it runs."""
        return self._process.poll()

    def how_it_ended(self) -> str:
        """For example `was killed by SIGKILL` or `ended with status 1`."""
        status = self.exit_status
        return "is still running" if status is None else how_it_ended(status)

    def terminate(self) -> None:
        """Asks the process, not its descendants, to end."""
        if self.exit_status is None:
            self._process.terminate()

    def interrupt(self) -> None:
        """Ctrl-C, for the process and not for its descendants."""
        if self.exit_status is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Returns when the process has ended."""
        self._process.wait()

    def finish_output(self, timeout_seconds: float = 1.0) -> None:
        """Waits until everything that the process wrote has been relayed."""
        self._relaying.join(timeout_seconds)

    def _relay_lines(self, stream: IO[bytes]) -> None:
        # Reads to the end whatever becomes of the lines: a full pipe would stop the child.
        with stream:
            while line := stream.readline(_LINE_BYTES):
                text = line.decode(errors="replace").rstrip("\r\n")
                self.last_lines.append(text)
                self._relay(self.name, text)


class Stopping:
    """The end of some children: SIGTERM to each at once, SIGKILL to whole trees after the grace.

    With `interrupt_seconds` they get SIGINT at once, as from a terminal, and that long until SIGTERM.
    """

    def __init__(self, children: Iterable[Child], grace_seconds: float, interrupt_seconds: float = 0.0) -> None:
        self.children = [child for child in children if child.exit_status is None]
        self._descendants: list[psutil.Process] = []
        self._terminates_at = time.monotonic() + interrupt_seconds
        self._kills_at = self._terminates_at + grace_seconds
        self._has_terminated = False
        self._is_over = False
        if interrupt_seconds > 0:
            self._ask(Child.interrupt)
        else:
            self._terminate()

    def has_ended(self, hurry: bool = False) -> bool:
        """Whether they have; kills the others when the grace is over, or in a hurry. Ask until it is true."""
        if self._is_over:
            return True
        running = [child.pid for child in self.children if child.exit_status is None]
        now = time.monotonic()
        if running and now > self._terminates_at and not self._has_terminated:
            self._terminate()
        if running and now <= self._kills_at and not hurry:
            return False
        kill_trees(running)
        kill_processes(self._descendants)
        self._is_over = True
        return True

    def _terminate(self) -> None:
        self._has_terminated = True
        self._ask(Child.terminate)

    def _ask(self, tell: Callable[[Child], None]) -> None:
        # A leader that obeys leaves orphans that nobody could find any more.
        self._descendants += descendants_of(child.pid for child in self.children)
        for child in self.children:
            tell(child)


class Family:
    """All children of one launcher, and the watchdog that outlives the launcher by an instant."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._children: list[Child] = []
        self._buried: set[int] = set()
        self._guard_read, self._guard_write = os.pipe()
        self._watchdog = _start_watchdog()

    @property
    def guard_fd(self) -> int:
        """What a child reads to learn that the launcher is gone; every child inherits it."""
        return self._guard_read

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], pass_fds: Sequence[int] = ()
    ) -> Child:
        """Starts `command` as `name`, in its own session, without input; relays its output line by line."""
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(self._guard_read, *pass_fds),
            start_new_session=True,
        )
        self._tell_watchdog(f"+{process.pid}")
        child = Child(name, process, self._relay)
        self._children.append(child)
        return child

    def bury(self, child: Child) -> None:
        """Kills what an ended child left running. Idempotent."""
        if child.exit_status is None or child.pid in self._buried:
            return
        self._buried.add(child.pid)
        kill_trees([child.pid])
        self._tell_watchdog(f"-{child.pid}")
        child.finish_output()

    def stop(
        self,
        children: Iterable[Child],
        grace_seconds: float,
        hurry: Callable[[], bool],
        interrupt_seconds: float = 0.0,
    ) -> None:
        """See `Stopping`; whole trees are killed at once when `hurry()` says so."""
        stopping = Stopping(children, grace_seconds, interrupt_seconds)
        while not stopping.has_ended(hurry()):
            time.sleep(_POLL_SECONDS)
        self._bury_all(stopping.children)

    def _bury_all(self, children: Iterable[Child]) -> None:
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child._process.wait(5.0)
            self.bury(child)

    def _tell_watchdog(self, line: str) -> None:
        assert self._watchdog.stdin is not None
        with contextlib.suppress(OSError):
            self._watchdog.stdin.write(f"{line}\n".encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kills everything that still runs."""
        kill_trees([child.pid for child in self._children if child.exit_status is None])
        self._bury_all(self._children)
        assert self._watchdog.stdin is not None
        with contextlib.suppress(OSError):
            self._watchdog.stdin.close()
        self._watchdog.wait()
        os.close(self._guard_write)
        os.close(self._guard_read)


def pushpull_command(command: str) -> list[str]:
    """The words that run a command of ours in a process of its own."""
    # -P: a file of the working directory must not stand in for a module of ours.
    return [sys.executable, "-P", "-m", "pushpull.deploy.cli", command]


def _start_watchdog() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pushpull.deploy.guard", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,
    )
