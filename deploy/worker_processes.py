"""The processes of one worker on this machine: its ranks. They live together."""

import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from ..protos.deadlines import WORKER_KILL_SECONDS
from .environment import device_variables, process_environment, rank_variables
from .log_settings import DEFAULT_LOGS, LogSettings
from .processes import Child, Family, Stopping, pushpull_command
from .worker_shape import WorkerShape


@dataclass(frozen=True, kw_only=True)
class WorkerStart:
    """One worker to start."""

    name: str
    """For people; the empty name calls its processes `rank 0`, `rank 1`, ..."""
    servers: Sequence[str]
    """host:port, shard 0 first."""
    worker_id: int | None
    metrics_listen: str | None
    shape: WorkerShape
    script: Sequence[str]
    """The script and its arguments."""
    first_process: int = 0
    """Ranks of other workers that were started on this machine before."""
    num_processes: int
    """That share this machine's cores in all."""
    job_name: str = ""
    resume: bool = False
    """Whether to go on with a job whose run is over."""
    over_is_done: bool = False
    """Whether to end well if the run is over and nothing says to go on with it."""
    patience_seconds: float | None = None
    """How long it tries to reach the servers; None is the usual."""
    logs: LogSettings = DEFAULT_LOGS


@dataclass(frozen=True)
class MeetingPlace:
    """Where the ranks of one group find each other; gone with this object."""

    port: int
    store: object


class WorkerProcesses:
    """The ranks of one worker. When one fails the others are ended too; its end is the worker's."""

    def __init__(
        self,
        name: str,
        ranks: Sequence[Child],
        family: Family,
        meeting_place: MeetingPlace | None = None,
        grace_seconds: float = WORKER_KILL_SECONDS,
    ) -> None:
        self.name = name
        self.ranks = tuple(ranks)
        self._family = family
        self._meeting_place = meeting_place  # to be kept as long as the ranks
        self._grace_seconds = grace_seconds
        self._ended: list[int] = []
        self._stopping: Stopping | None = None
        for rank, child in enumerate(self.ranks):
            threading.Thread(target=self._note_end, args=(rank, child), daemon=True).start()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids, rank 0 first."""
        return tuple(child.pid for child in self.ranks)

    @property
    def exit_status(self) -> int | None:
        """None while a rank runs; then of the first that failed (minus the signal that killed it), or 0."""
        if len(self._ended) < len(self.ranks):
            return None
        failed = self._first_failed()
        return 0 if failed is None else self.ranks[failed].exit_status

    def how_it_ended(self) -> str:
        """For example `ended with status 0`, or with several ranks `rank 1 was killed by SIGKILL`."""
        if self.exit_status is None:
            return "is still running"
        failed = self._first_failed()
        if failed is None or len(self.ranks) == 1:
            return self.ranks[0].how_it_ended()
        return f"rank {failed} {self.ranks[failed].how_it_ended()}"

    def tend(self) -> bool:
        """Buries ranks that have ended, and ends those that a failed one has left. Call it until it says that all is over;
        it never waits long.
        """
        ended = tuple(self._ended)
        for rank in ended:
            self._family.bury(self.ranks[rank])
        if self._stopping is not None:
            self._stopping.has_ended()
        elif len(ended) < len(self.ranks) and self._first_failed() is not None:
            self._stopping = Stopping(self.ranks, self._grace_seconds)
        return len(ended) == len(self.ranks)

    def _first_failed(self) -> int | None:
        return next((rank for rank in tuple(self._ended) if self.ranks[rank].exit_status != 0), None)

    def _note_end(self, rank: int, child: Child) -> None:
        # One thread for each rank: only so is it known who ended first, and pulled the others down.
        child.wait()
        self._ended.append(rank)


def start_worker(family: Family, start: WorkerStart) -> WorkerProcesses:
    """Starts the ranks of one worker, each with an environment as torchrun gives it."""
    command = [*pushpull_command("worker"), "--servers", ",".join(start.servers)]
    command += [] if start.worker_id is None else ["--id", str(start.worker_id)]
    command += [] if start.shape.layout is None else ["--layout", start.shape.layout]
    command += ["--job-name", start.job_name] if start.job_name else []
    command += ["--resume"] if start.resume else []
    command += ["--over-is-done"] if start.over_is_done else []
    command += [] if start.patience_seconds is None else ["--patience-seconds", str(start.patience_seconds)]
    command += start.logs.options()
    command += ["--metrics-listen", start.metrics_listen or "", "--guard-fd", str(family.guard_fd), *start.script]
    environment = process_environment(start.num_processes) | device_variables(start.first_process)
    num_ranks = start.shape.num_ranks
    meeting_place = open_meeting_place() if num_ranks > 1 else None
    ranks = []
    for rank in range(num_ranks):
        name = start.name if num_ranks == 1 else f"{start.name} rank {rank}".lstrip()
        group = {} if meeting_place is None else rank_variables(rank, num_ranks, meeting_place.port)
        ranks.append(family.start(name, command, environment | group))
    return WorkerProcesses(start.name, ranks, family, meeting_place)


def open_meeting_place() -> MeetingPlace:
    """Serves a store for one group on loopback, as torchrun does: no port is chosen before it is bound."""
    from torch import distributed

    listening = socket.create_server(("127.0.0.1", 0))
    host, port = listening.getsockname()
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )
    return MeetingPlace(port, store)
