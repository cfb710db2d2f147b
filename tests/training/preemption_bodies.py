"""What workers and servers of the preemption tests run, each in a process of its own."""

import ctypes
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch

from pushpull.protos.errors import PushpullError
from pushpull.worker import Worker, connect

ACTIVE = "active\n"
THERE = "there\n"
"""The process has come to where the signal is to reach it."""
LARGE = 512
"""Width of the model of those that keep servers busy: 2 MiB of gradients in each step."""


def worker(place: str, arguments: str) -> int:
    """Runs one of `PLACES`; the exit status as a shell would see it."""
    torch.set_num_threads(1)
    try:
        PLACES[place](**json.loads(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    except PushpullError as error:
        print(f"pushpull: {error}", file=sys.stderr, flush=True)
        return 1
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def server(*words: str) -> int:
    """Runs `pushpull server` with these words. With `stuck` in front of them its first step is applied for ever."""
    from pushpull.deploy.cli import app
    from pushpull.ps_server.engine import Engine

    if words[0] == "stuck":
        Engine.bundle_done = lambda *unused: wait_in_c()  # type: ignore[method-assign]
        words = words[1:]
    app(["server", *words], standalone_mode=False)
    return 0


def wait_in_c() -> NoReturn:
    """Never comes back from a call of C code that lets other threads run, and that no signal interrupts."""
    mutex, libc = ctypes.create_string_buffer(256), ctypes.CDLL(None)
    while True:
        libc.pthread_mutex_lock(mutex)


def say(text: str) -> None:
    print(text, end="", flush=True)


class Trainer:
    """One worker and its model."""

    def __init__(self, worker: Worker, width: int = 16) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.Linear(width, width))
        self._optimizer = worker.optimizer(self.model, torch.optim.SGD, lr=0.01)
        self._inputs = torch.ones(1, width)

    def step(self, **options: Any) -> None:
        self.model(self._inputs).square().mean().backward()
        self._optimizer.step(**{"num_samples": 1, **options})
        self._optimizer.zero_grad()


def hammer(width: int = 16, pause_seconds: float = 0.0) -> None:
    """Steps for ever."""
    with connect() as worker:
        trainer = Trainer(worker, width)
        trainer.step()
        say(ACTIVE)
        while True:
            trainer.step()
            time.sleep(pause_seconds)


def in_c_code() -> None:
    """Others wait for this worker meanwhile."""
    with connect() as worker:
        Trainer(worker).step()
        say(THERE)
        wait_in_c()


def not_obeying() -> None:
    """User code that catches everything, and goes on."""
    with connect() as worker:
        trainer = Trainer(worker)
        trainer.step()
        say(THERE)
        while True:
            with suppress(BaseException):
                trainer.step()
            time.sleep(0.01)


def at_the_end() -> None:
    """Saves at its end, as one does, and needs a moment for it."""
    with connect() as worker, tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(worker)
        try:
            trainer.step()
            say(THERE)
            while True:
                trainer.step()
        finally:
            time.sleep(1)
            torch.save(trainer.model.state_dict(), Path(folder, "saved.pt"))
            say("saved\n")


def in_step() -> None:
    """Waits inside step() for a worker that does not come."""
    with connect() as worker:
        trainer = Trainer(worker)
        say(THERE)
        while True:
            trainer.step()


def before_the_first_step() -> None:
    """Waits for workers that do not come."""
    with connect() as worker:
        trainer = Trainer(worker)
        say(THERE)
        trainer.step()


def connecting() -> None:
    """Nobody is there."""
    say(THERE)
    with connect(patience_seconds=600):
        raise AssertionError("there is a server")


class SlowData(torch.utils.data.Dataset[torch.Tensor]):
    """Of which nothing comes."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> torch.Tensor:
        say(THERE)
        time.sleep(600)
        return torch.zeros(1)


def in_the_data_loader() -> None:
    with connect() as worker:
        Trainer(worker)
        loader = torch.utils.data.DataLoader(SlowData(), batch_size=4)
        for _ in worker.share(loader):
            raise AssertionError("there are data")


def sharing(folder: str, num_samples: int, pause_seconds: float) -> None:
    """One epoch; a file per batch whose step was applied names its samples."""
    with connect() as worker:
        trainer = Trainer(worker)
        data = torch.utils.data.TensorDataset(torch.arange(num_samples))
        done = 0
        for (numbers,) in worker.share(data, batch_size=4):
            trainer.step(num_samples=None)
            if worker._recorder.report().steps_applied > done:
                done += 1
                Path(folder, f"{worker.id}-{done}").write_text(json.dumps(numbers.tolist()), encoding="utf-8")
            say(THERE)
            time.sleep(pause_seconds)


PLACES: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        hammer,
        in_c_code,
        not_obeying,
        at_the_end,
        in_step,
        before_the_first_step,
        connecting,
        in_the_data_loader,
        sharing,
    )
}
