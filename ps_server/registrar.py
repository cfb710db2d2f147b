"""The registrar: who is in the job, when rounds close, who gets which data. Pure: no I/O, no threads, no clock.

Calls come in with the time; what all shards must be told goes out through `take_orders`, in one order for everybody. The
caller delivers orders, feeds reports back in, and asks again (`view_number`, `acknowledged`) what it waits for.
"""

from collections.abc import Collection

from ..protos.common_pb2 import ErrorCode, OptimizerSpecification, Plan
from ..protos.errors import BadRequestError, StepError
from ..protos.registrar_pb2 import (
    AbsentRequest,
    ActivateResponse,
    DealRequest,
    DealResponse,
    EnrolRequest,
    EnrolResponse,
    InstallPlan,
    JobEnd,
    JoinRequest,
    JoinResponse,
    RegistrarOrder,
    ShardReport,
    WorkerReport,
)
from .acknowledgements import Acknowledgements
from .admission import Admission
from .config import JobSettings
from .consistency import Synchronous, policy_for
from .contacts import Contacts
from .dealing import DataDealer
from .ending import Ending
from .enrolment import Enrolment, Examined
from .first_worker import FirstWorker
from .initial_table import InitialTable
from .initialisation import Initialisation, waiting
from .leases import Leases
from .progress import Progress
from .roster import Roster
from .round_closing import RoundClosing
from .rounds import Rounds
from .sharing import Sharing
from .start import Start
from .suspensions import Suspensions
from .workers import Worker

SHARD_BEAT_SECONDS = 0.5
"""In which a shard says of whom it has heard."""
MOST_FAILURE_CHARACTERS = 500
"""Of what is kept of why a worker failed."""


class Registrar:
    """One job's membership, rounds and data.

    Invariants: incarnations only grow; of one worker id at most one incarnation is live; no round closes while a shard
    has not installed the newest view; a fenced incarnation never becomes live again; nobody is admitted once a shard drains.
    """

    def __init__(
        self,
        settings: JobSettings,
        num_shards: int,
        tick_seconds: float,
        newest_incarnation: int = 0,
        initial: InitialTable | None = None,
    ) -> None:
        self._settings = settings
        leases = Leases(settings.lease_seconds, tick_seconds)
        self._roster = Roster(num_shards, leases, newest_incarnation, settings.reserved_ids)
        self._admission = Admission(settings.name, self._roster)
        self._start = Start(settings)
        self._enrolment = Enrolment(num_shards, settings, initial)
        self.examine = self._enrolment.examine
        self.contacts = Contacts(num_shards, SHARD_BEAT_SECONDS, settings.lease_seconds)
        """Which shard has not heard of whom; to be read only."""
        self._initialisation = Initialisation(num_shards, self._start, self._roster, self.contacts, initial)
        self.origin, self.origin_for_people = self._initialisation.origin, self._initialisation.origin_for_people
        self.is_first = FirstWorker(self._roster, self._initialisation).is_first
        policy = policy_for(settings)
        self._rounds = Rounds(policy, num_shards) if isinstance(policy, Synchronous) else None
        self._dealer = DataDealer(in_turns=self._rounds is not None)
        self._closing = RoundClosing(self._rounds, self._roster, self._dealer)
        self.take_unlike = self._closing.unlike.take_new
        self.sharing = Sharing(self._roster, self._rounds, self._dealer)
        self._progress = Progress(self._roster, self._rounds, self._dealer, self.contacts, self._activate)
        self._suspensions = Suspensions(settings, policy, self._roster, self._rounds, self._dealer, self.contacts)
        self._view_number = 0
        self._ready_view = 0
        self._acknowledged = Acknowledgements(num_shards)
        self.shards_said = self._acknowledged.said
        self._orders: list[RegistrarOrder] = []
        self._ending = Ending()
        self.lease_expiries = 0
        self.failures = 0

    # ---- what the caller waits for ----

    @property
    def view_number(self) -> int:
        """Of the newest view."""
        return self._view_number

    @property
    def rounds_closed(self) -> int:
        return self._rounds.closed if self._rounds else 0

    @property
    def job_clock(self) -> int:
        """Rounds that changed something, else the smallest clock of an active worker."""
        return self._progress.job_clock

    @property
    def longest_round_gap_seconds(self) -> float:
        return self._closing.longest_gap_seconds

    @property
    def last_progress(self) -> float | None:
        """When a round closed, or a step without rounds was applied; before that, when training began."""
        return self._closing.last if self._progress.last_applied is None else self._progress.last_applied

    @property
    def phase(self) -> str:
        if not self._initialisation.done:
            return "initialising" if self._enrolment.plan else "waiting"
        return "training" if self._start.open else "waiting"

    @property
    def ending(self) -> str:
        """Why the job ends, for people; empty while it goes on."""
        return self._ending.message

    @property
    def roster(self) -> Roster:
        """Who has joined; to be read only."""
        return self._roster

    @property
    def num_workers(self) -> int:
        """Live trainers that have enrolled, or the expected ones until training has begun."""
        live = self._roster.num_enrolled
        return live if self._start.open else max(live, self._settings.expected_workers)

    def installed_everywhere(self, view_number: int) -> bool:
        """Whether every shard has installed this view or a newer one."""
        return self._acknowledged.newest_common_view >= view_number

    def take_orders(self) -> list[RegistrarOrder]:
        """What has to be sent to every shard since the last call, in order."""
        orders, self._orders = self._orders, []
        return orders

    # ---- calls by workers ----

    def join(self, now: float, request: JoinRequest) -> JoinResponse:
        """Grants an incarnation and a lease for each of its ranks; fences the id's earlier incarnation. Asking twice is once.

        Raises:
            BadRequestError, SettingError, RunOverError: see `Admission`.
            ServerDrainingError: the job ends; as of `enrol`, `activate` and `deal`.
        """
        self._ending.check_admits()
        worker, replaced = self._admission.repeated(request), ""
        if worker is None:
            place = self._admission.place(request)  # ahead of `check`: who is refused a place goes on with no run
            if self._admission.check(request):
                self._dealer.begin_anew()
            if place.replaced is not None:
                self._end(place.replaced, "replaced", ErrorCode.FENCED_REPLACED)
                self.failures += place.replaced.heard and not place.itself
            worker, replaced = self._roster.add(now, place.worker_id, request), place.described
            self._admission.admitted(request, worker)
            self._start.joined(worker)
            self._publish_view()
        return JoinResponse(
            worker_id=worker.worker_id,
            incarnation=worker.incarnation,
            num_workers=self.num_workers,
            life=worker.life,
            replaced=replaced,
        )

    def absent(self, now: float, request: AbsentRequest) -> None:
        """The processes of a worker have ended, says who started them: the first step does not wait for it."""
        worker = self._start.absent(request, self._roster.live_holder(request.worker_id))
        if worker is not None:
            self.leave(now, worker.worker_id, worker.incarnation, WorkerReport(), request.failure, whole_worker=True)
        self._maybe_open(now)

    def enrol(self, now: float, request: EnrolRequest, examined: Examined | None = None) -> EnrolResponse:
        """Checks plan and optimizer, or has had them `examine`d, and says who initialises."""
        self._ending.check_admits()
        worker = self._roster.caller(now, request.worker_id, request.incarnation)
        if worker.observer and self.agreed is None:
            return waiting("waiting for a worker that trains to bring its model")
        num_trainers = self._roster.num_enrolled + (not worker.enrolled and not worker.observer)
        examined = examined or self._enrolment.examine(request)
        if self._enrolment.agree(request, examined, num_trainers):
            self._orders.append(
                RegistrarOrder(install_plan=InstallPlan(plan=request.plan, optimizer=request.optimizer))
            )
        if worker.state == "joined":
            self._roster.enrol(worker)
        self._start.enrolled(now, worker)
        if self._initialisation.done:
            if not self.installed_everywhere(self._ready_view):
                return waiting("waiting for every shard to take its parameters over")
            self._maybe_open(now)
            return EnrolResponse(state=EnrolResponse.STATE_READY, clock=self.job_clock, origin=self.origin(now))
        missing = self._acknowledged.first_without_plan
        if missing is not None:
            return waiting(f"waiting for shard {missing} to take the plan")
        answer, order = self._initialisation.offer(now, worker, request)
        self._orders += [] if order is None else [RegistrarOrder(initialise=order)]
        return answer

    def activate(self, now: float, worker_id: int, incarnation: int, last_clock: int) -> ActivateResponse:
        """Lets a worker count from now on; answered for good once training is open."""
        self._ending.check_admits()
        worker = self._roster.caller(now, worker_id, incarnation)
        if worker.observer:
            raise BadRequestError("an observer does not take part in training")
        if worker.state == "joined" or not self._initialisation.done:
            raise StepError(f"worker {worker_id} is not enrolled; call worker.optimizer() first")
        worker.last_progress = now
        self._maybe_open(now, starting=True)
        if not self._start.open:
            return ActivateResponse(open=False, message=self._start.missing_message(now, self._roster))
        if worker.state != "active":
            self._activate(now, worker, last_clock)
        return ActivateResponse(open=True, first_round=worker.first_round, clock=worker.start_clock)

    def pause(self, now: float, worker_id: int, incarnation: int, held: Collection[int] = (), number: int = 0) -> None:
        """Takes a worker out of rounds and smallest clock until it activates again. Its lots go back but those it holds."""
        worker = self._roster.caller(now, worker_id, incarnation)
        if self._dealer.pause(worker_id, held, number) and worker.state == "active":
            self._closing.forget(worker)
            self._stop_counting(worker)

    def heartbeat(self, now: float, worker_id: int, incarnation: int, report: WorkerReport, rank: int = 0) -> Worker:
        """Renews the lease of one rank; how its worker stands, to be read only.

        Raises:
            ServerDrainingError: the job is over; while its last round is open, steps are waited for.
        """
        self._ending.check_not_over()
        worker = self._roster.caller(now, worker_id, incarnation, rank)
        worker.take_report(now, rank, report)
        return worker

    def deal(self, now: float, request: DealRequest) -> DealResponse:
        """Deals lots of data; see `dealing.py`."""
        self._ending.check_admits()
        worker = self._roster.caller(now, request.worker_id, request.incarnation)
        if not self._start.open and worker.state == "enrolled" and self._settings.expected_workers > 0:
            self._maybe_open(now)
            if not self._start.open:
                return DealResponse(state=DealResponse.STATE_WAIT)
        return self.sharing.deal(now, request)

    def leave(
        self,
        now: float,
        worker_id: int,
        incarnation: int,
        report: WorkerReport,
        failure: str,
        rank: int = 0,
        whole_worker: bool = False,
    ) -> None:
        """A rank ends. With rank 0, with a text that says how it failed, or if it says so, the whole worker ends. Leaving
        twice is once.

        Of another rank that ends cleanly nothing more is expected, while its worker lives on until rank 0 leaves.
        """
        worker = self._roster.find(worker_id, incarnation)
        if worker is None:
            return
        worker.take_report(now, rank, report)
        if not worker.live:
            return
        if rank > 0 and not failure and not whole_worker:
            self._roster.end_rank(worker, rank)
            return
        worker.left_in_order = not failure and not whole_worker
        worker.failure = failure[:MOST_FAILURE_CHARACTERS]
        self._end(worker, "failed" if failure else "left", ErrorCode.BAD_STEP)
        self.failures += bool(failure)
        self._publish_view()

    @property
    def agreed(self) -> tuple[Plan, OptimizerSpecification] | None:
        """The job's plan and optimizer, once a worker has enrolled."""
        return self._enrolment.agreed

    # ---- reports by shards ----

    def report(self, now: float, shard: int, report: ShardReport) -> None:
        """Takes in what a shard says. Repeating a report changes nothing."""
        match report.WhichOneof("report"):
            case "plan_installed":
                self._acknowledged.plan_installed(shard)
            case "view_installed":
                self._acknowledged.view_installed(shard, report.view_installed.number)
            case "initialised":
                if (order := self._initialisation.shard_initialised(now, shard, report.initialised.grant)) is not None:
                    self._orders.append(RegistrarOrder(initialise=order))
                    # orders arrive in order: a shard that has this view has taken its parameters over
                    self._publish_view()
                    self._ready_view = self._view_number
            case "staged":
                self._progress.staged(now, shard, report.staged)
            case "refused":
                self._progress.refused(shard, report.refused)
            case "settled":
                self._progress.settled(now, shard, report.settled)
            case "alive":
                self._roster.renew(now, report.alive)
                self.contacts.report(now, shard, report.alive)
            case "status":
                self._acknowledged.status(now, shard, report.status)
            case "norms":
                report.norms.shard = shard
                self._orders.append(RegistrarOrder(norms=report.norms))
            case "draining":
                self._ending.begin(now, shard, report.draining, self.rounds_closed + 1)
        self._close_rounds(now)
        self._end_if_due(now)

    # ---- time ----

    def tick(self, now: float) -> None:
        """Expires leases, opens a start that has waited too long, suspends a member that does not advance."""
        for worker in self._roster.expired(now):
            self._expire(worker)
        for worker in self._suspensions.take_due(now):
            self._stop_counting(worker)
            self._dealer.recall(worker.worker_id, self._closing.lots_of(worker))
        self._maybe_open(now)
        self._close_rounds(now)
        self._end_if_due(now)

    # ---- membership ----

    def _publish_view(self) -> None:
        self._view_number += 1
        self._orders.append(RegistrarOrder(view=self._roster.view(self._view_number)))

    def _end(self, worker: Worker, state: str, reason: ErrorCode) -> None:
        self._roster.end(worker, state, reason)
        worker.suspended = ""
        self._dealer.lose(worker.worker_id, died=state != "left")
        self.contacts.forget(worker.incarnation)
        self._closing.forget(worker)
        self._initialisation.ended(worker.incarnation)
        self._admission.run.ended(worker, self._roster.num_enrolled, self._roster.largest_clock)

    def _expire(self, worker: Worker) -> None:
        self._end(worker, "expired", ErrorCode.FENCED_EXPIRED)
        self.lease_expiries += worker.heard
        self.failures += worker.heard and not worker.observer
        self._publish_view()

    # ---- start and progress ----

    def _maybe_open(self, now: float, starting: bool = False) -> None:
        """Opens round 1 when everybody expected is there, or the start has waited long enough."""
        if self._start.open or not self._initialisation.done:
            return
        ready = self._start.ready(now, self._roster, starting)
        if ready is None:
            return
        self._start.open, self._closing.last = True, now
        for worker in ready if self._settings.expected_workers else []:
            self._activate(now, worker, 0)

    def _activate(self, now: float, worker: Worker, last_clock: int) -> None:
        smallest = self._progress.job_clock if self._roster.members else 0
        worker.first_round = self.rounds_closed + 1
        worker.last_progress, worker.suspended = now, ""
        self.contacts.expect(worker.incarnation, worker.num_ranks)
        self._roster.start_counting(worker, max(smallest, min(last_clock, self._roster.largest_clock)))
        self._publish_view()

    def _stop_counting(self, worker: Worker) -> None:
        """Nobody waits for it from now on."""
        self._roster.move(worker, "paused")
        self._publish_view()

    def _close_rounds(self, now: float) -> None:
        if not self._start.open or self._ending.over or not self.installed_everywhere(self._view_number):
            return
        self._orders += self._closing.close_next(now)

    def _end_if_due(self, now: float) -> None:
        if self._ending.has_begun:
            begun = self._rounds is not None and self._rounds.has_begun(self._roster.members)
            if self._ending.comes_now(now, self.rounds_closed, begun):
                self._orders.append(RegistrarOrder(end=JobEnd(message=self._ending.message, lost=self._ending.is_loss)))
