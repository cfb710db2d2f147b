"""Whom a joining process becomes: who it is already, another life of an id, or somebody new. Pure; owned by the registrar."""

from collections import OrderedDict
from dataclasses import dataclass

from ..protos.errors import BadRequestError, SettingError
from ..protos.registrar_pb2 import JoinRequest, Role
from .roster import Roster
from .run_end import RunEnd
from .workers import Worker

MOST_RANKS = 1024
"""Of one worker."""
MOST_REMEMBERED = 4096
"""Joins whose repetition is known again: an answer that was lost is asked for within a minute or so."""


@dataclass(frozen=True)
class Place:
    """Where a joining process belongs."""

    worker_id: int
    replaced: Worker | None = None
    """The live holder of the id, which must end first."""
    itself: bool = False
    """That holder is the joining process, which begins anew."""

    @property
    def described(self) -> str:
        """The other process that this one is put in the place of, for people; empty if there is none."""
        return "" if self.replaced is None or self.itself else self.replaced.origin


class Admission:
    """Invariant: a nonce stands for one incarnation."""

    def __init__(self, job_name: str, roster: Roster) -> None:
        self.run = RunEnd()
        self._job_name = job_name
        self._roster = roster
        self._answers: OrderedDict[int, tuple[int, int]] = OrderedDict()
        """(worker id, incarnation) by nonce, oldest first."""

    def check(self, request: JoinRequest) -> bool:
        """Refuses what does not belong here. True if the run before it was over, so that data begin anew.

        Raises:
            BadRequestError: too many ranks.
            SettingError: another job is meant.
            RunOverError: the run has ended, and it does not say that it goes on with it.
        """
        if request.num_ranks > MOST_RANKS:
            raise BadRequestError(
                f"num_ranks={request.num_ranks} is too many for one worker; use at most {MOST_RANKS}, or more workers"
            )
        if request.role == Role.ROLE_OBSERVER:
            return False
        if request.job_name != self._job_name:
            meant = f"the job {request.job_name!r}" if request.job_name else "a job without a name"
            mine = f"{self._job_name!r}" if self._job_name else "none (--set name=... on shard 0 gives it one)"
            raise SettingError(
                f"this worker means {meant}, but the name of these servers' job is {mine}; look whether --servers are the "
                "right ones, and join with connect(job_name=...), pushpull worker --job-name or PUSHPULL_JOB_NAME"
            )
        return self.run.join(request.resume)

    def repeated(self, request: JoinRequest) -> Worker | None:
        """The live worker that this very call made when it was asked before."""
        worker_id, incarnation = self._answers.get(request.nonce, (0, 0)) if request.nonce else (0, 0)
        worker = self._roster.find(worker_id, incarnation)
        return worker if worker is not None and worker.live else None

    def place(self, request: JoinRequest) -> Place:
        """Which id it gets, and who has that now.

        Raises:
            SettingError: it has chosen the id of a live worker that was given it by the registrar.
        """
        if request.worker_id < 0:
            return Place(self._roster.free_id())
        holder = self._roster.live_holder(request.worker_id)
        if holder is None:
            return Place(request.worker_id)
        itself = request.replaces == holder.incarnation
        if holder.automatic and not itself and request.nonce:
            # Nobody who restarts a worker knows an id that the registrar gave: these are two workers.
            raise SettingError(
                f"worker id {request.worker_id} was given to {holder.origin} and is not free; choose ids for all workers or "
                f"for none, or keep the chosen ones back with --set reserved_ids={request.worker_id + 1} on the servers"
            )
        return Place(request.worker_id, holder, itself)

    def admitted(self, request: JoinRequest, worker: Worker) -> None:
        """Remembers the answer to a call."""
        if request.nonce:
            self._answers[request.nonce] = worker.worker_id, worker.incarnation
        while len(self._answers) > MOST_REMEMBERED:
            self._answers.popitem(last=False)
