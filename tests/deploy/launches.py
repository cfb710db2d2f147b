"""`pushpull launch` as a process of its own, to be watched and ended from outside."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

DEADLINE_SECONDS = 60.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {DEADLINE_SECONDS} s"
        time.sleep(0.02)


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def pushpull(*words: str) -> list[str]:
    return [sys.executable, "-m", "pushpull.deploy.cli", *words]


class Launch:
    """A running `pushpull launch --json` whose error output goes to a file."""

    def __init__(self, folder: Path, program: str, *options: str, servers: int = 2, workers: int | None = 2) -> None:
        script = folder / "script.py"
        script.write_text(program, encoding="utf-8")
        self._errors = folder / "errors.txt"
        counts = ["--servers", str(servers), *([] if workers is None else ["--workers", str(workers)])]
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                pushpull("launch", "--json", *counts, *options, str(script)),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
            )

    @property
    def said(self) -> str:
        return self._errors.read_text(encoding="utf-8")

    def wait_for(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.said.count(text) >= times or self.process.poll() is not None, f"{text!r}")
        assert self.said.count(text) >= times, self.said

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def named(self, *words: str) -> psutil.Process:
        """The child whose command line holds these words side by side."""
        (child,) = [child for child in self.family() if f" {' '.join(words)} " in f" {' '.join(child.cmdline())} "]
        return child

    def end(self) -> tuple[int, dict[str, Any]]:
        """Exit status and the object on the last line of standard output, which has no other line."""
        output, _ = self.process.communicate(timeout=DEADLINE_SECONDS)
        (line,) = output.splitlines()
        return self.process.returncode, json.loads(line)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(DEADLINE_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
