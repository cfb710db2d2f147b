"""The harness for workers of several ranks: other tests rely on what it says."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from rank_groups import Start, rank_groups

BODY = "ending_bodies:ending"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with rank_groups(tmp_path) as begin:
        yield begin


def test_ranks_find_each_other_and_return_their_results(start: Start) -> None:
    groups = [start("tp2", BODY, last_rank="agrees") for _ in range(2)]  # side by side
    assert [group.results() for group in groups] == [[0, 1], [0, 1]]


def test_a_failing_rank_is_named_with_what_it_said_and_nobody_waits_for_the_others(start: Start) -> None:
    with pytest.raises(AssertionError, match=r"(?s)0-pp2 failed.*rank 1: exit status 1.*nothing works today"):
        start("pp2", BODY, last_rank="fails").results()


def test_a_rank_can_be_killed_at_a_step_and_the_others_notice(start: Start) -> None:
    group = start("fsdp2", BODY, last_rank="goes on")
    group.wait_for_output(1, "step 5\n")
    group.kill(1)
    assert group.wait() == [1, -signal.SIGKILL]
