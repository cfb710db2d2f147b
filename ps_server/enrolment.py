"""Agreement on model and optimizer. Pure; owned by the registrar."""

import math
from dataclasses import dataclass

from ..compression.parameter_encoders import parse_parameter_encoders
from ..protos.common_pb2 import OptimizerSpecification, Plan
from ..protos.errors import BadRequestError, OptimizerMismatchError, OverBudgetError, PlanMismatchError
from ..protos.registrar_pb2 import EnrolRequest
from .config import JobSettings
from .optimizers import check_optimizer, optimizer_for


@dataclass
class Enrolment:
    """The job's plan and optimizer, from the first worker that enrolled. Invariant: they never change once set."""

    num_shards: int
    plan: Plan | None = None
    optimizer: OptimizerSpecification | None = None
    first_worker: int = -1

    def agree(self, request: EnrolRequest, settings: JobSettings, num_trainers: int) -> bool:
        """Takes the first worker's plan and optimizer; compares everybody else's. True if this was the first.

        Raises:
            PlanMismatchError, OptimizerMismatchError: names the first difference and both workers.
            BadRequestError, SettingError: the plan contradicts itself, or there is no such optimizer.
            OverBudgetError: with `num_trainers` trainers a shard would hold too much.
        """
        if self.plan is None:
            check_plan(request.plan, self.num_shards)
            check_optimizer(request.optimizer)
            check_groups(request.plan, request.optimizer)
            check_budget(request, settings, self.num_shards, num_trainers)
            self.plan, self.optimizer = request.plan, request.optimizer
            self.first_worker = request.worker_id
            return True
        mine, theirs = f"worker {request.worker_id}", f"worker {self.first_worker}"
        if request.plan.fingerprint != self.plan.fingerprint:
            raise PlanMismatchError(
                f"the model of {mine} differs from that of {theirs}: {plan_difference(self.plan, request.plan)}"
            )
        assert self.optimizer is not None
        difference = optimizer_difference(self.optimizer, request.optimizer)
        if difference is not None:
            raise OptimizerMismatchError(f"the optimizer of {mine} differs from that of {theirs}: {difference}")
        check_budget(request, settings, self.num_shards, num_trainers)
        return False


def check_plan(plan: Plan, num_shards: int) -> None:
    """Refuses a plan that contradicts itself.

    Raises:
        BadRequestError: says what is wrong.
    """
    if plan.num_shards != num_shards:
        raise BadRequestError(f"the plan is for {plan.num_shards} shards, the job has {num_shards}")
    covered = [0] * len(plan.parameters)
    for number, block in enumerate(plan.blocks):
        if block.parameter >= len(plan.parameters) or block.shard >= num_shards:
            raise BadRequestError(f"block {number} names a parameter or shard that does not exist")
        shape = plan.parameters[block.parameter].shape
        inside = len(block.offsets) == len(block.sizes) == len(shape) and all(
            size > 0 and offset + size <= extent
            for offset, size, extent in zip(block.offsets, block.sizes, shape, strict=True)
        )
        if not inside:
            raise BadRequestError(f"block {number} lies outside {plan.parameters[block.parameter].name}")
        covered[block.parameter] += math.prod(block.sizes)
    for parameter, elements in zip(plan.parameters, covered, strict=True):
        if elements != math.prod(parameter.shape):
            raise BadRequestError(f"the blocks of {parameter.name} do not cover it exactly")


def check_budget(request: EnrolRequest, settings: JobSettings, num_shards: int, num_trainers: int) -> None:
    """Parameters and state fit; every trainer may have one whole step staged, so nothing is ever held back.

    Raises:
        OverBudgetError: names what to change.
    """
    encoders = parse_parameter_encoders(settings.push_codec, settings.push_overrides)
    encoder_of = [encoders.of([p.name, *p.aliases], p.shape) for p in request.plan.parameters]
    elements, step_bytes = [0] * num_shards, [0] * num_shards
    for block in request.plan.blocks:
        num_elements = math.prod(block.sizes)
        elements[block.shard] += num_elements
        if request.plan.parameters[block.parameter].group >= 0:
            step_bytes[block.shard] += encoder_of[block.parameter].frame_bound(num_elements)
    optimizer = optimizer_for(request.optimizer, [], 0, settings.optimizer_state)
    state_bytes = math.ceil(max(elements) * (4 + optimizer.bytes_per_element))
    if settings.memory_bytes is not None and state_bytes > settings.memory_bytes:
        raise OverBudgetError(
            f"parameters and optimizer state of one of {num_shards} shards take {state_bytes} bytes, more than "
            f"memory_bytes={settings.memory_bytes}; use more shards, a larger memory_bytes or optimizer_state=int8"
        )
    if num_trainers * max(step_bytes) > settings.staging_bytes:
        raise OverBudgetError(
            f"worker {request.worker_id} is one too many: {num_trainers} workers x {max(step_bytes)} bytes of frames "
            f"({encoders.main.spec}) exceed staging_bytes={settings.staging_bytes} on one of {num_shards} shards; use a "
            "narrower push_codec, more shards or a larger staging_bytes"
        )


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
        if list(mine.shape) != list(other.shape):
            return f"{mine.name} has shape {tuple(other.shape)}, not {tuple(mine.shape)}"
        if mine.trainable != other.trainable:
            return f"{mine.name} is {'trainable' if other.trainable else 'frozen'} there, but not in the job"
        if mine.group != other.group:
            return f"{mine.name} is in parameter group {other.group}, not {mine.group}"
        if list(mine.aliases) != list(other.aliases):
            return f"{mine.name} is tied to {list(other.aliases)}, not to {list(mine.aliases)}"
    return f"its blocks are cut differently (block_elements {theirs.block_elements}, not {ours.block_elements})"


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
