"""Agreement on model and optimizer. Pure; owned by the registrar."""

import math
from dataclasses import dataclass
from operator import ne

from ..compression.parameter_encoders import parse_parameter_encoders
from ..protos.common_pb2 import OptimizerSpecification, Plan
from ..protos.errors import BadRequestError, OptimizerMismatchError, OverBudgetError, PlanMismatchError
from ..protos.registrar_pb2 import EnrolRequest
from .config import JobSettings
from .initial_table import InitialTable
from .optimizers import check_optimizer, optimizer_for
from .plan_check import check_plan, plan_digest


@dataclass(frozen=True)
class Demands:
    """What a model asks of the fullest shard."""

    state_bytes: int
    """Parameters and optimizer state."""
    step_bytes: int
    """Frames of one worker's step."""


@dataclass(frozen=True)
class Examined:
    """What is known of an enrolment without knowing who else takes part: all of it that costs time."""

    plan_digest: bytes
    demands: Demands | None
    """Of a first plan, which is checked whole; others are only compared."""


@dataclass
class Enrolment:
    """The job's plan and optimizer, from the first worker that enrolled. Invariant: they never change once set."""

    num_shards: int
    settings: JobSettings
    initial: InitialTable | None = None
    """What the servers take their first values from, instead of a worker's."""
    plan: Plan | None = None
    optimizer: OptimizerSpecification | None = None
    first_worker: int = -1
    _digest: bytes = b""
    _demands: Demands | None = None

    def examine(self, request: EnrolRequest) -> Examined:
        """The part of `agree` that takes time with a large model. Changes nothing, and may be called from any thread.

        Raises:
            BadRequestError, SettingError: the plan contradicts itself, or there is no such optimizer.
            PlanMismatchError: the file of initial values does not fit it, or it is not the job's.
            OverBudgetError: too many blocks, or too much for one worker.
        """
        if self.plan is not None:
            digest = b"" if _is_of_another_size(self.plan, request.plan) else plan_digest(request.plan)
            self._check_same(self.plan, request, digest)
            return Examined(digest, None)
        check_plan(request.plan, self.num_shards)
        if self.initial is not None:
            self.initial.check(request.plan)
        check_optimizer(request.optimizer)
        check_groups(request.plan, request.optimizer)
        return Examined(plan_digest(request.plan), check_budget(request, self.settings, self.num_shards, 1))

    def agree(self, request: EnrolRequest, examined: Examined, num_trainers: int) -> bool:
        """Takes the first worker's plan and optimizer; compares everybody else's. True if this was the first.

        Raises:
            PlanMismatchError, OptimizerMismatchError: names the first difference and both workers.
            OverBudgetError: with `num_trainers` trainers a shard would hold too much.
        """
        demands = examined.demands if self.plan is None else self._demands
        if self.plan is None or self.optimizer is None:
            self._demands = check_budget(request, self.settings, self.num_shards, num_trainers, demands)
            self.first_worker, self._digest = request.worker_id, examined.plan_digest
            # The plan last: `examine` compares with the others once it sees it.
            self.optimizer = request.optimizer
            self.plan = request.plan
            return True
        self._check_same(self.plan, request, examined.plan_digest)
        difference = optimizer_difference(self.optimizer, request.optimizer)
        if difference is not None:
            raise OptimizerMismatchError(
                f"the optimizer of worker {request.worker_id} differs from that of worker {self.first_worker}: {difference}"
            )
        check_budget(request, self.settings, self.num_shards, num_trainers, demands)
        return False

    def _check_same(self, plan: Plan, request: EnrolRequest, digest: bytes) -> None:
        if digest != self._digest:
            raise PlanMismatchError(
                f"the model of worker {request.worker_id} differs from that of worker {self.first_worker}: "
                f"{plan_difference(plan, request.plan)}"
            )

    @property
    def agreed(self) -> tuple[Plan, OptimizerSpecification] | None:
        """The job's plan and optimizer, once a worker has enrolled."""
        return None if self.plan is None or self.optimizer is None else (self.plan, self.optimizer)


def _is_of_another_size(ours: Plan, theirs: Plan) -> bool:
    return (len(ours.parameters), len(ours.blocks)) != (len(theirs.parameters), len(theirs.blocks))


def check_budget(
    request: EnrolRequest, settings: JobSettings, num_shards: int, num_trainers: int, demands: Demands | None = None
) -> Demands:
    """Parameters and state fit; every trainer may have one whole step staged, so nothing is ever held back.

    Raises:
        OverBudgetError: names what to change.
    """
    demands = demands or demands_of(request, settings, num_shards)
    if settings.memory_bytes is not None and demands.state_bytes > settings.memory_bytes:
        raise OverBudgetError(
            f"parameters and optimizer state of one of {num_shards} shards take {demands.state_bytes} bytes, more than "
            f"memory_bytes={settings.memory_bytes}; use more shards, a larger memory_bytes or optimizer_state=int8"
        )
    if num_trainers * demands.step_bytes > settings.staging_bytes:
        codec = parse_parameter_encoders(settings.push_codec, settings.push_overrides).main.spec
        raise OverBudgetError(
            f"worker {request.worker_id} is one too many: {num_trainers} workers x {demands.step_bytes} bytes of frames "
            f"({codec}) exceed staging_bytes={settings.staging_bytes} on one of {num_shards} shards; use a narrower "
            "push_codec, more shards or a larger staging_bytes, or leave what is never trained out of the parameter groups"
        )
    return demands


def demands_of(request: EnrolRequest, settings: JobSettings, num_shards: int) -> Demands:
    """Of a plan that holds together."""
    encoders = parse_parameter_encoders(settings.push_codec, settings.push_overrides)
    encoder_of = [encoders.of([p.name, *p.aliases], p.shape) for p in request.plan.parameters]
    trained = [parameter.group >= 0 for parameter in request.plan.parameters]
    elements, step_bytes = [0] * num_shards, [0] * num_shards
    for block in request.plan.blocks:
        num_elements = math.prod(block.sizes)
        elements[block.shard] += num_elements
        if trained[block.parameter]:
            step_bytes[block.shard] += encoder_of[block.parameter].frame_bound(num_elements)
    optimizer = optimizer_for(request.optimizer, [], 0, settings.optimizer_state)
    return Demands(math.ceil(max(elements) * (4 + optimizer.bytes_per_element)), max(step_bytes))


def check_groups(plan: Plan, optimizer: OptimizerSpecification) -> None:
    """Refuses a plan that names parameter groups the optimizer does not have.

    Raises:
        BadRequestError: names the parameter.
    """
    for parameter in plan.parameters:
        if not -1 <= parameter.group < len(optimizer.groups):
            raise BadRequestError(f"{parameter.name} is in parameter group {parameter.group}, which does not exist")


def plan_difference(ours: Plan, theirs: Plan) -> str:
    """The first difference between two plans, for people."""
    for index in range(max(len(ours.parameters), len(theirs.parameters))):
        if index >= len(theirs.parameters):
            return f"it lacks parameter {ours.parameters[index].name}"
        if index >= len(ours.parameters):
            return f"it has parameter {theirs.parameters[index].name}, which the job does not know"
        mine, other = ours.parameters[index], theirs.parameters[index]
        if mine.name != other.name:
            return f"parameter {index} is {other.name}, not {mine.name}"
        if mine.carries != other.carries:
            return f"{mine.name} is {other.carries or 'of real numbers'}, not {mine.carries or 'of real numbers'}"
        if list(mine.shape) != list(other.shape):
            return f"{mine.name} has shape {tuple(other.shape)}, not {tuple(mine.shape)}"
        if mine.trainable != other.trainable:
            return f"{mine.name} is {'trainable' if other.trainable else 'frozen'} there, but not in the job"
        if mine.group != other.group:
            return f"{mine.name} is in parameter group {other.group}, not {mine.group}"
        if list(mine.aliases) != list(other.aliases):
            return f"{mine.name} is tied to {list(other.aliases)}, not to {list(mine.aliases)}"
    if (
        ours.block_elements != theirs.block_elements
        or len(ours.blocks) != len(theirs.blocks)
        or any(map(ne, ours.blocks, theirs.blocks))
    ):
        return f"its blocks are cut differently (block_elements {theirs.block_elements}, not {ours.block_elements})"
    return f"its plan has the fingerprint {theirs.fingerprint}, not {ours.fingerprint}: another version of pushpull made it"


def optimizer_difference(ours: OptimizerSpecification, theirs: OptimizerSpecification) -> str | None:
    """The first difference between two optimizers, for people; None if there is none."""
    if ours.name != theirs.name:
        return f"it is {theirs.name}, not {ours.name}"
    if len(ours.groups) != len(theirs.groups):
        return f"it has {len(theirs.groups)} parameter groups, not {len(ours.groups)}"
    for index, (mine, other) in enumerate(zip(ours.groups, theirs.groups, strict=True)):
        for field_name, values, others in (
            ("number", mine.numbers, other.numbers),
            ("flag", mine.flags, other.flags),
        ):
            for name in sorted(set(values) | set(others)):
                if name not in values or name not in others or values[name] != others[name]:
                    want, got = values.get(name, "absent"), others.get(name, "absent")
                    return f"{field_name} {name} of group {index} is {got}, not {want}"
    return None
