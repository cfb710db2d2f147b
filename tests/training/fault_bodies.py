"""What ranks run in tests of faults: they train, and at a chosen step one of them stops or fails at a chosen moment."""

import time
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from parallel_bodies import LEARNING_RATE, windows_of
from parallel_gpt_layouts import Options, TrainingStep, build_parts
from parallel_gpt_model import GPT, GPTShape

from pushpull.worker import Worker, connect
from pushpull.worker.local_tensors import local_tensor

PULLED = "pulled\n"
HELD = "held\n"
STEP = "step {}\n"


def train(
    shape: dict[str, Any],
    num_steps: int,
    num_windows: int,
    trouble: dict[str, Any] | None = None,
    pause_seconds: float = 0.0,
) -> dict[str, Any]:
    """Losses, and this rank's values by name: right after they were first pulled, and at the end.

    Args:
        trouble: `rank`, `step` and `moment`: "forward", "staged" (frames are sent, no commit) or "half committed" (to one
            shard of several), where the rank goes no further; or "raises", in user code.
    """
    with torch.device("meta"):
        whole = GPT(GPTShape(**shape))
    options, losses = Options(), []
    with connect() as worker:
        parts = build_parts(whole.shape, worker, options)
        optimizer = worker.optimizer(parts, torch.optim.AdamW, whole=whole, lr=LEARNING_RATE)
        first = _values(parts)
        print(PULLED, end="", flush=True)
        step = TrainingStep(parts, worker, options)
        for number in range(num_steps):
            if trouble and (worker.rank, number) == (trouble["rank"], trouble["step"]):
                TROUBLES[trouble["moment"]](worker, parts)
            losses.append(step(windows_of(number, num_windows, whole.shape)))
            optimizer.step(num_samples=num_windows)
            optimizer.zero_grad()
            print(STEP.format(number), end="", flush=True)
            time.sleep(pause_seconds)
        return {"losses": losses, "first": first, "last": _values(parts)}


def _values(parts: list[GPT]) -> dict[str, torch.Tensor]:
    return {name: local_tensor(p).detach().clone() for part in parts for name, p in part.named_parameters()}


def _hold(*unused: object) -> NoReturn:
    print(HELD, end="", flush=True)
    while True:
        time.sleep(1)


def _raise(*unused: object) -> NoReturn:
    raise ValueError("nothing works today")


def _in_forward(action: Callable[..., NoReturn]) -> Callable[[Worker, list[GPT]], None]:
    return lambda worker, parts: _add_hook(parts, action)


def _add_hook(parts: list[GPT], action: Callable[..., NoReturn]) -> None:
    next(iter(parts[0].layers.values())).register_forward_pre_hook(action)


def _when_staged(worker: Worker, parts: list[GPT]) -> None:
    worker._training.replica._commit = _hold  # type: ignore[union-attr, method-assign]


def _half_committed(worker: Worker, parts: list[GPT]) -> None:
    shards = worker._training.replica._shards  # type: ignore[union-attr]
    commit = shards.commit

    def commit_first(shard: int, message: bytes) -> None:
        if shard > 0:
            _hold()
        commit(shard, message)

    shards.commit = commit_first  # type: ignore[method-assign]


TROUBLES = {
    "forward": _in_forward(_hold),
    "staged": _when_staged,
    "half committed": _half_committed,
    "raises": _in_forward(_raise),
}
