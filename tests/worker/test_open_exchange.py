"""What is sent again after a lost connection, and which answers count."""

import pytest

from pushpull.protos.shard_pb2 import Outcome, PullDone
from pushpull.worker.open_exchange import OpenPull, OpenStep, OpenUpload

APPLIED = Outcome(step=3, kind=Outcome.KIND_APPLIED)


def open_step() -> OpenStep:
    return OpenStep(step=3, frames=[b"one", b"two"], commit=b"commit")


@pytest.mark.parametrize(
    ("last_step", "expected"),
    [(0, [b"one", b"two", b"commit"]), (2, [b"one", b"two", b"commit"]), (3, [b"commit"])],
)
def test_a_step_whose_outcome_is_recorded_sends_its_commit_alone(last_step: int, expected: list[bytes]) -> None:
    assert open_step().messages(last_step) == expected


def test_a_step_that_is_not_committed_sends_its_frames() -> None:
    assert OpenStep(step=3, frames=[b"one"]).messages(last_step=2) == [b"one"]


def test_a_step_is_done_with_its_outcome_and_the_end_of_its_values() -> None:
    step = open_step()
    step.take_outcome(APPLIED)
    assert not step.done
    step.take_pull_done(PullDone(step=3))
    assert step.done
    assert step.messages(last_step=3) == []


def test_answers_to_other_steps_and_pulls_do_not_count() -> None:
    step = open_step()
    step.take_outcome(Outcome(step=2, kind=Outcome.KIND_APPLIED))
    step.take_pull_done(PullDone(step=2))
    step.take_pull_done(PullDone(request=3))
    assert step.outcome is None
    assert step.pull_done is None


def test_the_first_outcome_counts() -> None:
    step = open_step()
    step.take_outcome(APPLIED)
    step.take_outcome(Outcome(step=3, kind=Outcome.KIND_LATE))
    assert step.outcome == APPLIED


def test_a_higher_attempt_forgets_the_frames_of_the_lower_one() -> None:
    step = OpenStep(step=3, frames=[b"one"])
    step.restart()
    step.frames.append(b"again")
    assert step.messages(last_step=0) == [b"again"]


def test_a_pull_is_asked_for_again_until_it_is_answered() -> None:
    pull = OpenPull(request=7, message=b"pull")
    pull.take_pull_done(PullDone(request=6))
    pull.take_pull_done(PullDone(step=7))
    assert pull.messages(last_step=9) == [b"pull"]
    pull.take_pull_done(PullDone(request=7))
    assert pull.done
    assert pull.messages(last_step=9) == []


def test_initial_values_are_sent_again_as_a_whole() -> None:
    assert OpenUpload(frames=[b"one", b"two"]).messages(last_step=0) == [b"one", b"two"]
