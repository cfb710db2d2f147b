"""Figures that a worker is asked for by Prometheus."""

import threading

from pushpull.worker.readings import Remembered


def test_what_is_dear_is_worked_out_once_in_a_while_however_many_ask() -> None:
    calls: list[float] = []

    def work_out() -> float:
        calls.append(1.0)
        return float(len(calls))

    figure = Remembered(work_out, seconds=3600.0)
    threads = [threading.Thread(target=figure) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (figure(), len(calls)) == (1.0, 1)


def test_what_is_too_old_is_worked_out_again() -> None:
    values = iter([1.0, 2.0])
    figure = Remembered(lambda: next(values), seconds=-1.0)
    assert [figure(), figure()] == [1.0, 2.0]
