"""Processes of tests. Most start at once: forked from one that has imported torch and pushpull, while it has no threads yet.

A rank of a test would otherwise spend five seconds of processor time on imports, and such tests start a hundred of them.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

PRELOADED = [
    "pushpull.worker",
    "pushpull.worker.ranks.process_group",
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.parallel",
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class Process(Protocol):
    """What tests need of one; as `subprocess.Popen` has it."""

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self) -> Any: ...
    def kill(self) -> None: ...
    def send_signal(self, number: int, /) -> None: ...


def fresh_process(
    target: Callable[..., int], arguments: Sequence[str], environment: Mapping[str, str], output: Path, errors: Path
) -> Process:
    """Like `ForkedProcess`, but with memory of its own from the start: to measure it."""
    run = f"import sys; sys.path[:] = {sys.path}; from {target.__module__} import {target.__name__} as run; "
    command = [sys.executable, "-c", f"{run}import os; status = run(*sys.argv[1:]); os._exit(status)", *arguments]
    with output.open("w") as out, errors.open("w") as err:
        return subprocess.Popen(command, env=dict(environment), stdout=out, stderr=err)


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
