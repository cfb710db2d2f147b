"""A whole cluster in one thread: the real cores, with every message in a queue that a seeded scheduler empties in any order.

Messages between one pair keep their order, as on a stream. Faults repeat messages and cut streams; a cut loses everything
under way in both directions, and the worker sends the same bytes again.
"""

import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from raw_worker import encode, plan_for, sgd

from pushpull.protos.common_pb2 import OptimizerSpecification, Plan
from pushpull.protos.errors import FencedError
from pushpull.protos.registrar_pb2 import (
    EnrolRequest,
    EnrolResponse,
    Initialised,
    InstallPlan,
    JoinRequest,
    PlanInstalled,
    RegistrarOrder,
    Role,
    RoundRecord,
    ShardReport,
    ViewInstalled,
    WorkerReport,
)
from pushpull.protos.shard_pb2 import Commit, Frames, Outcome, PullDone, Verdict
from pushpull.ps_server.apply import Pass
from pushpull.ps_server.config import JobSettings
from pushpull.ps_server.effects import AnswerPull, Effect, Job, Report, Run, Tell
from pushpull.ps_server.job import job_message
from pushpull.ps_server.registrar import Registrar
from pushpull.ps_server.shard import Shard


@dataclass
class Faults:
    """How often things go wrong, as shares of the scheduler's turns."""

    repeat: float = 0.0
    cut: float = 0.0


@dataclass
class Pulled:
    """One answered pull, for the history."""

    worker: int
    clock: int
    smallest_clock: int
    commits_sent: dict[int, int]


@dataclass
class SimulatedShard:
    shard: Shard
    orders: deque[RegistrarOrder] = field(default_factory=deque)
    reports: deque[ShardReport] = field(default_factory=deque)
    jobs: deque[Job] = field(default_factory=deque)
    rounds: list[RoundRecord] = field(default_factory=list)
    passes: deque[Pass] | None = None
    """Of the job in front, once it has begun."""

    @property
    def may_run(self) -> bool:
        return bool(self.jobs) and (not self.passes or self.passes[0].ready())

    @property
    def values(self) -> np.ndarray:
        return self.shard.store.values.numpy()


@dataclass
class SimulatedWorker:
    """Pushes `gradients[t]` in step t + 1 until it has none left; `speed` is its share of the scheduler's turns."""

    id: int
    incarnation: int
    gradients: list[float]
    speed: float = 1.0
    up: list[deque[Frames | Commit]] = field(default_factory=list)
    down: list[deque[Outcome | PullDone]] = field(default_factory=list)
    step: int = 0
    commits_sent: int = 0
    outcomes: list[list[Outcome]] = field(default_factory=list)
    waiting: set[int] = field(default_factory=set)
    sent: list[tuple[Frames, Commit]] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)

    @property
    def key(self) -> tuple[int, int]:
        return self.id, self.incarnation


class Simulation:
    """`workers[i].gradients` are constants: every element of every block gets that gradient."""

    def __init__(
        self,
        gradients: list[list[float]],
        *,
        seed: int,
        faults: Faults | None = None,
        num_shards: int = 2,
        num_samples: list[float] | None = None,
        plan: Plan | None = None,
        optimizer: OptimizerSpecification | None = None,
        **settings: object,
    ) -> None:
        self.random = random.Random(seed)
        self.faults = faults or Faults()
        self.settings = JobSettings(expected_workers=len(gradients), **settings)  # type: ignore[arg-type]
        self.num_samples = num_samples or [1.0] * len(gradients)
        self.now = 0.0
        self.dead: list[SimulatedWorker] = []
        self.history: list[Pulled] = []
        self.plan = plan or plan_for(num_shards)
        self.optimizer = optimizer or sgd(lr=1.0)
        self.registrar = Registrar(self.settings, num_shards, tick_seconds=0.1)
        job = job_message(self.settings, "job", ["a"] * num_shards)
        install = InstallPlan(job=job, plan=self.plan, optimizer=self.optimizer)
        self.shards = [SimulatedShard(Shard(number, install)) for number in range(num_shards)]
        self.workers = [self._join(number, values) for number, values in enumerate(gradients)]
        self._start()

    # ---- running ----

    def run(self, turns: int = 100_000) -> "Simulation":
        """Until every worker has every outcome."""
        for _ in range(turns):
            if all(worker.step == len(worker.gradients) and not worker.waiting for worker in self.workers):
                return self
            self.turn()
        raise AssertionError("the cluster makes no progress")

    def turn(self) -> None:
        """One thing happens somewhere."""
        self._begin_steps()
        if self.faults.cut and self.random.random() < self.faults.cut:
            worker = self.random.choice(self.workers)
            self._cut(worker, self.random.randrange(len(self.shards)))
        choices = []
        for number, shard in enumerate(self.shards):
            choices += [(self._order, (number,))] if shard.orders else []
            choices += [(self._report, (number,))] if shard.reports else []
            choices += [(self._run_job, (number,))] if shard.may_run else []
            for worker in [*self.workers, *self.dead]:
                choices += [(self._up, (worker, number))] if worker.up[number] else []
                choices += [(self._down, (worker, number))] if worker.down[number] else []
        if choices:
            act, arguments = self.random.choice(choices)
            act(*arguments)

    def kill(self, worker: SimulatedWorker) -> None:
        """It says nothing any more; what it had sent may still arrive. Its lease runs out while the others beat."""
        self.workers.remove(worker)
        self.dead.append(worker)
        for queued in worker.up:
            for _ in range(self.random.randrange(len(queued) + 1)):
                queued.pop()

    def let_leases_run_out(self) -> None:
        """Time passes, with a beat of every living worker in each tick."""
        end = self.now + self.settings.lease_seconds + 1
        while self.now < end:
            self.now += 0.1
            for worker in self.workers:
                self.registrar.heartbeat(self.now, *worker.key, WorkerReport())
            self.registrar.tick(self.now)
            self._take_orders()

    def settle(self) -> None:
        """Delivers every order and report."""
        while any(shard.orders or shard.reports for shard in self.shards):
            for number, shard in enumerate(self.shards):
                if shard.orders:
                    self._order(number)
                if shard.reports:
                    self._report(number)

    @property
    def values(self) -> np.ndarray:
        """Parameters of all shards, in shard order."""
        return np.concatenate([shard.values for shard in self.shards])

    # ---- start ----

    def _join(self, number: int, gradients: list[float]) -> SimulatedWorker:
        answer = self.registrar.join(self.now, JoinRequest(worker_id=number, role=Role.ROLE_TRAINER))
        self._take_orders()
        shards = len(self.shards)
        return SimulatedWorker(
            number,
            answer.incarnation,
            gradients,
            up=[deque() for _ in range(shards)],
            down=[deque() for _ in range(shards)],
            outcomes=[[] for _ in range(shards)],
            rounds=[0] * shards,
        )

    def _start(self) -> None:
        for number in range(len(self.shards)):
            installed = PlanInstalled(fingerprint=self.plan.fingerprint)
            self._enrol(self.workers[0])
            self.registrar.report(self.now, number, ShardReport(plan_installed=installed))
        assert self._enrol(self.workers[0]).state == EnrolResponse.STATE_INITIALISE
        for number, simulated in enumerate(self.shards):
            simulated.shard.publish_all()
            simulated.shard.state.ready = True
            self.registrar.report(self.now, number, ShardReport(initialised=Initialised(grant=1)))
        self._take_orders()
        self.settle()
        for worker in self.workers:
            assert self._enrol(worker).state == EnrolResponse.STATE_READY
        self.settle()
        for worker in self.workers:
            assert self.registrar.activate(self.now, *worker.key, 0).open
            for simulated in self.shards:
                simulated.shard.state.welcome(worker.key)
        self.settle()

    def _enrol(self, worker: SimulatedWorker) -> EnrolResponse:
        request = EnrolRequest(
            worker_id=worker.id, incarnation=worker.incarnation, plan=self.plan, optimizer=self.optimizer
        )
        answer = self.registrar.enrol(self.now, request)
        self._take_orders()
        return answer

    # ---- workers ----

    def _begin_steps(self) -> None:
        for worker in self.workers:
            idle = not worker.waiting and worker.step < len(worker.gradients)
            if idle and self.random.random() < worker.speed:
                self.begin_step(worker)

    def begin_step(self, worker: SimulatedWorker) -> None:
        """Sends the next step to every shard."""
        value = worker.gradients[worker.step]
        worker.step += 1
        worker.commits_sent += 1
        worker.waiting = set(range(len(self.shards)))
        worker.sent = [self._messages(worker, number, value) for number in range(len(self.shards))]
        for number, messages in enumerate(worker.sent):
            worker.up[number].extend(messages)

    def _messages(self, worker: SimulatedWorker, number: int, value: float) -> tuple[Frames, Commit]:
        store = self.shards[number].shard.store
        blocks = [block for block in store.blocks if block.group >= 0]
        encoded = [encode("fp32", np.full(block.num_elements, value, dtype=np.float32)) for block in blocks]
        frames = Frames(
            step=worker.step,
            attempt=1,
            blocks=[block.block_id for block in blocks],
            lengths=[len(frame) for frame in encoded],
            payload=b"".join(encoded),
        )
        commit = Commit(
            step=worker.step,
            attempt=1,
            num_frames=len(blocks),
            verdict=Verdict.VERDICT_APPLY,
            num_samples=self.num_samples[worker.id],
            scale=1.0,
            groups=self.optimizer.groups,
            round=max(worker.rounds) + 1,
        )
        return frames, commit

    def _cut(self, worker: SimulatedWorker, number: int) -> None:
        worker.up[number].clear()
        worker.down[number].clear()
        self.shards[number].shard.state.welcome(worker.key)
        if number in worker.waiting:
            worker.up[number].extend(worker.sent[number])

    def _up(self, worker: SimulatedWorker, number: int) -> None:
        repeat = self.faults.repeat and self.random.random() < self.faults.repeat
        message = worker.up[number][0] if repeat else worker.up[number].popleft()
        try:
            self.deliver(worker, number, message)
        except FencedError:
            if worker not in self.dead:
                raise

    def deliver(self, worker: SimulatedWorker, number: int, message: Frames | Commit) -> None:
        """One message of a worker reaches a shard."""
        shard = self.shards[number].shard
        if isinstance(message, Commit):
            self._carry_out(number, shard.state.commit(worker.key, message))
        elif shard.state.admit(worker.key, message.step, message.attempt, message.blocks):
            parsed = shard.parse(message.blocks, message.lengths, message.payload)
            shard.state.stage(worker.key, message.step, message.attempt, parsed)

    def _down(self, worker: SimulatedWorker, number: int) -> None:
        message = worker.down[number].popleft()
        if isinstance(message, Outcome):
            if message.step == worker.step:
                worker.outcomes[number].append(message)
            return
        if message.step != worker.step or number not in worker.waiting:
            return
        worker.rounds[number] = message.round
        worker.waiting.discard(number)

    # ---- servers ----

    def _order(self, number: int) -> None:
        simulated = self.shards[number]
        order = simulated.orders.popleft()
        match order.WhichOneof("order"):
            case "view":
                self._carry_out(number, simulated.shard.state.install_view(order.view))
                installed = ViewInstalled(number=order.view.number)
                simulated.reports.append(ShardReport(view_installed=installed))
            case "close":
                simulated.rounds.append(order.close)
                self._carry_out(number, simulated.shard.state.close(order.close))
            case "norms":
                simulated.shard.norms.take(order.norms)

    def _report(self, number: int) -> None:
        report = self.shards[number].reports.popleft()
        self.registrar.report(self.now, number, report)
        self._take_orders()

    def _take_orders(self) -> None:
        for order in self.registrar.take_orders():
            for shard in getattr(self, "shards", []):
                shard.orders.append(order)

    def _run_job(self, number: int) -> None:
        """The next pass of the job in front; the job is done behind its last."""
        simulated = self.shards[number]
        job = simulated.jobs[0]
        if simulated.passes is None:
            simulated.passes = deque(simulated.shard.applier.passes(job) if job.parts else ())
        if simulated.passes:
            current = simulated.passes.popleft()
            current.begin()
            for bundle in simulated.shard.store.bundles:
                current.over(bundle)
            simulated.reports.extend(current.end())
        if not simulated.passes:
            simulated.jobs.popleft()
            simulated.passes = None
            self._carry_out(number, simulated.shard.state.finish(job))

    def _carry_out(self, number: int, effects: list[Effect]) -> None:
        simulated = self.shards[number]
        workers = {worker.key: worker for worker in [*self.workers, *self.dead]}
        for effect in effects:
            match effect:
                case Report(report):
                    simulated.reports.append(report)
                case Run(job):
                    simulated.jobs.append(job)
                case Tell(key, outcome):
                    workers[key].down[number].append(outcome)
                case AnswerPull(ticket, done):
                    workers[ticket.key].down[number].append(done)
                    sent = {worker.id: worker.commits_sent for worker in self.workers}
                    pulled = Pulled(ticket.key[0], done.clock, done.smallest_clock, sent)
                    self.history.append(pulled)
