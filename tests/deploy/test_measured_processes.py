"""What `pushpull bench exchange` measures comes, answers and ends; where it does not, the benchmark says so and ends."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Listener

import psutil
import pytest

from pushpull.benchmarks import measured_processes
from pushpull.benchmarks.measured_processes import Entrance, peers
from pushpull.deploy.bench_commands import end_in_order
from pushpull.protos.errors import PushpullError

KEY = b"key"
COMES = f"""import os, signal, sys, time
from multiprocessing.connection import Client
with Client(("127.0.0.1", int(sys.argv[1])), authkey={KEY!r}) as control:
    control.send("here")
    {{behaviour}}
"""
ANSWERS = "while (order := control.recv()): control.send(order / 2)"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_processes, "_NAMED_SECONDS", 1.0)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener(("127.0.0.1", 0), authkey=KEY) as listening:
        yield listening


def command(listener: Listener, program: str) -> Sequence[str]:
    return [sys.executable, "-c", program, str(listener.address[1])]


def comes_and(behaviour: str) -> str:
    return COMES.format(behaviour=behaviour)


def test_the_time_is_that_of_the_slowest(listener: Listener) -> None:
    slow = comes_and("while control.recv(): control.send(4.0)")
    commands = {"fast": command(listener, comes_and(ANSWERS)), "slow": command(listener, slow)}
    with peers(commands, Entrance(listener), 2) as two:
        assert two.seconds(2.0) == 4.0
        assert two.seconds(10.0) == 5.0
        two.end(0)


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("raise SystemExit('no such option')", "ended with status 1; it said:\nno such option"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "was killed by SIGKILL (perhaps the machine ran out of memory); it said:\nnothing",
        ),
        ("import os; os.kill(os.getpid(), 40)", "was killed by signal 40; it said:\nnothing"),
        (comes_and("os.kill(os.getpid(), signal.SIGABRT)"), "was killed by SIGABRT"),
        (comes_and("control.recv(); sys.exit(3)"), "ended with status 3"),
    ],
    ids=[
        "before it came",
        "killed before it came",
        "by a signal without a name",
        "when it was ready",
        "in the middle of its work",
    ],
)
def test_one_that_dies_is_named_and_nobody_waits_for_it(listener: Listener, program: str, how: str) -> None:
    commands = {"good": command(listener, comes_and(ANSWERS)), "bad": command(listener, program)}
    with pytest.raises(PushpullError) as failure, peers(commands, Entrance(listener), 2) as two:
        two.seconds(1.0)
    assert f"bad, which is measured, {how}" in str(failure.value)


@pytest.mark.parametrize(
    ("programs", "num_came"), [(["time.sleep(600)"], 0), ([comes_and("control.recv()"), "time.sleep(600)"], 1)]
)
def test_one_that_does_not_come_is_waited_for_no_longer_than_said(
    listener: Listener, programs: list[str], num_came: int
) -> None:
    commands = {f"p{number}": command(listener, f"import time; {program}") for number, program in enumerate(programs)}
    allowed = {"come_seconds": 60.0, "lag_seconds": 0.2} if num_came else {"come_seconds": 0.2}
    doors = peers(commands, Entrance(listener), len(programs), **allowed)
    said = rf"{num_came} of {len(programs)} measured processes of {', '.join(commands)} came within \d+\.\d s"
    with pytest.raises(PushpullError, match=said), doors:
        pass


def test_a_stranger_at_the_door_is_not_counted(listener: Listener) -> None:
    stranger = comes_and("pass").replace(repr(KEY), repr(b"another key"))
    commands = {"stranger": command(listener, stranger)}
    doors = peers(commands, Entrance(listener), 1)
    with pytest.raises(PushpullError, match="stranger, which is measured, ended with status 1"), doors:
        pass


def test_the_end_of_one_that_somebody_else_started_is_noticed_while_others_still_work(listener: Listener) -> None:
    busy = comes_and("control.recv(); import time; time.sleep(600)")
    starter = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', "
        f"{comes_and('control.recv()')!r}, sys.argv[1]]); time.sleep(600)"
    )
    commands = {"busy": command(listener, busy), "starter": command(listener, starter)}
    doors = peers(commands, Entrance(listener), 2)
    with pytest.raises(PushpullError, match="a measured process of busy, starter ended early"), doors as two:
        two.seconds(1.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_benchmark_that_is_told_to_end_takes_what_it_measures_with_it(
    listener: Listener, number: signal.Signals
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        end_in_order()
        with peers({"busy": command(listener, comes_and("time.sleep(600)"))}, Entrance(listener), 1):
            busy = psutil.Process().children()
            os.kill(os.getpid(), number)
            time.sleep(60)
    except SystemExit as end:
        status = end.code
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert status == 128 + number
    assert len(busy) == 1
    assert not busy[0].is_running()
