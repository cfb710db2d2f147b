"""Processes that a benchmark measures: they come to it, do what they are told, and are missed when they die."""

import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, wait
from typing import IO

from ..deploy.processes import how_it_ended
from ..protos.errors import PushpullError

_POLL_SECONDS = 0.1
COME_SECONDS = 300.0
"""That processes have to come: importing torch, compiling kernels, making the parameters."""
LAG_SECONDS = 60.0
"""That the others have, all alike, once one has come."""
END_SECONDS = 60.0
"""That they have to end when they are told to."""
_NAMED_SECONDS = 5.0
"""After a connection broke, until its process, or who started it, has ended and can be named."""
_TERMINATE_SECONDS = 15.0


class Entrance:
    """Where measured processes come in. Owns `listener`'s accepting; the listener's owner closes it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._came: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        # accepting knows no deadline, and nothing of processes that will never come
        threading.Thread(target=self._accept, name="entrance", daemon=True).start()

    def next(self) -> Connection | None:
        """The next one that has come, within an instant."""
        try:
            return self._came.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            return None

    def _accept(self) -> None:
        while True:
            try:
                self._came.put(self._listener.accept())
            except (AuthenticationError, EOFError):
                continue  # somebody else, or one that died at the door: its process is watched
            except OSError:
                return  # closed


class Peers:
    """Processes that do the same work when told to; the time is that of the slowest.

    Every call raises PushpullError where a process has ended instead; it says which, how, and its last words.
    """

    def __init__(self, processes: "Processes", connections: Sequence[Connection]) -> None:
        self._processes = processes
        self._connections = connections

    def seconds(self, order: object) -> float:
        """Gives the order to all and waits for all."""
        self.end(order)
        waited_for, longest = list(self._connections), 0.0
        with self._processes.missed():
            while waited_for:
                self._processes.check()
                for connection in wait(waited_for, _POLL_SECONDS):
                    assert isinstance(connection, Connection)
                    longest = max(longest, float(connection.recv()))
                    waited_for.remove(connection)
        return longest

    def end(self, order: object) -> None:
        """Gives the order to all, and waits for nothing."""
        with self._processes.missed():
            for connection in self._connections:
                connection.send(order)


class Processes:
    """Running commands, by the names that people know them by."""

    def __init__(self, commands: Mapping[str, Sequence[str]], said: IO[bytes]) -> None:
        self._said = said
        self._running = {
            name: subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
            for name, command in commands.items()
        }

    @property
    def names(self) -> str:
        return ", ".join(self._running)

    @property
    def words(self) -> str:
        """What they have said so far."""
        self._said.seek(0)
        return self._said.read().decode(errors="replace").strip() or "nothing"

    def check(self) -> None:
        """Raises PushpullError if one has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise PushpullError(
                    f"{name}, which is measured, {how_it_ended(process.returncode)}; it said:\n{self.words}"
                )

    @contextmanager
    def missed(self) -> Iterator[None]:
        """Around talking to them: a connection that breaks is one of them that died, or one that it has started."""
        try:
            yield
        except (EOFError, OSError):
            deadline = time.monotonic() + _NAMED_SECONDS
            while time.monotonic() < deadline:
                self.check()
                time.sleep(_POLL_SECONDS)
            raise PushpullError(f"a measured process of {self.names} ended early; it said:\n{self.words}") from None

    def wait(self) -> None:
        """They have been told to end."""
        deadline = time.monotonic() + END_SECONDS
        for name, process in self._running.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise PushpullError(f"{name} was measured and did not end within {END_SECONDS:g} s") from None

    def stop(self) -> None:
        """Ends those that still run."""
        running = [process for process in self._running.values() if process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(_TERMINATE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def peers(
    commands: Mapping[str, Sequence[str]],
    entrance: Entrance,
    num_peers: int,
    come_seconds: float = COME_SECONDS,
    lag_seconds: float = LAG_SECONDS,
) -> Iterator[Peers]:
    """Starts `commands`, which between them bring up `num_peers` connections; each of them says one word when it is ready.

    Raises PushpullError if none comes within `come_seconds`, or one so much later than the first, or if they do not end when
    they are told to.
    """
    with tempfile.TemporaryFile() as said:
        processes = Processes(commands, said)
        try:
            yield Peers(processes, _arrivals(processes, entrance, num_peers, (come_seconds, lag_seconds)))
            processes.wait()
        finally:
            processes.stop()


def _arrivals(
    processes: Processes, entrance: Entrance, num_peers: int, allowed_seconds: tuple[float, float]
) -> list[Connection]:
    come_seconds, lag_seconds = allowed_seconds
    began = time.monotonic()
    deadline = began + come_seconds
    came: list[Connection] = []
    while len(came) < num_peers or not all(connection.poll() for connection in came):
        processes.check()
        now = time.monotonic()
        if now > deadline:
            raise PushpullError(
                f"{len(came)} of {num_peers} measured processes of {processes.names} came within {now - began:.1f} s; "
                f"they said:\n{processes.words}"
            )
        if (connection := entrance.next()) is not None:
            deadline = deadline if came else time.monotonic() + lag_seconds
            came.append(connection)
    with processes.missed():
        for connection in came:
            connection.recv()
    return came
