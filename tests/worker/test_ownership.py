"""Who owns which block, what one rank sees of the plan, and whose gradients are added up."""

import pytest

from pushpull.protos.errors import SettingError
from pushpull.worker.grid import Box, Grid
from pushpull.worker.layout import Layout, parse_layout
from pushpull.worker.plan import ShardingPlan, TableEntry, make_plan
from pushpull.worker.ranks.ownership import Holders, holders_of
from pushpull.worker.ranks.rank_blocks import all_blocks, rank_blocks
from pushpull.worker.ranks.reductions import Reduction, reductions_of

WEIGHT, NORM = 0, 1
ENTRIES = [TableEntry("up.weight", (8, 6), True, group=0), TableEntry("norm", (6,), True, group=0)]
LEFT: Box = ((0, 0), (4, 6))
RIGHT: Box = ((4, 0), (4, 6))
WHOLE_NORM: Box = ((0,), (6,))
TWO_RANKS = [{WEIGHT: LEFT, NORM: WHOLE_NORM}, {WEIGHT: RIGHT, NORM: WHOLE_NORM}]


def plan_for(*layouts: str, block_elements: int = 100) -> ShardingPlan:
    grid = Grid(tuple(map(parse_layout, layouts)), (("up.*", 0),))
    return make_plan(ENTRIES, 2, block_elements, grid)


def test_every_block_has_exactly_one_owner_among_those_that_hold_it() -> None:
    plan = plan_for("tp2", "tp4")
    holders = holders_of(plan, TWO_RANKS, "tp2")
    assert [h.ranks for h in holders] == [(0,), (0,), (1,), (1,), (0, 1)]
    assert all(h.owner in h.ranks for h in holders)


def test_blocks_that_several_ranks_hold_go_to_the_least_loaded() -> None:
    plan = plan_for(block_elements=2)
    everything: dict[int, Box] = {WEIGHT: ((0, 0), (8, 6)), NORM: WHOLE_NORM}
    owners = [h.owner for h in holders_of(plan, [everything] * 3, "dp3")]
    assert [owners.count(rank) for rank in range(3)] == [9, 9, 9]


def test_a_rank_that_cuts_a_block_is_told_what_to_declare() -> None:
    with pytest.raises(
        SettingError, match=r"rank 0 holds \[0:4, 0:6\] of up.weight, which cuts \[0:8, 0:6\].*tp2.*layouts"
    ):
        holders_of(plan_for(), TWO_RANKS, "tp2")


def test_a_block_that_nobody_holds_is_named() -> None:
    with pytest.raises(SettingError, match=r"no rank of this worker holds \[4:8, 0:6\] of up.weight"):
        holders_of(plan_for("tp2"), [{WEIGHT: LEFT, NORM: WHOLE_NORM}], "tp2")


def test_a_rank_sees_its_blocks_where_they_lie_in_its_own_tensors() -> None:
    plan = plan_for("tp2", "tp4")
    own = rank_blocks(plan, holders_of(plan, TWO_RANKS, "tp2"), TWO_RANKS[1], 1)
    assert [(block.id, block.offsets, block.span) for block in own.blocks_of_entry[WEIGHT]] == [
        (2, (0, 0), (0, 12)),
        (3, (2, 0), (12, 24)),
    ]


def test_columns_that_are_strided_in_the_whole_are_contiguous_in_the_rank_that_holds_just_them() -> None:
    plan = make_plan([TableEntry("o", (4, 6), True, group=0)], 1, 100, Grid((Layout(tp=2),), (("o", 1),)))
    held: list[dict[int, Box]] = [{0: ((0, 0), (4, 3))}, {0: ((0, 3), (4, 3))}]
    assert [block.span for block in plan.blocks] == [None, None]
    own = rank_blocks(plan, holders_of(plan, held, "tp2"), held[1], 1)
    assert [block.span for block in own.blocks.values()] == [(0, 12)]


def test_shards_of_a_rank_hold_its_blocks_only() -> None:
    plan = plan_for("tp2")
    holders = holders_of(plan, TWO_RANKS, "tp2")
    owned = [rank_blocks(plan, holders, held, rank) for rank, held in enumerate(TWO_RANKS)]
    for shard in range(2):
        together = sorted(block for own in owned for block in own.blocks_of_shard[shard])
        assert tuple(together) == plan.blocks_of_shard[shard]


def test_copies_are_in_the_same_order_on_every_rank() -> None:
    plan = plan_for("tp2", block_elements=2)
    holders = holders_of(plan, TWO_RANKS, "tp2")
    copies = [rank_blocks(plan, holders, held, rank).copies for rank, held in enumerate(TWO_RANKS)]
    described = [[(c.holders, [block.id for block in c.blocks]) for c in of_rank] for of_rank in copies]
    assert described[0] == described[1]
    assert {c.holders for c in copies[0]} == {Holders(0, (0, 1)), Holders(1, (0, 1))}


def test_a_worker_of_one_rank_owns_everything() -> None:
    plan = plan_for("tp2")
    assert all_blocks(plan).blocks_of_shard == plan.blocks_of_shard


class TestReductions:
    """Gradients are added up over pipeline stages, averaged over replicas, and left alone where torch reduces them."""

    BOX: Box = ((0,), (6,))

    def of(self, layout: str, holders: set[int], averaged: set[int] = frozenset()) -> dict[int, list[Reduction]]:  # type: ignore[assignment]
        parsed = parse_layout(layout)
        holdings = [{NORM: self.BOX} if rank in holders else {} for rank in range(parsed.num_ranks)]
        done = [frozenset({NORM} if rank in averaged else set()) for rank in range(parsed.num_ranks)]
        return {rank: reductions_of(rank, parsed, holdings, done) for rank in range(parsed.num_ranks)}

    def test_a_weight_tied_over_two_stages_is_the_sum_of_theirs(self) -> None:
        assert self.of("pp3", {0, 2}) == {
            0: [Reduction(NORM, (0, 2), 1.0)],
            1: [],
            2: [Reduction(NORM, (0, 2), 1.0)],
        }

    def test_tensor_parallel_copies_are_alike_already(self) -> None:
        assert self.of("tp2", {0, 1}) == {0: [], 1: []}

    def test_a_tie_over_stages_is_added_up_within_each_tensor_rank(self) -> None:
        found = self.of("pp2xtp2", {0, 1, 2, 3})
        assert [found[rank][0].ranks for rank in range(4)] == [(0, 2), (1, 3), (0, 2), (1, 3)]

    def test_replicas_are_averaged(self) -> None:
        assert self.of("dp2", {0, 1}) == {rank: [Reduction(NORM, (0, 1), 0.5)] for rank in range(2)}

    def test_an_expert_that_one_replica_holds_counts_as_much_as_the_average_does(self) -> None:
        assert self.of("dp2", {1}) == {0: [], 1: [Reduction(NORM, (1,), 0.5)]}

    def test_what_torch_averages_is_left_alone(self) -> None:
        assert self.of("dp2", {0, 1}, averaged={0, 1}) == {0: [], 1: []}
