"""What a worker says of the values that it starts from."""

import logging

import pytest

from pushpull.protos.registrar_pb2 import Origin
from pushpull.worker.values_origin import Comparison, said_of

NAMES = ("a.weight", "a.bias", "b.weight", "b.bias")


def comparison(**other: object) -> Comparison:
    fields: dict[str, object] = {
        "worker": 2,
        "incarnation": 9,
        "comes_back": False,
        "clock": 0,
        "names": NAMES,
        "values": [1, 2, 3, 4],
    }
    return Comparison(**{**fields, **other})  # type: ignore[arg-type]


def origin(*values: int, incarnation: int = 5) -> Origin:
    return Origin(incarnation=incarnation, who="worker 1 (process 7 on b)", seconds_ago=3.4, values=values)


def test_whoever_initialises_says_so() -> None:
    said = said_of(origin(1, 2, 3, 4, incarnation=9), comparison())
    assert said.level == logging.INFO
    assert "the values of this worker (2), checksum" in said.text


def test_the_same_values_are_worth_a_quiet_line() -> None:
    said = said_of(origin(1, 2, 3, 4), comparison())
    assert said.level == logging.INFO
    assert "worker 1 (process 7 on b), 3 s ago, which are also those of this worker" in said.text


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((1, 2, 3, 5), "b.bias differs"),
        ((1, 2, 0, 0), "b.weight, b.bias differ"),
        ((0, 0, 0, 0), "a.weight, a.bias, b.weight and 1 more differ"),
    ],
)
def test_values_that_are_given_up_are_named_loudly_with_both_workers(values: tuple[int, ...], named: str) -> None:
    said = said_of(origin(*values), comparison())
    assert said.level == logging.WARNING
    assert "the values of worker 2" in said.text
    assert "those of worker 1 (process 7 on b), 3 s ago" in said.text
    assert named in said.text


@pytest.mark.parametrize("values", [(1, 2, 3, 4), (0, 0, 0, 0)])
def test_a_trained_job_is_loud_whatever_it_began_with(values: tuple[int, ...]) -> None:
    """A second run with the same seed begins with the same values, and loses them all the same."""
    said = said_of(origin(*values), comparison(clock=120))
    assert said.level == logging.WARNING
    assert "clock 120" in said.text
    assert "worker 1 (process 7 on b), 3 s ago" in said.text


def test_what_gives_values_up_says_what_ends_it_for_random_ones_and_for_a_file() -> None:
    said = said_of(origin(1, 2, 3, 5), comparison()).text
    assert "the same seed on every worker" in said
    assert "start the servers with --init FILE" in said


def test_a_worker_that_comes_back_makes_no_fuss() -> None:
    assert said_of(origin(0, 0, 0, 0), comparison(clock=120, comes_back=True)).level == logging.INFO
