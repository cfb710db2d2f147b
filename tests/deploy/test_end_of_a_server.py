"""The end of a server process that has done all it had to."""

import signal
import subprocess
import sys

PROGRAM = """
import builtins, os, signal
from pushpull.deploy import serve

class Ended:
    job_id, address, metrics_address, has_failed = "", "a:1", None, False
    def __init__(self, *arguments): pass
    def start(self): pass
    def drain(self): pass
    def wait_for_end(self): pass
    def wait(self): pass

class Speaker:
    def follow(self, tell): pass

class Config:
    shard = 0

class OutlivesMain:
    def __del__(self, write=os.write, kill=os.kill, number=signal.SIGTERM, pid=os.getpid()):
        write(1, b"signalled")
        kill(pid, number)

serve.Server = Ended
serve.shard_observer = lambda shard: None
builtins.outlives_main = OutlivesMain()  # threads that wait for ever keep what is in __main__
serve.serve(Config(), None, Speaker())
"""


def test_a_signal_that_comes_while_the_interpreter_ends_does_not_make_a_failure_of_it() -> None:
    """Orchestrators stop all servers at once, and the drain of one ends the others."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert "signalled" in done.stdout
    assert done.returncode == 0, (signal.Signals(-done.returncode) if done.returncode < 0 else "", done.stderr)
