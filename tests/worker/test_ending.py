"""SIGTERM in a process that is a worker, without servers. Each test runs a process of its own: this one must not end."""

import subprocess
import sys

import pytest

from pushpull.worker.ending import EXIT_STATUS

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
    ],
    ids=["of a forked child", "with a handler of the script", "when it is over", "beside an event loop"],
)
def test_sigterm(program: str, said: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", HEAD + program], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stdout.splitlines() == said, run.stderr
