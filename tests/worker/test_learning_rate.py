"""Learning rates that follow the joint batch."""

import pytest

from pushpull.protos.errors import SettingError
from pushpull.worker.learning_rate import LearningRateFactor, LearningRateScaling


@pytest.mark.parametrize(
    ("scaling", "num_workers", "num_samples", "factor"),
    [
        (LearningRateScaling(rule="linear", base_workers=2), 6, 60, 3.0),
        (LearningRateScaling(rule="sqrt", base_workers=1), 4, 60, 2.0),
        (LearningRateScaling(rule="linear", base_samples=256), 4, 1024, 4.0),
        (LearningRateScaling(rule="sqrt", base_samples=256), 2, 64, 0.5),
    ],
)
def test_the_rule_compares_with_what_the_rate_was_chosen_for(
    scaling: LearningRateScaling, num_workers: int, num_samples: float, factor: float
) -> None:
    assert LearningRateFactor(scaling).advance(num_workers, num_samples) == factor


def test_without_warm_up_a_change_counts_at_once() -> None:
    factor = LearningRateFactor(LearningRateScaling(base_workers=1))
    assert [factor.advance(workers, 8) for workers in (4, 4, 2, 2, 3)] == [4, 4, 2, 2, 3]


def test_warm_up_moves_in_equal_parts_and_ends_exactly_there() -> None:
    factor = LearningRateFactor(LearningRateScaling(base_workers=1, warmup_steps=4))
    assert [factor.advance(3, 8) for _ in range(6)] == [1.5, 2.0, 2.5, 3.0, 3.0, 3.0]


def test_a_change_in_the_middle_of_a_warm_up_starts_from_where_it_is() -> None:
    factor = LearningRateFactor(LearningRateScaling(base_workers=1, warmup_steps=2))
    assert [factor.advance(workers, 8) for workers in (3, 2, 2, 2)] == [2.0, 2.0, 2.0, 2.0]
    assert [factor.advance(workers, 8) for workers in (4, 1, 1, 1)] == [3.0, 2.0, 1.0, 1.0]


def test_a_round_of_nobody_changes_nothing() -> None:
    factor = LearningRateFactor(LearningRateScaling(base_workers=1))
    factor.advance(2, 8)
    assert factor.advance(0, 0) == 2.0


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"base_workers": 1, "base_samples": 8},
        {"base_workers": 0},
        {"base_samples": -1.0},
        {"rule": "cube", "base_workers": 1},
        {"base_workers": 1, "warmup_steps": -1},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        LearningRateScaling(**settings)  # type: ignore[arg-type]
