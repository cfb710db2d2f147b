"""One incarnation of a worker as the registrar knows it. Pure; owned by the roster."""

from collections.abc import Collection
from dataclasses import dataclass, field

from ..protos.errors import BadRequestError
from ..protos.registrar_pb2 import UnlikeNumber, WorkerReport
from ..protos.status_terms import LIVE_STATES
from .worker_figures import WorkerFigures, merged_report


@dataclass
class Worker:
    """One incarnation of a worker as the registrar knows it."""

    worker_id: int
    incarnation: int
    observer: bool
    host: str
    pid: int
    num_ranks: int = 1
    layout: str = ""
    automatic: bool = False
    """The registrar chose the id."""
    life: int = 0
    """Incarnations of this id before this one."""
    state: str = "joined"
    """joined, enrolled, active, paused; then left, failed, expired or replaced."""
    heard: bool = False
    """It has said something since it joined: the answer to its join was not lost."""
    enrolled: bool = False
    """It has brought a model, at some time."""
    first_round: int = 0
    start_clock: int = 0
    clock: int = 0
    last_progress: float = 0.0
    settled: dict[int, int] = field(default_factory=dict)
    """Newest step applied, by shard."""
    reports: list[WorkerReport] = field(default_factory=list)
    """As each rank said last, by rank."""
    reported_at: float = 0.0
    """When rank 0 said last how it is."""
    silent_rank: int | None = None
    """Whose lease ran out."""
    suspended: str = ""
    """Why it was suspended, for people; empty unless it is."""
    left_in_order: bool = False
    """It said goodbye at the end of its script, neither failed nor told to end."""
    failure: str = ""
    """What went wrong, as it said itself."""
    unlike: list[UnlikeNumber] = field(default_factory=list)
    """Numbers of its steps that differed from those that held for a round; each once, up to a number."""
    num_unlike_steps: int = 0
    """Applied ones in which any number differed."""

    def __post_init__(self) -> None:
        self.reports = [WorkerReport() for _ in range(self.num_ranks)]

    @property
    def live(self) -> bool:
        return self.state in LIVE_STATES

    @property
    def only_passed_by(self) -> bool:
        """Nobody was there: its join's answer was lost, and it was never heard of again. It counts nowhere."""
        return not self.heard and self.state in ("expired", "replaced")

    @property
    def origin(self) -> str:
        """For people."""
        return f"worker {self.worker_id} (process {self.pid} on {self.host or 'an unknown host'})"

    def is_process(self, host: str, pids: Collection[int]) -> bool:
        """Whether this incarnation is one of these processes."""
        return self.host == host and self.pid in pids

    @property
    def report(self) -> WorkerReport:
        """See `merged_report`."""
        return merged_report(self.reports)

    def take_report(self, now: float, rank: int, report: WorkerReport) -> None:
        """Of one rank; raises BadRequestError for one that the worker does not have. Nobody writes in the report afterwards.

        Figures never fall: a report that was delayed on its way, or that says nothing, does not take the place of a newer one.
        """
        self.check_rank(rank)
        if report.num_steps >= self.reports[rank].num_steps:
            self.reports[rank] = report
        if rank == 0:
            self.reported_at = now

    def check_rank(self, rank: int) -> None:
        """Raises BadRequestError for a rank that the worker does not have."""
        if rank >= self.num_ranks:
            raise BadRequestError(f"worker {self.worker_id} has num_ranks={self.num_ranks}; there is no rank {rank}")

    def figures(self, heard_seconds_ago: float) -> WorkerFigures:
        """As it stands now."""
        return WorkerFigures(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            state=self.state,
            clock=self.clock,
            host=self.host,
            pid=self.pid,
            layout=self.layout,
            num_ranks=self.num_ranks,
            failure=self.failure,
            suspended=self.suspended,
            last_progress=self.last_progress,
            reported_at=self.reported_at,
            heard_seconds_ago=heard_seconds_ago,
            num_unlike_steps=self.num_unlike_steps,
            reports=tuple(self.reports),
            settled=dict(self.settled),
        )

    @property
    def who_was_silent(self) -> str:
        """For people."""
        several = self.num_ranks > 1 and self.silent_rank is not None
        return f"rank {self.silent_rank} of worker {self.worker_id}" if several else f"worker {self.worker_id}"
