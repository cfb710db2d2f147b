"""A whole cluster on this machine: starts servers and workers, watches them, ends the run, sums it up."""

import json
import os
import select
import shlex
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..protos.deadlines import INTERRUPT_SECONDS, SERVER_KILL_SECONDS, WORKER_KILL_SECONDS
from ..protos.errors import PushpullError, ServerUnreachableError
from ..protos.registrar_pb2 import JobStatus
from ..protos.status_terms import LIVE_STATES
from .environment import process_environment
from .job import Job
from .log_settings import DEFAULT_LOGS, LogSettings
from .processes import Child, Family, pushpull_command
from .progress import Display
from .status import StatusClient, newest_status
from .stop_request import StopRequest
from .summary import RunEnd, WorkerEnd
from .worker_processes import WorkerProcesses, WorkerStart, start_worker
from .worker_shape import WorkerShape

_POLL_SECONDS = 0.05
_SERVER_START_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """One run on this machine."""

    num_servers: int
    workers: Sequence[WorkerShape]
    job: Job
    options: Sequence[str]
    """`pushpull launch` and its options as they were typed."""
    script: Sequence[str]
    """The script and its arguments."""
    init: str | None = None
    """File that the servers take their first values from."""
    timeout_seconds: float | None = None
    """The run fails when it takes longer; None is no limit."""
    logs: LogSettings = DEFAULT_LOGS


class RunFailedError(PushpullError):
    """The run cannot go on; carries the sentence for the user. Never leaves this module."""


class Launcher:
    """One run. `run()` may be called once."""

    def __init__(self, config: LaunchConfig, display: Display, stop: StopRequest) -> None:
        self._config = config
        self._display = display
        self._stop = stop
        self._family = Family(display.relay)
        self._num_processes = config.num_servers + sum(shape.num_ranks for shape in config.workers)
        self._started_seconds = time.monotonic()
        self._servers: list[Child] = []
        self._addresses: list[str] = []
        self._workers: list[WorkerProcesses] = []
        self._status: JobStatus | None = None

    def run(self) -> RunEnd:
        """Runs to the end. A failure is part of the answer; no child outlives this call."""
        error: str | None = None
        with self._family:
            try:
                self._start_servers()
                self._start_workers()
                self._supervise()
            except RunFailedError as failure:
                error = self._ending or str(failure)
            wall_seconds = time.monotonic() - self._started_seconds
            ends = [_end_of(worker_id, worker) for worker_id, worker in enumerate(self._workers)]
            self._stop_children()
        return RunEnd(
            job=self._config.job,
            options=self._config.options,
            script=self._config.script,
            error=error,
            wall_seconds=wall_seconds,
            status=self._status,
            workers=ends,
        )

    def _start_servers(self) -> None:
        """Shard 0 first, because the others must know its address; then all others at once."""
        first = self._start_server(0)
        self._addresses.append(self._announced(*first))
        rest = [self._start_server(shard) for shard in range(1, self._config.num_servers)]
        self._addresses += [self._announced(server, pipe) for server, pipe in rest]
        self._display.write_line(f"servers   {'  '.join(self._addresses)}")

    def _start_server(self, shard: int) -> tuple[Child, int]:
        """The process and the pipe on which it will announce its address."""
        reading, writing = os.pipe()
        command = [*pushpull_command("server"), "--shard", str(shard), "--num-shards", str(self._config.num_servers)]
        command += ["--announce-fd", str(writing), "--guard-fd", str(self._family.guard_fd)]
        command += self._config.logs.options()
        command += [] if self._config.init is None else ["--init", self._config.init]
        if shard == 0:
            command += [word for assignment in self._config.job.assignments() for word in ("--set", assignment)]
        else:
            command += ["--registrar", self._addresses[0]]
        try:
            server = self._family.start(
                f"server {shard}", command, process_environment(self._num_processes), pass_fds=(writing,)
            )
        finally:
            os.close(writing)
        self._servers.append(server)
        return server, reading

    def _announced(self, server: Child, pipe: int) -> str:
        """The address that a starting server announces; closes the pipe."""
        deadline = time.monotonic() + _SERVER_START_SECONDS
        text = b""
        with open(pipe, "rb", buffering=0) as stream:
            while not text.endswith(b"\n"):
                self._check_stop()
                ready, _, _ = select.select([stream], [], [], _POLL_SECONDS)
                chunk = stream.read(4096) if ready else None
                if chunk == b"":
                    raise RunFailedError(self._never_served(server))
                text += chunk or b""
                if time.monotonic() > deadline:
                    raise RunFailedError(f"{server.name} did not serve within {_SERVER_START_SECONDS:g} s.")
        return str(json.loads(text)["address"])

    def _never_served(self, server: Child) -> str:
        self._family.stop([server], SERVER_KILL_SECONDS, lambda: self._stop.insists)
        said = f" It said: {server.last_lines[-1]}" if server.last_lines else ""
        return f"{server.name} {server.how_it_ended()} before it served.{said}"

    def _start_workers(self) -> None:
        shapes, script = self._config.workers, shlex.join(self._config.script)
        for worker_id, shape in enumerate(shapes):
            start = WorkerStart(
                name=f"worker {worker_id}",
                servers=self._addresses,
                worker_id=worker_id,
                metrics_listen="127.0.0.1:0",
                shape=shape,
                script=self._config.script,
                job_name=self._config.job.name,
                first_process=sum(len(worker.ranks) for worker in self._workers),
                num_processes=self._num_processes,
                logs=self._config.logs.beside_a_display(),
            )
            self._workers.append(start_worker(self._family, start))
        self._display.write_line(f"workers   {_described(shapes)} of {script}")
        self._display.write_line(f"watch     pushpull status --servers {self._addresses[0]}")
        layout = f" --layout {shapes[-1].layout}" if shapes[-1].layout is not None else ""
        servers = ",".join(self._addresses)
        name = f" --job-name {shlex.quote(self._config.job.name)}" if self._config.job.name else ""
        self._display.write_line(f"add one   pushpull worker --servers {servers}{name}{layout} {script}")

    def _supervise(self) -> None:
        """Returns when the last worker has ended and at least one has finished its script."""
        with StatusClient(self._addresses[0]) as client:
            reported: set[str] = set()
            try:
                while not self._all_ended(reported, client):
                    self._check_stop()
                    self._check_servers()
                    self._check_time()
                    self._take(client.poll())
                    time.sleep(_POLL_SECONDS)
                self._check_servers()
            finally:
                self._ask_once_more(client)
            self._check_servers()
            if self._ending:
                raise RunFailedError(self._ending)
        if all(worker.exit_status != 0 for worker in self._workers):
            ends = ", ".join(f"{worker.name} {worker.how_it_ended()}" for worker in self._workers)
            raise RunFailedError(f"No worker finished its script: {ends}.")

    def _all_ended(self, reported: set[str], client: StatusClient) -> bool:
        """Buries ended workers, and tells the registrar: before the first step nobody waits for one that has failed.

        Those that were started by hand are waited for while they hold a lease.
        """
        for worker_id, worker in enumerate(self._workers):
            if worker.tend() and worker.name not in reported:
                reported.add(worker.name)
                client.tell_absent(worker_id, worker.pids, worker.how_it_ended() if worker.exit_status else "")
                if worker.exit_status != 0:
                    others = "; the others go on" if len(reported) < len(self._workers) else ""
                    self._display.write_line(f"{worker.name} {worker.how_it_ended()}{others}")
        return len(reported) == len(self._workers) and not self._strangers()

    def _strangers(self) -> list[int]:
        launched = {pid for worker in self._workers for pid in worker.pids}
        workers = self._status.workers if self._status is not None else ()
        return [w.worker_id for w in workers if w.state in LIVE_STATES and w.pid not in launched]

    def _take(self, status: JobStatus | None) -> None:
        if status is not None:
            self._status = status
            self._display.show(status)

    def _ask_once_more(self, client: StatusClient) -> None:
        all_live = all(server.exit_status is None for server in self._servers)
        try:
            self._take(newest_status(client, self._addresses, timeout_seconds=5.0 if all_live else 1.0))
        except ServerUnreachableError:
            pass  # the newest answer so far stands

    def _check_stop(self) -> None:
        if self._stop.signal_number is not None:
            raise RunFailedError(f"The run was stopped by {signal.Signals(self._stop.signal_number).name}.")

    @property
    def _ending(self) -> str:
        """Why the job ends, as its registrar said; empty if it has not said so."""
        why = self._status.ending if self._status is not None else ""
        return f"{why[0].upper()}{why[1:]}." if why else ""

    def _check_servers(self) -> None:
        for shard, server in enumerate(self._servers):
            if server.exit_status is not None:
                raise RunFailedError(
                    f"Shard {shard} at {self._addresses[shard]} {server.how_it_ended()}. It held "
                    "a part of the model that nobody else has, so the run is over."
                )

    def _check_time(self) -> None:
        limit = self._config.timeout_seconds
        if limit is not None and time.monotonic() - self._started_seconds > limit:
            running = [worker.name for worker in self._workers if worker.exit_status is None]
            raise RunFailedError(f"The run took longer than --timeout-seconds {limit:g}; still running: {running}.")

    def _stop_children(self) -> None:
        """Workers first: while the servers live, they can still say goodbye, and save what only servers have."""
        ranks = [rank for worker in self._workers for rank in worker.ranks if rank.exit_status is None]
        if ranks and self._stop.interrupted:
            self._display.write_line(
                f"stopping  workers have {INTERRUPT_SECONDS:g} s to handle KeyboardInterrupt; Ctrl-C again ends them at once"
            )
        time_to_save = INTERRUPT_SECONDS if self._stop.interrupted else 0.0
        self._family.stop(ranks, WORKER_KILL_SECONDS, lambda: self._stop.insists, time_to_save)
        self._family.stop(self._servers, SERVER_KILL_SECONDS, lambda: self._stop.insists)


def _end_of(worker_id: int, worker: WorkerProcesses) -> WorkerEnd:
    return WorkerEnd(worker_id=worker_id, pids=worker.pids, exit_status=worker.exit_status, how=worker.how_it_ended())


def _described(workers: Sequence[WorkerShape]) -> str:
    """For example `2`, or `3 (tp2, tp2, plain; 5 ranks)`."""
    num_ranks = sum(shape.num_ranks for shape in workers)
    if num_ranks == len(workers):
        return str(num_ranks)
    layouts = ", ".join(shape.layout or f"{shape.num_ranks} ranks" for shape in workers)
    return f"{len(workers)} ({layouts}; {num_ranks} ranks)"
