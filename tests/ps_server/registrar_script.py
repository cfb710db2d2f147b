"""A registrar whose shards are played by the test: calls in, orders out, time as a number."""

from typing import TypeVar

from raw_worker import plan_for, sgd

from pushpull.protos.registrar_pb2 import (
    ActivateResponse,
    EnrolRequest,
    EnrolResponse,
    Initialised,
    JoinRequest,
    PlanInstalled,
    RegistrarOrder,
    Role,
    RoundRecord,
    ShardReport,
    StepStaged,
    View,
    ViewInstalled,
    WorkerReport,
)
from pushpull.ps_server.config import JobSettings
from pushpull.ps_server.registrar import Registrar

NUM_SHARDS = 2
Key = tuple[int, int]


class Script:
    """A registrar whose shards obey at once, unless told not to."""

    def __init__(self, **settings: object) -> None:
        self.now = 0.0
        self.obey = True
        self.registrar = Registrar(JobSettings(**settings), NUM_SHARDS, tick_seconds=0.25)  # type: ignore[arg-type]
        self.rounds: list[RoundRecord] = []
        self.views: list[View] = []
        self.unread: list[RegistrarOrder] = []

    def pump(self) -> None:
        while True:
            self.unread += self.registrar.take_orders()
            if not self.obey or not self.unread:
                return
            order = self.unread.pop(0)
            match order.WhichOneof("order"):
                case "install_plan":
                    report = ShardReport(plan_installed=PlanInstalled())
                case "view":
                    self.views.append(order.view)
                    report = ShardReport(view_installed=ViewInstalled(number=order.view.number))
                case "initialise" if not order.initialise.done:
                    report = ShardReport(initialised=Initialised(grant=order.initialise.grant))
                case "close":
                    self.rounds.append(order.close)
                    continue
                case _:
                    continue
            self.report(report)

    def report(self, report: ShardReport, shards: tuple[int, ...] = (0, 1)) -> None:
        for shard in shards:
            self.registrar.report(self.now, shard, report)

    def join(self, worker: int = -1, role: Role = Role.ROLE_TRAINER) -> Key:
        answer = self.registrar.join(self.now, JoinRequest(worker_id=worker, role=role))
        self.pump()
        return answer.worker_id, answer.incarnation

    def enrol(self, key: Key) -> EnrolResponse:
        request = EnrolRequest(worker_id=key[0], incarnation=key[1], plan=plan_for(NUM_SHARDS), optimizer=sgd())
        answer = self.registrar.enrol(self.now, request)
        self.pump()
        return answer

    def ready(self, worker: int = -1) -> Key:
        key = self.join(worker)
        for _ in range(4):
            if self.enrol(key).state == EnrolResponse.STATE_READY:
                return key
        raise AssertionError("not ready")

    def activate(self, key: Key, last_clock: int = 0) -> ActivateResponse:
        answer = self.registrar.activate(self.now, *key, last_clock)
        self.pump()
        return answer

    def staged(self, key: Key, step: int, round_number: int, shards: tuple[int, ...] = (0, 1), **more: object) -> None:
        report = StepStaged(worker_id=key[0], incarnation=key[1], step=step, round=round_number, **more)
        if "apply" not in more:
            report.apply, report.num_samples, report.scale = True, 1.0, 1.0
        self.report(ShardReport(staged=report), shards)
        self.pump()

    def at(self, now: float, *alive: Key) -> None:
        """Ticks up to a time; these workers beat all the while."""
        while self.now < now:
            self.now = min(now, self.now + 0.25)
            for key in alive:
                self.registrar.heartbeat(self.now, *key, WorkerReport())
            self.registrar.tick(self.now)
            self.pump()

    def contributors(self) -> list[list[int]]:
        return [[c.worker_id for c in record.contributions] for record in self.rounds]


Kind = TypeVar("Kind", bound=Script)


def two_active(kind: type[Kind] = Script, **settings: object) -> tuple[Kind, Key, Key]:  # type: ignore[assignment]
    """A registrar with two members."""
    script = kind(**{"expected_workers": 2, **settings})
    first = script.join(0)
    for _ in range(4):
        script.enrol(first)
    second = script.ready(1)
    script.activate(first)
    script.activate(second)
    return script, first, second
