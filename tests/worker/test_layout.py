"""Layouts as people write them, and the grid of cuts that follows from them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pushpull.protos.errors import SettingError
from pushpull.worker.grid import Grid, chunks, cut_points
from pushpull.worker.layout import Layout, parse_layout
from pushpull.worker.plan import TableEntry, make_plan

SMALL = st.integers(1, 4)
LAYOUTS = st.builds(Layout, SMALL, SMALL, SMALL, SMALL)


@given(LAYOUTS)
def test_the_canonical_text_names_the_same_layout(layout: Layout) -> None:
    assert parse_layout(layout.spec) == layout


@given(LAYOUTS)
def test_every_rank_has_its_own_place(layout: Layout) -> None:
    places = {layout.coordinates(rank) for rank in range(layout.num_ranks)}
    assert len(places) == layout.num_ranks


def test_the_last_dimension_of_the_mesh_changes_fastest() -> None:
    layout = parse_layout("pp2xtp2")
    assert [layout.coordinates(rank) for rank in range(4)] == [(0, 0, 0, 0), (0, 0, 0, 1), (1, 0, 0, 0), (1, 0, 0, 1)]


def test_ranks_of_one_pipeline_or_tensor_group_see_the_same_data() -> None:
    layout = parse_layout("pp2xfsdp2xtp2")
    assert [layout.data_rank(rank) for rank in range(8)] == [0, 0, 1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("text", ["", "tp", "tp0", "tp2xtp2", "2tp", "tp2-pp2", "plainxtp2", "TP2", "ep2"])
def test_a_text_that_is_no_layout_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SettingError, match="tp2 or pp2xtp2"):
        parse_layout(text)


@given(st.integers(0, 200), st.integers(1, 9))
def test_chunks_are_those_of_torch(size: int, num_parts: int) -> None:
    whole = torch.arange(size)
    ours = [whole[first:last].tolist() for first, last in chunks(size, num_parts) if last > first]
    assert ours == [part.tolist() for part in whole.chunk(num_parts) if part.numel()]


def test_fsdp_cuts_inside_the_pieces_of_tensor_parallelism() -> None:
    assert cut_points(101, [2, 2]) == {0, 26, 51, 76, 101}


GRID = Grid(tuple(map(parse_layout, ("tp2", "tp4", "fsdp2xtp2", "pp2"))), (("*.o.weight", 1), ("*.q.*", 0)))


@pytest.mark.parametrize(
    ("name", "shape", "rows", "columns"),
    [
        ("h.q.weight", (101, 8), {0, 26, 51, 52, 76, 78}, {0}),
        ("h.o.weight", (10, 8), {0, 5}, {0, 2, 4, 6}),
        ("h.norm.weight", (10, 8), {0, 5}, {0}),
    ],
)
def test_a_parameter_is_cut_where_any_layout_cuts_it(
    name: str, shape: tuple[int, int], rows: set[int], columns: set[int]
) -> None:
    cells = list(GRID.cells([name], shape))
    assert {offsets[0] for offsets, _ in cells} == rows
    assert {offsets[1] for offsets, _ in cells} == columns
    assert sum(sizes[0] * sizes[1] for _, sizes in cells) == shape[0] * shape[1]


def test_an_alias_may_name_the_split() -> None:
    assert GRID.tensor_dimension(["wte.weight", "head.q.weight"]) == 0


@given(LAYOUTS, st.integers(0, 40), st.integers(1, 12), st.integers(1, 64))
def test_blocks_of_a_plan_stay_inside_the_cells(layout: Layout, rows: int, columns: int, limit: int) -> None:
    grid = Grid((layout,), (("w", 1),))
    plan = make_plan([TableEntry("w", (rows, columns), True, group=0)], 2, limit, grid)
    cuts = [cut_points(rows, [layout.fsdp]), cut_points(columns, [layout.tp])]
    for block in plan.blocks:
        for offset, size, bounds in zip(block.offsets, block.sizes, cuts, strict=True):
            assert not any(offset < bound < offset + size for bound in bounds)
    assert sum(block.num_elements for block in plan.blocks) == rows * columns
