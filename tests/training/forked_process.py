"""Processes that start at once: forked from one that has imported torch and pushpull, while it has no threads yet.

A rank of a test would otherwise spend five seconds of processor time on imports, and such tests start a hundred of them.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PRELOADED = [
    "pushpull.worker",
    "pushpull.worker.ranks.process_group",
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.parallel",
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class ForkedProcess:
    """Runs `target(*arguments)`, which returns the exit status. Behaves as far as needed like `subprocess.Popen`."""

    def __init__(
        self,
        target: Callable[..., int],
        arguments: Sequence[str],
        environment: Mapping[str, str],
        output: Path,
        errors: Path,
    ) -> None:
        self._process = _context.Process(
            target=_run, args=(target, list(arguments), dict(environment), str(output), str(errors)), daemon=True
        )
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """Minus the signal for a killed one; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> None:
        self._process.join()

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        if self._process.exitcode is None:
            os.kill(self._process.pid, number)


def _run(
    target: Callable[..., int], arguments: list[str], environment: dict[str, str], output: str, errors: str
) -> None:
    for descriptor, path in ((1, output), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    # Those that the parent of all such processes was born with are of another test.
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = target(*arguments)
    # Left alone, gloo's threads abort about one process in twenty while the interpreter comes down.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
