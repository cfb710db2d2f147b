"""SIGTERM in a process that is a worker, without servers. Each test runs a process of its own: this one must not end."""

import subprocess
import sys

import pytest

from pushpull.worker.ending import EXIT_STATUS, failure_text

HEAD = """
import os, signal, sys, time
from pushpull.worker.ending import EndOnSigterm
end = EndOnSigterm()
end.leave = lambda: print("left", flush=True)
"""

FORKED = """
end.install()
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.write(writing, b"there")
    time.sleep(60)
    os._exit(0)
os.read(reading, 5)
os.kill(child, signal.SIGTERM)
_, status = os.waitpid(child, 0)
time.sleep(0.2)
print(os.waitstatus_to_exitcode(status), end.requested)
"""

OWN_HANDLER = """
signal.signal(signal.SIGTERM, lambda *unused: print("mine", flush=True))
end.install()
os.kill(os.getpid(), signal.SIGTERM)
print(end.requested)
"""

REMOVED = """
end.install()
end.remove()
print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, signal.set_wakeup_fd(-1))
"""

HANGUP = """
import threading
left = threading.Event()
end.leave = left.set
end.install()
try:
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(60)
except SystemExit as exit:
    print(exit.code, end.exit_status, left.wait(60), flush=True)
    os._exit(0)
"""

NOHUP = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
end.install()
os.kill(os.getpid(), signal.SIGHUP)
print(end.requested, signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)
"""

CTRL_C = """
end.install()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    print(end.requested)
"""

EVENT_LOOP = """
import asyncio
async def main():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: None)  # the loop's own wakeup descriptor
    end.install()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(60)
try:
    asyncio.run(main())
except SystemExit as exit:
    time.sleep(0.2)
    print(exit.code)
"""


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (FORKED, ["-15 False"]),
        (OWN_HANDLER, ["mine", "False"]),
        (REMOVED, ["True -1"]),
        (EVENT_LOOP, ["left", str(EXIT_STATUS)]),
        (HANGUP, ["129 129 True"]),
        (NOHUP, ["False True"]),
        (CTRL_C, ["False"]),
    ],
    ids=[
        *("of a forked child", "with a handler of the script", "when it is over", "beside an event loop"),
        *("is also what a closed terminal sends", "but not under nohup", "is not what Ctrl-C is"),
    ],
)
def test_sigterm(program: str, said: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", HEAD + program], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stdout.splitlines() == said, run.stderr


@pytest.mark.parametrize(
    "error",
    [None, KeyboardInterrupt(), SystemExit(0), *(SystemExit(128 + number) for number in (1, 2, 15))],
    ids=repr,
)
def test_who_was_asked_to_end_has_not_failed(error: BaseException | None) -> None:
    assert failure_text(error) == ""
    assert failure_text(SystemExit(3)) == "SystemExit: 3"
