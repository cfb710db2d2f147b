"""Which plans the registrar takes from a worker it knows nothing of."""

import itertools
import time
from collections.abc import Callable, Sequence

import pytest
from raw_worker import plan_for
from registrar_script import Key, Script

from pushpull.protos.common_pb2 import Block, OptimizerSpecification, Parameter, ParameterGroup, Plan
from pushpull.protos.errors import BadRequestError, OverBudgetError, PlanMismatchError, PushpullError
from pushpull.protos.registrar_pb2 import EnrolRequest, EnrolResponse
from pushpull.ps_server.plan_check import MOST_BLOCKS, check_plan
from pushpull.worker.grid import Grid
from pushpull.worker.layout import parse_layout
from pushpull.worker.plan import TableEntry, make_plan

Box = tuple[Sequence[int], Sequence[int]]
SGD = OptimizerSpecification(name="SGD", groups=[ParameterGroup(numbers={"lr": 0.1})])


def plan_of(shape: Sequence[int], *boxes: Box) -> Plan:
    blocks = [Block(parameter=0, offsets=offsets, sizes=sizes, shard=0) for offsets, sizes in boxes]
    return Plan(parameters=[Parameter(name="p", shape=shape, trainable=True)], blocks=blocks, num_shards=1)


@pytest.mark.parametrize(
    ("shape", "boxes"),
    [
        ((), [((), ())]),
        ((0, 3), []),
        ((6,), [((0,), (2,)), ((2,), (4,))]),
        ((2, 2), [((0, 0), (1, 2)), ((1, 0), (1, 1)), ((1, 1), (1, 1))]),
        ((3, 3), [((0, 0), (2, 1)), ((0, 1), (1, 2)), ((1, 2), (2, 1)), ((2, 0), (1, 2)), ((1, 1), (1, 1))]),
    ],
    ids=["scalar", "empty", "line", "no grid", "pinwheel"],
)
def test_blocks_that_tile_their_parameter_are_taken(shape: Sequence[int], boxes: Sequence[Box]) -> None:
    check_plan(plan_of(shape, *boxes), 1)


@pytest.mark.parametrize(
    ("shape", "boxes"),
    [
        ((6,), [((0,), (3,)), ((0,), (3,))]),
        ((6,), [((0,), (4,)), ((2,), (2,))]),
        ((2, 2), [((0, 0), (1, 2)), ((0, 0), (1, 2))]),
        ((2, 2), [((0, 0), (1, 1)), ((0, 1), (1, 1)), ((1, 0), (1, 1)), ((1, 0), (1, 1))]),
        ((6,), [((0,), (3,))]),
        ((6,), []),
        ((0,), [((0,), (0,))]),
    ],
    ids=["twice one half", "shifted", "twice one row", "one cell twice", "a gap", "nothing", "something of nothing"],
)
def test_blocks_that_overlap_or_leave_gaps_are_refused(shape: Sequence[int], boxes: Sequence[Box]) -> None:
    """The first four have as many elements as their parameter."""
    with pytest.raises(BadRequestError, match=r"exactly once|outside"):
        check_plan(plan_of(shape, *boxes), 1)


def test_exactly_the_tilings_of_a_small_parameter_are_taken() -> None:
    """Every pair of boxes inside 2 x 3, against a count of how often each element is covered."""
    shape = (2, 3)
    spans = [[(a, b - a) for a, b in itertools.combinations(range(extent + 1), 2)] for extent in shape]
    boxes = [((r[0], c[0]), (r[1], c[1])) for r, c in itertools.product(*spans)]
    for pair in itertools.combinations_with_replacement(boxes, 2):
        covered = [
            sum(o[0] <= r < o[0] + s[0] and o[1] <= c < o[1] + s[1] for o, s in pair)
            for r, c in itertools.product(range(2), range(3))
        ]
        try:
            check_plan(plan_of(shape, *pair), 1)
            taken = True
        except BadRequestError:
            taken = False
        assert taken == (set(covered) == {1}), pair


def test_what_workers_make_for_every_layout_is_taken() -> None:
    entries = [
        TableEntry("w", (12, 10), True, group=0),
        TableEntry("b", (12,), True, group=0),
        TableEntry("s", (), True),
    ]
    grid = Grid((parse_layout("tp2"), parse_layout("fsdp4")), (("w", 1),))
    for limit in (1, 7, 50, 1000):
        check_plan(make_plan(entries, 3, limit, grid).to_message(), 3)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(num_shards=2, blocks=[Block()] * 400_000),
        Plan(num_shards=2, parameters=[Parameter()] * 400_000),
    ],
    ids=["blocks", "parameters"],
)
def test_more_than_servers_take_is_refused_before_anything_is_looked_at(plan: Plan) -> None:
    with pytest.raises(OverBudgetError, match=f"at most {MOST_BLOCKS}"):
        check_plan(plan, 2)


def test_the_largest_plan_is_checked_in_a_time_that_grows_with_its_blocks() -> None:
    """Not with their square, which would be a hundred times as long as this allows."""
    started = time.process_time()
    edge = 256
    boxes = [((row, column), (1, 1)) for row in range(edge) for column in range(edge)]
    check_plan(plan_of((edge, edge), *boxes), 1)
    assert time.process_time() - started < 15


def enrol(script: Script, key: Key, plan: Plan) -> EnrolResponse:
    request = EnrolRequest(worker_id=key[0], incarnation=key[1], plan=plan, optimizer=SGD)
    answer = script.registrar.enrol(script.now, request)
    script.pump()
    return answer


def _names_a_parameter_twice(plan: Plan) -> None:
    plan.parameters[1].name = "p0"


def _names_no_parameter(plan: Plan) -> None:
    plan.blocks[0].parameter = 99


def _moves_a_block(plan: Plan) -> None:
    plan.blocks[0].shard, plan.blocks[1].shard = plan.blocks[1].shard, plan.blocks[0].shard


@pytest.mark.parametrize(
    ("change", "first", "later"),
    [
        (_names_a_parameter_twice, BadRequestError, PlanMismatchError),
        (_names_no_parameter, BadRequestError, PlanMismatchError),
        (_moves_a_block, None, PlanMismatchError),
    ],
)
def test_what_a_plan_says_counts_and_not_its_fingerprint(
    change: Callable[[Plan], None], first: type[PushpullError] | None, later: type[PushpullError]
) -> None:
    changed = plan_for(2)
    change(changed)
    assert changed.fingerprint == plan_for(2).fingerprint
    script = Script()
    key = script.join()
    if first is not None:
        with pytest.raises(first):
            enrol(script, key, changed)
    enrol(script, key, plan_for(2))
    with pytest.raises(later):
        enrol(script, script.join(), changed)
    assert [enrol(script, key, plan_for(2)).state for _ in range(2)] == [
        EnrolResponse.STATE_INITIALISE,
        EnrolResponse.STATE_READY,
    ]


def test_the_same_plan_under_another_fingerprint_is_another() -> None:
    """Shards compare fingerprints in every greeting."""
    script = Script()
    script.ready()
    renamed = plan_for(2)
    renamed.fingerprint = "other"
    with pytest.raises(PlanMismatchError, match="fingerprint other"):
        enrol(script, script.join(), renamed)
