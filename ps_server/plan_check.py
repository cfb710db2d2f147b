"""Whether a plan that a worker brings is one at all. Pure; what it costs is bounded by the plan's size."""

import hashlib
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from ..protos.common_pb2 import Block, Parameter, Plan
from ..protos.errors import BadRequestError, OverBudgetError

MOST_BLOCKS = 1 << 16
"""Of a plan. The derived size of a block makes about 64 a model and at most one for each million elements."""
MOST_CUT_DIMENSIONS = 8
"""Of one parameter."""

Corner = tuple[int, ...]


def plan_digest(plan: Plan) -> bytes:
    """Of everything that a plan says. It is not copied: that would take longer than all the rest."""
    return hashlib.sha256(plan.SerializeToString(deterministic=True)).digest()


def check_plan(plan: Plan, num_shards: int) -> None:
    """Refuses a plan that contradicts itself: blocks must lie in their parameters and cover each exactly once.

    Raises:
        BadRequestError: says what is wrong.
        OverBudgetError: too many blocks.
    """
    if len(plan.blocks) > MOST_BLOCKS or len(plan.parameters) > MOST_BLOCKS:
        raise OverBudgetError(
            f"the model has {len(plan.parameters)} parameters and buffers in {len(plan.blocks)} blocks; servers take at most "
            f"{MOST_BLOCKS} of either: raise block_elements={plan.block_elements}, or leave it out"
        )
    if plan.num_shards != num_shards:
        raise BadRequestError(f"the plan is for {plan.num_shards} shards, the job has {num_shards}")
    names = Counter(parameter.name for parameter in plan.parameters)
    if len(names) < len(plan.parameters):
        raise BadRequestError(f"the plan has two parameters of the name {names.most_common(1)[0][0]}")
    blocks_of: defaultdict[int, list[Block]] = defaultdict(list)
    for number, block in enumerate(plan.blocks):
        if block.parameter >= len(plan.parameters) or block.shard >= num_shards:
            raise BadRequestError(f"block {number} names a parameter or shard that does not exist")
        _check_inside(number, block, plan.parameters[block.parameter])
        blocks_of[block.parameter].append(block)
    for index, parameter in enumerate(plan.parameters):
        if not _covered_once(parameter.shape, blocks_of[index]):
            raise BadRequestError(f"the blocks of {parameter.name} do not cover each of its elements exactly once")


def _check_inside(number: int, block: Block, parameter: Parameter) -> None:
    shape = parameter.shape
    inside = len(block.offsets) == len(block.sizes) == len(shape) and all(
        size > 0 and offset + size <= extent
        for offset, size, extent in zip(block.offsets, block.sizes, shape, strict=True)
    )
    if not inside:
        raise BadRequestError(f"block {number} lies outside {parameter.name}")


def _covered_once(shape: Sequence[int], blocks: Sequence[Block]) -> bool:
    """Whether boxes inside a box tile it.

    They do exactly when, at every point, corners of the boxes (counted with the sign of their parity) add up to those of the
    whole: the signed corners are the mixed differences of "how often is this element covered", which determine it.
    """
    if math.prod(shape) == 0:
        return not blocks
    cut = [axis for axis, extent in enumerate(shape) if any(block.sizes[axis] != extent for block in blocks)]
    if len(cut) > MOST_CUT_DIMENSIONS:
        raise BadRequestError(f"a parameter is cut along {len(cut)} dimensions; at most {MOST_CUT_DIMENSIONS} can be")
    open_corners: Counter[Corner] = Counter()
    for block in blocks:
        _add_corners(open_corners, [(block.offsets[axis], block.offsets[axis] + block.sizes[axis]) for axis in cut], 1)
    _add_corners(open_corners, [(0, shape[axis]) for axis in cut], -1)
    return not any(open_corners.values())


def _add_corners(corners: "Counter[Corner]", spans: Sequence[tuple[int, int]], weight: int) -> None:
    for ends in itertools.product((0, 1), repeat=len(spans)):
        corner = tuple(span[end] for span, end in zip(spans, ends, strict=True))
        corners[corner] += -weight if sum(ends) % 2 else weight
