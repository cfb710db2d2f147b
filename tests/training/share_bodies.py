"""What ranks run to measure what each of them holds, sends and needs. Every function here is a body of `rank_groups`."""

from typing import Any

import torch
from parallel_bodies import LEARNING_RATE, windows_of
from parallel_gpt_layouts import Options, TrainingStep, build_parts
from parallel_gpt_model import GPT, GPTShape

from pushpull.worker import connect
from pushpull.worker.local_tensors import local_tensor
from pushpull.worker.recorder import peak_memory_bytes


def train(
    shape: dict[str, Any], num_steps: int, num_windows: int, options: dict[str, Any] | None = None
) -> dict[str, int]:
    """Elements that this rank holds and owns; and by how many bytes its peak memory rose after it had connected: in steps of
    torch alone, without an optimizer, and until the end.
    """
    settings = Options(**(options or {}))
    with torch.device("meta"):
        whole = GPT(GPTShape(**shape))
    with connect() as worker:
        _ = worker.mesh  # what opening the ranks' group and importing its parts takes
        before = peak_memory_bytes()
        parts = build_parts(whole.shape, worker, settings)
        step = TrainingStep(parts, worker, settings)
        for number in range(num_steps):
            step(windows_of(number, num_windows, whole.shape))
            for part in parts:
                part.zero_grad()
        by_torch = peak_memory_bytes() - before
        optimizer = worker.optimizer(parts, torch.optim.AdamW, whole=whole, lr=LEARNING_RATE)
        for number in range(num_steps):
            step(windows_of(number, num_windows, whole.shape))
            optimizer.step(num_samples=num_windows)
            optimizer.zero_grad()
        blocks = worker._training.replica._own.blocks.values()  # type: ignore[union-attr]
        return {
            "held": sum(local_tensor(p).numel() for part in parts for p in part.parameters()),
            "owned": sum(block.num_elements for block in blocks),
            "memory_of_torch": by_torch,
            "memory": peak_memory_bytes() - before,
        }
