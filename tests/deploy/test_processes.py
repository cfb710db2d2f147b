"""Child processes: output is relayed, ends are described, nothing is left behind."""

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pushpull.deploy.processes import Child, Family

DEADLINE_SECONDS = 20.0

# Starts a grandchild and says both process ids, then sleeps. $1: "deaf" ignores SIGTERM, "apart" starts the
# grandchild in a session of its own.
FAMILY_SCRIPT = """
import os, signal, subprocess, sys, time
kind = sys.argv[1]
if kind == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
sleeper = subprocess.Popen(sleep, start_new_session=kind == "apart")
print(os.getpid(), sleeper.pid, flush=True)
time.sleep(600)
"""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {DEADLINE_SECONDS} s"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


@pytest.fixture
def lines() -> queue.Queue[str]:
    return queue.Queue()


@pytest.fixture
def family(lines: queue.Queue[str]) -> Iterator[Family]:
    with Family(lambda name, line: lines.put(f"[{name}] {line}")) as family:
        yield family


def start(family: Family, *command: str) -> Child:
    return family.start("worker 0", list(command), dict(os.environ))


def pids_said(lines: queue.Queue[str]) -> list[int]:
    """The process ids that a child printed on its first line."""
    return [int(word) for word in lines.get(timeout=DEADLINE_SECONDS).removeprefix("[worker 0] ").split()]


def never() -> bool:
    return False


def test_output_of_both_streams_is_relayed_line_by_line_with_the_childs_name(
    family: Family, lines: queue.Queue[str]
) -> None:
    program = "import os; os.write(1, b'out\\n'); os.write(2, b'err\\n'); os.write(1, b'no end')"
    child = start(family, *python(program))
    wait_until(lambda: child.exit_status is not None, "the end of the child")
    family.bury(child)
    said = [lines.get_nowait() for _ in range(3)]
    assert said == ["[worker 0] out", "[worker 0] err", "[worker 0] no end"]
    assert list(child.last_lines) == ["out", "err", "no end"]


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("pass", "ended with status 0"),
        ("raise SystemExit(3)", "ended with status 3"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL (perhaps the machine ran out of memory)"),
        ("import os; os.abort()", "was killed by SIGABRT (a library gave up; often it could not get memory"),
        ("import os; os.kill(os.getpid(), 7)", "was killed by SIGBUS (perhaps /dev/shm"),
        ("import os; os.kill(os.getpid(), 15)", "was killed by SIGTERM"),
    ],
)
def test_the_way_a_child_ended_is_said_in_words(family: Family, program: str, how: str) -> None:
    child = start(family, *python(program))
    assert child.how_it_ended() == "is still running" or child.exit_status is not None
    wait_until(lambda: child.exit_status is not None, "the end of the child")
    assert child.how_it_ended().startswith(how)


def test_what_an_ended_child_left_running_is_killed(family: Family, lines: queue.Queue[str]) -> None:
    left = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1).pid)"
    child = start(family, *python(left))
    wait_until(lambda: child.exit_status is not None, "the end of the child")
    (grandchild,) = pids_said(lines)
    family.bury(child)
    wait_until(lambda: is_gone(grandchild), "the end of the grandchild")


@pytest.mark.parametrize("kind", ["plain", "deaf", "apart"])
def test_stopping_ends_children_and_grandchildren(family: Family, lines: queue.Queue[str], kind: str) -> None:
    child = start(family, *python(FAMILY_SCRIPT, kind))
    pids = pids_said(lines)
    family.stop([child], grace_seconds=0.3, hurry=never)
    wait_until(lambda: all(map(is_gone, pids)), "the end of the family")


def test_an_impatient_stop_does_not_wait_for_the_grace(family: Family, lines: queue.Queue[str]) -> None:
    child = start(family, *python(FAMILY_SCRIPT, "deaf"))
    pids = pids_said(lines)
    before = time.monotonic()
    family.stop([child], grace_seconds=600.0, hurry=lambda: True)
    wait_until(lambda: all(map(is_gone, pids)), "the end of the family")
    assert time.monotonic() - before < DEADLINE_SECONDS


SAVES = """
import signal, time
try:
    print("runs", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    print("saves", flush=True)
    {ends}
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ("raise SystemExit(4)", 4),
        ("", -signal.SIGTERM),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", -signal.SIGKILL),
    ],
    ids=["it has time to save", "it is told to end", "it is killed"],
)
def test_an_interrupted_child_hears_ctrl_c_first(
    family: Family, lines: queue.Queue[str], ends: str, status: int
) -> None:
    child = start(family, *python(SAVES.format(ends=ends)))
    assert lines.get(timeout=DEADLINE_SECONDS) == "[worker 0] runs"
    time_to_save = DEADLINE_SECONDS if status > 0 else 1.0
    family.stop([child], grace_seconds=0.3, hurry=never, interrupt_seconds=time_to_save)
    assert lines.get(timeout=DEADLINE_SECONDS) == "[worker 0] saves"
    assert (child.exit_status, lines.qsize()) == (status, 0)


def test_leaving_the_family_kills_what_still_runs(lines: queue.Queue[str]) -> None:
    with Family(lambda name, line: lines.put(f"[{name}] {line}")) as family:
        start(family, *python(FAMILY_SCRIPT, "deaf"))
        pids = pids_said(lines)
    wait_until(lambda: all(map(is_gone, pids)), "the end of the family")


@pytest.mark.parametrize("kind", ["plain", "deaf", "apart"])
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded child", "child without a guard of its own"])
def test_a_killed_launcher_leaves_nothing(tmp_path: Path, kind: str, guarded: bool) -> None:
    script = tmp_path / "family.py"
    guard = "import sys; from pushpull.deploy.guard import watch_launcher; watch_launcher(int(sys.argv[2]))\n"
    script.write_text((guard if guarded else "") + FAMILY_SCRIPT, encoding="utf-8")
    program = (
        "import os, sys, time\n"
        "from pushpull.deploy.processes import Family\n"
        "with Family(lambda name, line: print(f'[{name}] {line}', flush=True)) as family:\n"
        f"    command = [sys.executable, {str(script)!r}, {kind!r}, str(family.guard_fd)]\n"
        "    family.start('worker 0', command, dict(os.environ))\n"
        "    time.sleep(600)\n"
    )
    launcher = subprocess.Popen(python(program), stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    pids = [int(word) for word in launcher.stdout.readline().removeprefix("[worker 0] ").split()]
    assert len(pids) == 2
    watchdogs = [child.pid for child in psutil.Process(launcher.pid).children() if child.pid not in pids]
    launcher.send_signal(signal.SIGKILL)
    launcher.wait(DEADLINE_SECONDS)
    launcher.stdout.close()
    wait_until(lambda: all(map(is_gone, pids + watchdogs)), "the end of everything the launcher had started")
