"""What ranks run in tests of mixed precision and of what is done to gradients before they are pushed: several jobs in turn."""

import os
from typing import Any

import torch
import torch.distributed as dist
from parallel_bodies import LEARNING_RATE, Group, windows_of
from parallel_gpt_layouts import Options, TrainingStep, build_parts
from parallel_gpt_model import GPT, GPTShape

from pushpull.worker import Worker, connect
from pushpull.worker.layout import Layout
from pushpull.worker.local_tensors import local_tensor

FIRST_SCALE = 1024.0


def train_in_turn(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `train` returns for each case, in one group of processes."""
    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    found = []
    for number, case in enumerate(cases):
        dist.init_process_group("gloo", store=dist.PrefixStore(str(number), store), rank=rank, world_size=num_ranks)
        found.append(train(**case))
        # The group was opened here, so it is still there behind the worker's block.
        dist.destroy_process_group()
    return found


def train(
    servers: list[str],
    worker_id: int,
    layout: str,
    shape: dict[str, Any],
    num_steps: int,
    windows: tuple[int, int, int],
    options: dict[str, Any] | None = None,
    optimizer: dict[str, Any] | None = None,
    every: int = 0,
    overflow: tuple[int, list[int]] | None = None,
    attach: bool = False,
) -> dict[str, Any]:
    """Losses of the steps, values at the end, and the loss scale.

    Args:
        windows: (first, one past last) of the batch that are this worker's, and its size.
        every: local steps of a window; 0: none are local.
        overflow: in the gradient of which rank, at which steps; there is a loss scaler then.
        attach: gradients are sent early.
    """
    with torch.device("meta"):
        whole = GPT(GPTShape(**shape))
    first, last, num_windows = windows
    with connect(servers, worker_id, layout=layout) as worker:
        scaler = worker.grad_scaler("cpu", init_scale=FIRST_SCALE, enabled=overflow is not None)
        settings = Options(**(options or {}))
        parts = build_parts(whole.shape, worker, settings)
        remote = _optimizer(worker, parts, whole, optimizer or {}, every)
        if attach:
            remote.attach_scaler(scaler)
        step = TrainingStep(parts, worker, settings, scaler.scale)
        num_passes = (optimizer or {}).get("accumulate", 1)
        losses = []
        for number in range(num_steps):
            batch = windows_of(number, num_windows, whole.shape)[first:last]
            # weight: the scaled sum over passes is the gradient of the joint mean
            losses.append(sum(step(part, 1 / num_passes) for part in batch.chunk(num_passes)))
            if overflow is not None and (worker.rank, number) in [(overflow[0], at) for at in overflow[1]]:
                _spoil(parts)
            scaler.step(remote, num_samples=last - first)
            scaler.update()
            remote.zero_grad()
        values = {name: local_tensor(p).detach().clone() for part in parts for name, p in part.named_parameters()}
    return {"losses": losses, "values": values, "scale": scaler.get_scale()}


def _optimizer(worker: Worker, parts: list[GPT], whole: GPT, settings: dict[str, Any], every: int) -> Any:
    if not every:
        return worker.optimizer(parts, torch.optim.AdamW, whole=whole, lr=LEARNING_RATE, **settings)
    inner = torch.optim.AdamW([p for part in parts for p in part.parameters()], lr=LEARNING_RATE)
    return worker.local_updates(parts, inner, every=every, whole=whole, outer_lr=1.0, outer_momentum=0.0)


def _spoil(parts: list[GPT]) -> None:
    """An overflow in one gradient of this rank."""
    gradient = next(p.grad for part in parts for p in part.parameters() if p.grad is not None)
    local_tensor(gradient).view(-1)[0] = float("inf")


def train_plain(
    shape: dict[str, Any],
    num_steps: int,
    windows: tuple[int, int, int],
    optimizer: dict[str, Any] | None = None,
    skipped: tuple[int, ...] = (),
) -> list[float]:
    """In this process, in FP32, without servers: the loss on these windows of the batch in each step, trained on all of it.

    In skipped steps only on the rest of it.
    """
    alone = Group(Layout(), 0)
    (model,) = build_parts(GPTShape(**shape), alone, Options())
    adam = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    step = TrainingStep([model], alone, Options())
    first, last, num_windows = windows
    losses = []
    for number in range(num_steps):
        batch = windows_of(number, num_windows, model.shape)
        rest = torch.cat([batch[:first], batch[last:]])
        losses.append(step(batch[first:last], (last - first) / num_windows) * num_windows / (last - first))
        if number in skipped:
            adam.zero_grad()
        if len(rest):
            step(rest, 1.0 if number in skipped else len(rest) / num_windows)
        if optimizer and "clip_norm" in optimizer:
            torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer["clip_norm"])
        if len(rest) or number not in skipped:
            adam.step()
        adam.zero_grad()
    return losses
