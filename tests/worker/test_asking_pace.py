"""How many lots a worker asks for follows how long it waits for them."""

from pushpull.worker.asking_pace import FEWEST_LOTS, MOST_LOTS, AskingPace


def ask_often(pace: AskingPace, answer_seconds: float, step_seconds: float, num_calls: int) -> float:
    """Share of the time that the last call took."""
    now = share = 0.0
    for _ in range(num_calls):
        pace.answered(now, now + answer_seconds)
        worked = pace.num_lots * step_seconds
        now += answer_seconds + worked
        share = answer_seconds / (answer_seconds + worked)
    return share


def test_near_the_servers_a_worker_holds_few_lots() -> None:
    pace = AskingPace()
    ask_often(pace, answer_seconds=0.001, step_seconds=0.05, num_calls=10)
    assert pace.num_lots == FEWEST_LOTS


def test_behind_a_long_link_it_asks_for_so_many_that_waiting_for_them_is_a_small_part_of_the_time() -> None:
    pace = AskingPace()
    assert ask_often(pace, answer_seconds=0.08, step_seconds=0.15, num_calls=10) < 0.05
    assert FEWEST_LOTS < pace.num_lots < MOST_LOTS


def test_it_never_asks_for_more_than_it_could_hold_for_long() -> None:
    pace = AskingPace()
    ask_often(pace, answer_seconds=1.0, step_seconds=0.001, num_calls=10)
    assert pace.num_lots == MOST_LOTS


def test_it_asks_for_few_again_when_answers_are_quick_again() -> None:
    pace = AskingPace()
    ask_often(pace, answer_seconds=0.08, step_seconds=0.05, num_calls=10)
    ask_often(pace, answer_seconds=0.001, step_seconds=0.05, num_calls=10)
    assert pace.num_lots == FEWEST_LOTS


def test_time_in_which_there_were_no_data_does_not_count_as_work() -> None:
    pace = AskingPace()
    pace.answered(0.0, 0.1)
    pace.interrupted()
    pace.answered(100.0, 100.1)
    pace.answered(100.5, 100.6)
    assert pace.num_lots == 2 * FEWEST_LOTS
