"""Workers of several ranks as real processes: started side by side, watched, killed, and their results collected.

A body is a function in a module beside the tests, named `module:function`. It runs in every rank, with the environment that
a launcher sets, gets the same arguments and returns what `torch.save` can write.
"""

import importlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from forked_process import ForkedProcess, Process
from torch.distributed import TCPStore

from pushpull.worker.layout import parse_layout

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.02
LAST_LINES = 30


class Rank:
    """One process. Its output and errors are in files."""

    def __init__(
        self,
        number: int,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        begin: Callable[..., Process],
    ) -> None:
        folder.mkdir(parents=True)
        self.number = number
        self._folder = folder
        self._output.touch()
        self._errors.touch()
        self.process = begin(_run, [*arguments, str(self.result_file)], environment, self._output, self._errors)

    @property
    def result_file(self) -> Path:
        return self._folder / "result.pt"

    @property
    def _output(self) -> Path:
        return self._folder / "output.txt"

    @property
    def _errors(self) -> Path:
        return self._folder / "errors.txt"

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(encoding="utf-8")

    def story(self) -> str:
        """How it ended and what it said last."""
        lines = (self.output + self._errors.read_text(encoding="utf-8")).splitlines()[-LAST_LINES:]
        return "\n".join([f"rank {self.number}: exit status {self.process.poll()}", *lines])


class RankGroup:
    """The ranks of one worker."""

    def __init__(self, name: str, ranks: Sequence[Rank], store: TCPStore) -> None:
        self.name = name
        self.ranks = tuple(ranks)
        self._store = store  # the group's meeting point, as long as it lives

    def kill(self, rank: int) -> None:
        """Ends one rank with SIGKILL."""
        self.ranks[rank].process.kill()

    def signal(self, number: int, ranks: Sequence[int]) -> None:
        """Sends a signal to some ranks."""
        for rank in ranks:
            self.ranks[rank].process.send_signal(number)

    def wait_for_output(self, rank: int, text: str, timeout_seconds: float = 60) -> None:
        """Until a rank has printed this."""
        deadline = time.monotonic() + timeout_seconds
        while text not in self.ranks[rank].output:
            self._check(deadline, f"rank {rank} does not print {text!r}", {rank})
            time.sleep(POLL_SECONDS)

    def wait(self, timeout_seconds: float = 90) -> list[int]:
        """Until all have ended, whichever way: exit statuses, minus the signal for a killed one."""
        deadline = time.monotonic() + timeout_seconds
        while any(rank.process.poll() is None for rank in self.ranks):
            self._check(deadline, "does not end", set())
            time.sleep(POLL_SECONDS)
        return [rank.process.returncode for rank in self.ranks]

    def results(self, timeout_seconds: float = 90) -> list[Any]:
        """What the ranks returned. An AssertionError with their last lines as soon as one fails."""
        deadline = time.monotonic() + timeout_seconds
        while any(rank.process.poll() is None for rank in self.ranks):
            self._check(deadline, "does not end", {rank.number for rank in self.ranks})
            time.sleep(POLL_SECONDS)
        self._check(deadline, "", {rank.number for rank in self.ranks})
        return [torch.load(rank.result_file) for rank in self.ranks]

    def end(self) -> None:
        """Kills what is left."""
        for rank in self.ranks:
            rank.process.kill()
            rank.process.wait()

    def _check(self, deadline: float, what: str, must_live: set[int]) -> None:
        failed = [rank for rank in self.ranks if rank.number in must_live and rank.process.poll() not in (None, 0)]
        assert not failed, self._story("failed", failed)
        assert time.monotonic() < deadline, self._story(what, self.ranks)

    def _story(self, what: str, ranks: Sequence[Rank]) -> str:
        return "\n".join([f"worker {self.name} {what}", *(rank.story() for rank in ranks)])


Start = Callable[..., RankGroup]


@contextmanager
def rank_groups(folder: Path) -> Iterator[Start]:
    """Gives `start(layout, body, environment={}, begin=ForkedProcess, **arguments)`; ends every process behind the block."""
    groups: list[RankGroup] = []

    def start(
        layout: str,
        body: str,
        environment: dict[str, str] | None = None,
        begin: Callable[..., Process] = ForkedProcess,
        **arguments: Any,
    ) -> RankGroup:
        name = f"{len(groups)}-{layout}"
        num_ranks = parse_layout(layout).num_ranks
        # The meeting point is here, as `torchrun` does it: no port is chosen that another process could take meanwhile.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
        ranks = [
            Rank(
                rank,
                [body, json.dumps(arguments)],
                _environment(layout, rank, num_ranks, store.port) | (environment or {}),
                folder / name / str(rank),
                begin,
            )
            for rank in range(num_ranks)
        ]
        groups.append(RankGroup(name, ranks, store))
        return groups[-1]

    try:
        yield start
    finally:
        for group in groups:
            group.end()


def _environment(layout: str, rank: int, num_ranks: int, port: int) -> dict[str, str]:
    paths = [str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": "1",
        "PUSHPULL_LAYOUT": layout,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "GLOO_SOCKET_IFNAME": "lo",
    }


def _run(body: str, arguments: str, result_file: str) -> int:
    torch.set_num_threads(1)
    module, _, function = body.partition(":")
    try:
        torch.save(getattr(importlib.import_module(module), function)(**json.loads(arguments)), result_file)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
