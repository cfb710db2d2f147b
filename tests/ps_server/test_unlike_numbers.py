"""Numbers of parameter groups that differ between the steps of a synchronous round are told, each once for each pair."""

from collections.abc import Sequence

import pytest
from registrar_script import Key, Script, two_active
from structlog.testing import capture_logs
from test_job_readings import shown

from pushpull.protos.common_pb2 import ParameterGroup
from pushpull.protos.registrar_pb2 import UnlikeNumber, WorkerReport
from pushpull.ps_server.unlike_log import tell_unlike
from pushpull.ps_server.unlike_numbers import MOST_TOLD

LIKE = {"lr": 0.1, "momentum": 0.9}


def groups(*numbers: dict[str, float], lr_factor: float = 0.0) -> list[ParameterGroup]:
    return [ParameterGroup(numbers=each, lr_factor=lr_factor) for each in numbers or (LIKE,)]


def step(script: Script, key: Key, number: int, of_groups: Sequence[ParameterGroup], apply: bool = True) -> None:
    script.staged(key, number, number, apply=apply, num_samples=1.0, scale=1.0, groups=of_groups)


def facts(found: Sequence[UnlikeNumber]) -> list[tuple[object, ...]]:
    return [(n.worker_id, n.group, n.name, n.value, n.holder_id, n.held, n.round) for n in found]


class TestOneRound:
    def test_what_is_alike_is_not_told(self) -> None:
        script, first, second = two_active()
        step(script, first, 1, groups())
        step(script, second, 1, groups())
        assert len(script.rounds) == 1
        assert script.registrar.take_unlike() == []
        assert shown(script)["job_worker_unlike_steps", "1"] == 0

    @pytest.mark.parametrize("name", ["lr", "momentum"])
    def test_a_difference_names_both_workers_and_both_values(self, name: str) -> None:
        script, first, second = two_active()
        step(script, second, 1, groups(LIKE, LIKE | {name: 0.5}))
        step(script, first, 1, groups(LIKE, LIKE))
        assert facts(script.registrar.take_unlike()) == [(1, 1, name, 0.5, 0, LIKE[name], 1)]
        assert script.rounds[0].groups[1].numbers[name] == LIKE[name]

    def test_differences_of_rounding_are_differences(self) -> None:
        script, first, second = two_active()
        step(script, first, 1, groups({"lr": 0.3}))
        step(script, second, 1, groups({"lr": 0.1 + 0.2}))
        assert [number.value for number in script.registrar.take_unlike()] == [0.1 + 0.2]

    def test_only_steps_that_are_applied_are_compared(self) -> None:
        script, first, second = two_active()
        step(script, first, 1, groups({"lr": 0.5}), apply=False)
        step(script, second, 1, groups({"lr": 0.1}))
        step(script, first, 2, groups({"lr": 0.1}))
        step(script, second, 2, groups({"lr": 0.5}), apply=False)
        assert len(script.rounds) == 2
        assert script.registrar.take_unlike() == []

    def test_without_rounds_each_step_has_its_own(self) -> None:
        script, _, _ = two_active(mode="async")
        assert script.registrar.take_unlike() == []


class TestScaledRates:
    def test_rates_under_different_factors_are_not_compared(self) -> None:
        """A late joiner's warm-up, or the first step of a batch of another size."""
        script, first, second = two_active()
        step(script, first, 1, groups({"lr": 0.2, "eps": 1.0}, lr_factor=2.0))
        step(script, second, 1, groups({"lr": 0.15, "eps": 1.0}, lr_factor=1.5))
        assert script.registrar.take_unlike() == []

    def test_other_numbers_are(self) -> None:
        script, first, second = two_active()
        step(script, first, 1, groups({"lr": 0.2, "eps": 1.0}, lr_factor=2.0))
        step(script, second, 1, groups({"lr": 0.15, "eps": 2.0}, lr_factor=1.5))
        assert [number.name for number in script.registrar.take_unlike()] == ["eps"]

    def test_rates_under_the_same_factor_are(self) -> None:
        script, first, second = two_active()
        step(script, first, 1, groups({"lr": 0.2}, lr_factor=2.0))
        step(script, second, 1, groups({"lr": 0.4}, lr_factor=2.0))
        assert [number.name for number in script.registrar.take_unlike()] == ["lr"]


class TestManyRounds:
    def test_each_number_is_told_once_for_a_pair_and_every_step_is_counted(self) -> None:
        script, first, second = two_active()
        for number in (1, 2, 3):
            step(script, first, number, groups())
            step(script, second, number, groups(LIKE | {"lr": 0.01 * number}))
        step(script, first, 4, groups())
        step(script, second, 4, groups(LIKE | {"lr": 0.01, "momentum": 0.5}))
        assert facts(script.registrar.take_unlike()) == [
            (1, 0, "lr", 0.01, 0, 0.1, 1),
            (1, 0, "momentum", 0.5, 0, 0.9, 4),
        ]
        assert script.registrar.take_unlike() == []
        assert shown(script)["job_worker_unlike_steps", "1"] == 4
        assert shown(script)["job_worker_unlike_steps", "0"] == 0

    def test_it_is_not_told_again_behind_a_pause(self) -> None:
        script, first, second = two_active()
        step(script, first, 1, groups())
        step(script, second, 1, groups({"lr": 0.5}))
        script.registrar.pause(script.now, *second)
        script.pump()
        script.activate(second)
        step(script, first, 2, groups())
        step(script, second, 2, groups({"lr": 0.5}))
        assert len(script.rounds) == 2
        assert len(script.registrar.take_unlike()) == 1

    def test_another_worker_whose_numbers_count_is_another_pair(self) -> None:
        script, first, second = two_active()
        third = script.ready(2)
        script.activate(third)
        for key in (first, second, third):
            step(script, key, 1, groups({"lr": float(key[0] + 1)}))
        script.registrar.leave(script.now, *first, WorkerReport(), "")
        script.pump()
        for key in (second, third):
            step(script, key, 2, groups({"lr": float(key[0] + 1)}))
        pairs = [(number.worker_id, number.holder_id) for number in script.registrar.take_unlike()]
        assert pairs == [(1, 0), (2, 0), (2, 1)]

    def test_of_one_worker_a_bounded_number_is_told(self) -> None:
        script, first, second = two_active()
        many = MOST_TOLD + 5
        for number in (1, 2):
            step(script, first, number, groups(*[{"lr": 0.1}] * many))
            step(script, second, number, groups(*[{"lr": 0.2}] * many))
        assert len(script.registrar.take_unlike()) == MOST_TOLD
        assert shown(script)["job_worker_unlike_steps", "1"] == 2

    def test_the_worker_is_told_all_of_it_with_every_heartbeat(self) -> None:
        script, first, second = two_active()
        step(script, first, 1, groups())
        step(script, second, 1, groups({"lr": 0.5}))
        script.registrar.take_unlike()
        for key, expected in ((first, 0), (second, 1), (second, 1)):
            assert len(script.registrar.heartbeat(script.now, *key, WorkerReport()).unlike) == expected


def test_the_log_names_both_workers_and_both_values() -> None:
    number = UnlikeNumber(worker_id=3, group=1, name="lr", value=0.01, holder_id=0, held=0.1, round=7)
    with capture_logs() as entries:
        tell_unlike([number])
    (entry,) = entries
    assert entry["log_level"] == "warning"
    assert {
        "name": "lr",
        "group": 1,
        "worker": 3,
        "its": 0.01,
        "worker_that_counts": 0,
        "counts": 0.1,
        "round": 7,
    }.items() <= (entry.items())
