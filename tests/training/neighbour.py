"""A worker of one process, in a thread of this one, that trains beside others until it is told to end."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from clusters import Cluster
from parallel_bodies import LEARNING_RATE, Group, windows_of
from parallel_gpt_layouts import Options, TrainingStep, build_parts
from parallel_gpt_model import GPTShape

from pushpull.worker import Worker, connect
from pushpull.worker.layout import Layout

PAUSE_SECONDS = 0.02
TIMEOUT_SECONDS = 60.0


class PlainWorker:
    """One worker and its model."""

    def __init__(self, worker: Worker, shape: dict[str, Any], part: slice, num_windows: int) -> None:
        """It trains on `part` of a batch of `num_windows`."""
        alone = Group(Layout(), 0)
        (self.model,) = build_parts(GPTShape(**shape), alone, Options())
        self.losses: list[float] = []
        self._optimizer = worker.optimizer(self.model, torch.optim.AdamW, lr=LEARNING_RATE)
        self._step = TrainingStep([self.model], alone, Options())
        self._part, self._num_windows = part, num_windows

    @property
    def values(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    def step(self) -> None:
        windows = windows_of(len(self.losses), self._num_windows, self.model.shape)[self._part]
        self.losses.append(self._step(windows))
        self._optimizer.step(num_samples=len(windows))
        self._optimizer.zero_grad()


class Neighbour:
    """Steps of a PlainWorker in a thread."""

    def __init__(self, cluster: Cluster, shape: dict[str, Any], num_windows: int) -> None:
        self.between_steps = threading.Lock()
        """Whoever holds it keeps the neighbour from stepping; its model has the newest values then."""
        self.plain: PlainWorker | None = None
        self.error: BaseException | None = None
        self._ending = threading.Event()
        self._arguments = cluster, shape, num_windows
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def values(self) -> dict[str, torch.Tensor]:
        """A copy of what its model holds."""
        assert self.plain is not None
        return self.plain.values

    @property
    def losses(self) -> list[float]:
        assert self.plain is not None
        return self.plain.losses

    @property
    def num_steps(self) -> int:
        return 0 if self.plain is None else len(self.plain.losses)

    def wait_for_steps(self, num_more: int) -> None:
        """Until it has taken more steps: nobody holds it up."""
        goal, deadline = self.num_steps + num_more, time.monotonic() + TIMEOUT_SECONDS
        while self.num_steps < goal:
            assert self.error is None, self.error
            assert time.monotonic() < deadline, f"the neighbour stands at step {self.num_steps}"
            time.sleep(PAUSE_SECONDS)

    def end(self) -> None:
        self._ending.set()
        self._thread.join(TIMEOUT_SECONDS)
        assert not self._thread.is_alive()
        assert self.error is None, self.error

    def _run(self) -> None:
        cluster, shape, num_windows = self._arguments
        try:
            with connect(cluster.addresses, 0) as worker:
                self.plain = PlainWorker(worker, shape, slice(None), num_windows)
                while not self._ending.is_set():
                    with self.between_steps:
                        self.plain.step()
                    time.sleep(PAUSE_SECONDS)  # others get the lock
        except BaseException as error:
            self.error = error


@contextmanager
def neighbour_of(cluster: Cluster, shape: dict[str, Any], num_windows: int) -> Iterator[Neighbour]:
    """Worker 0 of this cluster; ends with the block."""
    neighbour = Neighbour(cluster, shape, num_windows)
    try:
        yield neighbour
    finally:
        neighbour.end()
