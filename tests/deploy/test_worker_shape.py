"""How many workers and ranks the options of `launch` and `worker` ask for."""

import pytest

from pushpull.deploy.worker_shape import WorkerShape, worker_shape, worker_shapes
from pushpull.protos.errors import SettingError

ONE, TP2, PP2 = WorkerShape(), WorkerShape(2, "tp2"), WorkerShape(2, "pp2")


@pytest.mark.parametrize(
    ("num_workers", "ranks_per_worker", "layouts", "expected"),
    [
        (None, None, [], [ONE]),
        (3, None, [], [ONE, ONE, ONE]),
        (2, 2, [], [WorkerShape(2), WorkerShape(2)]),
        (2, 2, ["tp2"], [TP2, TP2]),
        (2, None, ["tp2"], [TP2, TP2]),
        (None, None, ["tp2"], [TP2]),
        (None, None, ["tp2", "pp2", "plain"], [TP2, PP2, WorkerShape(1, "plain")]),
        (2, 2, ["tp2", "pp2"], [TP2, PP2]),
        (None, None, ["tp2xpp2"], [WorkerShape(4, "pp2xtp2")]),
    ],
)
def test_the_ranks_follow_from_the_layouts_and_one_layout_holds_for_all(
    num_workers: int | None, ranks_per_worker: int | None, layouts: list[str], expected: list[WorkerShape]
) -> None:
    assert list(worker_shapes(num_workers, ranks_per_worker, layouts)) == expected


@pytest.mark.parametrize(
    ("num_workers", "ranks_per_worker", "layouts", "sentence"),
    [
        (3, None, ["tp2", "pp2"], "--layout names 2 layouts, one for each worker, but --workers is 3"),
        (None, 4, ["tp2"], "--layout tp2 has 2 ranks, but --ranks-per-worker is 4"),
        (None, 2, ["tp2", "plain"], "--layout plain has 1 ranks, but --ranks-per-worker is 2"),
        (None, None, ["tp"], "layout 'tp' is not `plain` or degrees"),
    ],
)
def test_options_that_contradict_each_other_are_named(
    num_workers: int | None, ranks_per_worker: int | None, layouts: list[str], sentence: str
) -> None:
    with pytest.raises(SettingError) as refusal:
        worker_shapes(num_workers, ranks_per_worker, layouts)
    assert sentence in str(refusal.value)


def test_a_rank_under_torchrun_needs_a_layout_of_its_group() -> None:
    assert worker_shape("tp2", 2, "WORLD_SIZE") == TP2
    with pytest.raises(SettingError, match="--layout tp2 has 2 ranks, but WORLD_SIZE is 4"):
        worker_shape("tp2", 4, "WORLD_SIZE")
