"""A whole cluster in one thread: the real cores, with every message in a queue that a seeded scheduler empties in any order.

Messages between one rank and one shard keep their order, as on a stream. Faults repeat messages and cut streams; a cut
loses everything under way in both directions, and the rank sends the same bytes again.
"""

import random
from collections import deque

import numpy as np
from raw_worker import encode, plan_for, sgd
from simulated import Faults, Pulled, SimulatedShard, SimulatedStream, SimulatedWorker

from pushpull.protos.common_pb2 import OptimizerSpecification, Plan
from pushpull.protos.errors import FencedError
from pushpull.protos.registrar_pb2 import (
    EnrolRequest,
    EnrolResponse,
    Initialised,
    InstallPlan,
    JoinRequest,
    PlanInstalled,
    Role,
    ShardReport,
    ViewInstalled,
    WorkerReport,
)
from pushpull.protos.shard_pb2 import Commit, Frames, Hello, Outcome, Verdict
from pushpull.ps_server.config import JobSettings
from pushpull.ps_server.effects import AnswerPull, Effect, Report, Run, Tell
from pushpull.ps_server.job import job_message
from pushpull.ps_server.keys import StreamKey
from pushpull.ps_server.registrar import Registrar
from pushpull.ps_server.shard import Shard


class Simulation:
    """`workers[i].gradients` are constants: every element of every block gets that gradient. Worker i has `ranks[i]` ranks."""

    def __init__(
        self,
        gradients: list[list[float]],
        *,
        seed: int,
        faults: Faults | None = None,
        num_shards: int = 2,
        num_samples: list[float] | None = None,
        ranks: list[int] | None = None,
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
        ranks = ranks or [1] * len(gradients)
        self.workers = [self._join(number, values, ranks[number]) for number, values in enumerate(gradients)]
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
            self._cut(worker, self.random.choice(worker.streams))
        choices = []
        for number, shard in enumerate(self.shards):
            choices += [(self._order, (number,))] if shard.orders else []
            choices += [(self._report, (number,))] if shard.reports else []
            choices += [(self._run_job, (number,))] if shard.may_run else []
        for worker in [*self.workers, *self.dead]:
            for stream in worker.streams:
                choices += [(self._up, (worker, stream))] if stream.up else []
                choices += [(self._down, (stream,))] if stream.down else []
        if choices:
            act, arguments = self.random.choice(choices)
            act(*arguments)

    def kill(self, worker: SimulatedWorker, rank: int | None = None) -> None:
        """A rank (None = all) says nothing any more; what it had sent may still arrive. The others beat on, but their worker
        begins no step. Its lease runs out while everybody else's holds.
        """
        self.workers.remove(worker)
        self.dead.append(worker)
        worker.silent_ranks = set(range(worker.num_ranks)) if rank is None else {rank}
        for stream in worker.streams:
            if stream.rank in worker.silent_ranks:
                for _ in range(self.random.randrange(len(stream.up) + 1)):
                    stream.up.pop()

    def let_leases_run_out(self) -> None:
        """Time passes, with a beat of every living rank in each tick."""
        end = self.now + self.settings.lease_seconds + 1
        while self.now < end:
            self.now += 0.1
            for worker in [*self.workers, *self.dead]:
                for rank in set(range(worker.num_ranks)) - worker.silent_ranks:
                    self._beat(worker, rank)
            self.registrar.tick(self.now)
            self._take_orders()

    def _beat(self, worker: SimulatedWorker, rank: int) -> None:
        try:
            self.registrar.heartbeat(self.now, *worker.key, WorkerReport(), rank)
        except FencedError:
            if worker not in self.dead:
                raise

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

    def _join(self, number: int, gradients: list[float], num_ranks: int) -> SimulatedWorker:
        request = JoinRequest(worker_id=number, role=Role.ROLE_TRAINER, num_ranks=num_ranks)
        answer = self.registrar.join(self.now, request)
        self._take_orders()
        streams = [SimulatedStream(rank, shard) for rank in range(num_ranks) for shard in range(len(self.shards))]
        return SimulatedWorker(number, answer.incarnation, gradients, num_ranks, streams=streams)

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
            for stream in worker.streams:
                self.greet(worker, stream)
        self.settle()

    def greet(self, worker: SimulatedWorker, stream: SimulatedStream) -> None:
        """A rank opens its stream."""
        shard = self.shards[stream.shard].shard
        hello = Hello(worker_id=worker.id, incarnation=worker.incarnation, rank=stream.rank, num_ranks=worker.num_ranks)
        if worker.num_ranks > 1:
            ids = [block.block_id for block in shard.store.blocks]
            hello.blocks.extend(block for block in ids if worker.owns(stream.rank, block, len(self.shards)))
        shard.state.welcome(hello)

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
        """Every rank sends its part of the next step to every shard."""
        value = worker.gradients[worker.step]
        worker.step += 1
        worker.commits_sent += 1
        round_number = max(stream.round for stream in worker.streams) + 1
        for stream in worker.streams:
            stream.waiting = True
            stream.sent = self._messages(worker, stream, value, round_number)
            stream.up.extend(stream.sent)

    def _messages(
        self, worker: SimulatedWorker, stream: SimulatedStream, value: float, round_number: int
    ) -> tuple[Frames, Commit]:
        store = self.shards[stream.shard].shard.store
        blocks = [
            block
            for block in store.blocks
            if block.group >= 0 and worker.owns(stream.rank, block.block_id, len(self.shards))
        ]
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
            round=round_number,
        )
        return frames, commit

    def _cut(self, worker: SimulatedWorker, stream: SimulatedStream) -> None:
        stream.up.clear()
        stream.down.clear()
        self.greet(worker, stream)
        if stream.waiting and stream.sent is not None:
            stream.up.extend(stream.sent)

    def _up(self, worker: SimulatedWorker, stream: SimulatedStream) -> None:
        repeat = self.faults.repeat and self.random.random() < self.faults.repeat
        message = stream.up[0] if repeat else stream.up.popleft()
        try:
            self.deliver(worker, stream, message)
        except FencedError:
            if worker not in self.dead:
                raise

    def deliver(self, worker: SimulatedWorker, stream: SimulatedStream, message: Frames | Commit) -> None:
        """One message of a rank reaches a shard."""
        shard = self.shards[stream.shard].shard
        key = StreamKey(*worker.key, stream.rank)
        if isinstance(message, Commit):
            self._carry_out(stream.shard, shard.state.commit(key, message))
        elif shard.state.admit(key, message.step, message.attempt, message.blocks):
            parsed = shard.parse(message.blocks, message.lengths, message.payload)
            shard.state.stage(key, message.step, message.attempt, parsed)

    def _down(self, stream: SimulatedStream) -> None:
        message = stream.down.popleft()
        if stream.sent is None or message.step != stream.sent[1].step:
            return
        if isinstance(message, Outcome):
            stream.outcomes.append(message)
        elif stream.waiting:
            stream.round = message.round
            stream.waiting = False

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
            simulated.passes = deque(simulated.shard.applier.passes(job))
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
                case Tell(keys, outcome):
                    for key in keys:
                        workers[key.worker].stream(key.rank, number).down.append(outcome)
                case AnswerPull(ticket, done):
                    workers[ticket.key.worker].stream(ticket.key.rank, number).down.append(done)
                    sent = {worker.id: worker.commits_sent for worker in self.workers}
                    pulled = Pulled(ticket.key.worker_id, done.clock, done.smallest_clock, sent)
                    self.history.append(pulled)
