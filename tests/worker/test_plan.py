"""The plan: parameters cut into blocks, blocks placed on shards."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pushpull.protos.errors import SettingError
from pushpull.worker.model_table import model_table
from pushpull.worker.plan import (
    ShardingPlan,
    TableEntry,
    contiguous_span,
    cut_blocks,
    default_block_elements,
    make_plan,
    place,
)

shapes = st.lists(st.integers(0, 7), max_size=4).map(tuple)
tables = st.lists(shapes, min_size=1, max_size=6)


def table(*shapes: tuple[int, ...]) -> list[TableEntry]:
    return [TableEntry(f"p{i}", shape, True, group=0) for i, shape in enumerate(shapes)]


def transformer_table() -> list[TableEntry]:
    """Embedding 50257 x 768 and twelve layers: 124 million elements."""
    shapes: list[tuple[int, ...]] = [(50257, 768), (1024, 768)]
    for _ in range(12):
        shapes += [(768,), (768,), (2304, 768), (2304,), (768, 768), (768,)]
        shapes += [(768,), (768,), (3072, 768), (3072,), (768, 3072), (768,)]
    return table(*shapes, (768,), (768,))


DIGITS_TABLE = table((256, 64), (256,), (10, 256), (10,))


class TestBlocks:
    @given(shapes, st.integers(1, 40))
    def test_tile_each_tensor_exactly_and_in_order(self, shape: tuple[int, ...], limit: int) -> None:
        seen = np.zeros(shape, int)
        starts = []
        for offsets, sizes in cut_blocks(shape, limit):
            window = tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))
            seen[window] += 1
            span = contiguous_span(shape, offsets, sizes)
            assert span is not None
            starts.append(span[0])
            assert np.array_equal(np.arange(seen.size).reshape(shape)[window].ravel(), np.arange(span[0], span[1]))
        assert (seen == 1).all()
        assert starts == sorted(starts)

    @given(shapes, st.integers(1, 40))
    def test_hold_at_most_the_limit_and_at_least_one_element(self, shape: tuple[int, ...], limit: int) -> None:
        sizes = [math.prod(sizes) for _, sizes in cut_blocks(shape, limit)]
        assert all(1 <= size <= limit for size in sizes)

    def test_of_a_tensor_without_elements_do_not_exist(self) -> None:
        assert list(cut_blocks((3, 0, 2), 8)) == []

    def test_of_a_scalar_is_one(self) -> None:
        assert list(cut_blocks((), 8)) == [((), ())]

    def test_that_leave_gaps_in_memory_have_no_span(self) -> None:
        assert contiguous_span((4, 6), (0, 2), (2, 3)) is None

    @pytest.mark.parametrize(
        ("num_elements", "expected"), [(10, 64), (4096, 64), (17_226, 269), (1 << 20, 1 << 14), (1 << 30, 1 << 20)]
    )
    def test_have_a_size_derived_from_the_model(self, num_elements: int, expected: int) -> None:
        assert default_block_elements(num_elements) == expected

    def test_that_fit_no_message_are_refused(self) -> None:
        with pytest.raises(SettingError, match="block_elements"):
            make_plan(table((4,)), 1, block_elements=1 << 30)


CHAR_GPT_SIZES = (128, 4, 4, 128)
"""Width, layers, heads, context."""


def char_gpt_table() -> list[TableEntry]:
    """The example's model, with the sizes it has unless told otherwise."""
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "char_gpt.py"))
    model = example["GPT"](*CHAR_GPT_SIZES)
    return model_table(model, torch.optim.AdamW(model.parameters()).param_groups).entries


class TestPlacement:
    @pytest.mark.parametrize("num_shards", [2, 3, 5, 8])
    def test_balances_bytes_of_the_text_example(self, num_shards: int) -> None:
        bytes_of = make_plan(char_gpt_table(), num_shards).shard_bytes
        assert max(bytes_of) <= 1.1 * sum(bytes_of) / num_shards

    @pytest.mark.parametrize("num_shards", [2, 3, 5, 8])
    @pytest.mark.parametrize("entries", [DIGITS_TABLE, transformer_table()], ids=["digits MLP", "124 M transformer"])
    def test_balances_bytes(self, entries: list[TableEntry], num_shards: int) -> None:
        bytes_of = make_plan(entries, num_shards).shard_bytes
        assert max(bytes_of) <= 1.1 * sum(bytes_of) / num_shards

    @given(st.lists(st.integers(1, 100), max_size=30), st.integers(1, 8))
    def test_gives_no_shard_more_than_one_block_above_the_least_loaded(self, sizes: list[int], num_shards: int) -> None:
        loads = [0] * num_shards
        for size, shard in zip(sizes, place(sizes, num_shards), strict=True):
            loads[shard] += size
        assert max(loads) - min(loads) <= max(sizes, default=0)


class TestPlan:
    @given(tables, st.integers(1, 4), st.integers(0, 50))
    def test_is_the_same_wherever_it_is_computed(
        self, shapes: list[tuple[int, ...]], num_shards: int, limit: int
    ) -> None:
        one, other = (make_plan(table(*shapes), num_shards, limit) for _ in range(2))
        assert one.to_message() == other.to_message()

    @given(tables, st.integers(1, 4))
    def test_numbers_blocks_from_front_to_back(self, shapes: list[tuple[int, ...]], num_shards: int) -> None:
        plan = make_plan(table(*shapes), num_shards, 5)
        assert [block.id for block in plan.blocks] == list(range(len(plan.blocks)))
        assert [block.entry for block in plan.blocks] == sorted(block.entry for block in plan.blocks)
        owned = [number for ids in plan.blocks_of_shard for number in ids]
        assert sorted(owned) == list(range(len(plan.blocks)))

    @pytest.mark.parametrize(
        "changed",
        [
            make_plan([TableEntry("other", (4, 4), True, group=0)], 2),
            make_plan([TableEntry("p0", (4, 5), True, group=0)], 2),
            make_plan([TableEntry("p0", (4, 4), False, group=0)], 2),
            make_plan([TableEntry("p0", (4, 4), True, ("tied",), group=0)], 2),
            make_plan([TableEntry("p0", (4, 4), True, group=1)], 2),
            make_plan(table((4, 4)), 3),
            make_plan(table((4, 4)), 2, 8),
        ],
        ids=["name", "shape", "trainable", "aliases", "group", "shards", "block size"],
    )
    def test_has_another_fingerprint_with_another(self, changed: ShardingPlan) -> None:
        assert changed.fingerprint != make_plan(table((4, 4)), 2).fingerprint
