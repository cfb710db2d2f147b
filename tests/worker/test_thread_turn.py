"""One thread at a time moves the model of a worker."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from pushpull.protos.errors import SettingError
from pushpull.worker import Worker
from pushpull.worker.thread_turn import ThreadTurn

from .fake_servers import FakeServers
from .small_model import assert_close, backward, small_model

DEADLINE_SECONDS = 20.0


@contextmanager
def meanwhile(body: Callable[[], None]) -> Iterator[threading.Thread]:
    """Runs it in another thread, which has ended behind the block."""
    thread = threading.Thread(target=body, name="other", daemon=True)
    thread.start()
    yield thread
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()


class TestTurn:
    def hold(self, turn: ThreadTurn, held: threading.Event, go_on: threading.Event, loop: bool = False) -> None:
        with turn.loop() if loop else turn.step("optimizer.step() was called"):
            held.set()
            go_on.wait(DEADLINE_SECONDS)

    def test_a_second_step_is_refused_with_both_threads(self) -> None:
        turn, held, go_on = ThreadTurn(), threading.Event(), threading.Event()
        with meanwhile(lambda: self.hold(turn, held, go_on)):
            held.wait(DEADLINE_SECONDS)
            with (
                pytest.raises(SettingError, match=r"fetch\(\) .* thread 'MainThread' while .* in thread 'other'"),
                turn.step("optimizer.fetch() was called"),
            ):
                pass
            go_on.set()
        with turn.step("optimizer.step() was called"), turn.step("closure"), turn.loop():
            pass  # of one thread, in whatever order

    def test_a_step_that_fails_is_over(self) -> None:
        turn = ThreadTurn()
        with pytest.raises(ZeroDivisionError), turn.step("optimizer.step() was called"):
            raise ZeroDivisionError
        with meanwhile(lambda: turn.check("a backward pass ran")):
            pass
        turn.check("a backward pass ran")

    @pytest.mark.parametrize("loop_first", [True, False])
    def test_a_loop_and_a_step_wait_for_each_other(self, loop_first: bool) -> None:
        turn, held, go_on, order = ThreadTurn(), threading.Event(), threading.Event(), list[str]()

        def first() -> None:
            self.hold(turn, held, go_on, loop=loop_first)
            order.append("first")

        def second() -> None:
            if loop_first:
                turn.check("a backward pass ran")
            with turn.step("optimizer.step() was called") if loop_first else turn.loop():
                order.append("second")

        with meanwhile(first):
            held.wait(DEADLINE_SECONDS)
            with meanwhile(second):
                assert order == []
                go_on.set()
        assert sorted(order) == ["first", "second"]


def test_steps_and_backward_passes_of_other_threads_do_not_come_into_a_step(
    servers: FakeServers, worker: Worker
) -> None:
    """They are refused where they are, and the step itself is as if they had not been."""
    model, plain = small_model(), small_model()
    optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.5)
    local = torch.optim.SGD(plain.parameters(), lr=0.5)
    under_way, go_on = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        under_way.set()
        go_on.wait(DEADLINE_SECONDS)

    servers.shards[0].before_answer = wait
    for each in (model, plain):
        backward(each)
    with meanwhile(optimizer.step):
        under_way.wait(DEADLINE_SECONDS)
        for what in (optimizer.step, optimizer.push_values, lambda: backward(model)):
            with pytest.raises(SettingError, match="one thread at a time trains a model"):
                what()
        go_on.set()
    local.step()
    for each, its_optimizer in ((model, optimizer), (plain, local)):
        its_optimizer.zero_grad()
        backward(each, 1)
        its_optimizer.step()
    assert_close(model, plain)


def test_local_steps_are_one_threads_too(worker: Worker) -> None:
    model = small_model()
    optimizer = worker.local_updates(model, torch.optim.SGD(model.parameters(), lr=0.5), every=1)
    refused: list[BaseException] = []

    def other() -> None:
        try:
            optimizer.step()
        except SettingError as error:
            refused.append(error)

    def closure() -> float:
        with meanwhile(other):
            pass
        return 0.0

    optimizer.step(closure)
    assert len(refused) == 1
    other()
    assert len(refused) == 1
