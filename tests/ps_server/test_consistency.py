"""Policies as tables."""

import pytest

from pushpull.ps_server.config import JobSettings
from pushpull.ps_server.consistency import Asynchronous, BoundedStaleness, Synchronous, policy_for


@pytest.mark.parametrize(
    ("quorum", "members", "complete", "closes"),
    [
        (None, [0, 1], [0, 1], True),
        (None, [0, 1], [1], False),
        (None, [0], [0], True),
        (None, [], [], False),
        (2, [0, 1, 2], [0, 2], True),
        (2, [0, 1, 2], [2], False),
        (2, [0, 1, 2], [0, 1, 2], True),
        (5, [0, 1], [0, 1], True),
        (None, [0, 1], [0, 7], False),
    ],
)
def test_a_round_closes(quorum: int | None, members: list[int], complete: list[int], closes: bool) -> None:
    assert Synchronous(quorum).round_closes(members, complete) is closes


@pytest.mark.parametrize(("bound", "lag", "answered"), [(0, 0, True), (0, 1, False), (4, 4, True), (4, 5, False)])
def test_bounded_staleness_answers_up_to_its_bound(bound: int, lag: int, answered: bool) -> None:
    assert BoundedStaleness(bound).may_answer(lag) is answered


@pytest.mark.parametrize(
    ("damping", "staleness", "members", "factor"),
    [
        ("none", 99, 2, 1.0),
        ("inverse", 0, 1, 1.0),
        ("inverse", 1, 2, 1.0),
        ("inverse", 2, 2, 0.5),
        ("inverse", 4, 2, 0.25),
        ("sqrt", 4, 2, 0.5),
        ("inverse", 3, 4, 1.0),
        ("inverse", 1, 0, 0.5),
    ],
)
def test_damping_counts_only_staleness_beyond_what_equal_workers_have(
    damping: str, staleness: int, members: int, factor: float
) -> None:
    assert Asynchronous(damping).learning_rate_factor(staleness, members) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("settings", "policy"),
    [
        (JobSettings(), Synchronous()),
        (JobSettings(quorum=2), Synchronous(2)),
        (JobSettings(mode="bounded", staleness_bound=7), BoundedStaleness(7)),
        (JobSettings(mode="async", damping="sqrt"), Asynchronous("sqrt")),
    ],
)
def test_settings_name_a_policy(settings: JobSettings, policy: object) -> None:
    assert policy_for(settings) == policy
