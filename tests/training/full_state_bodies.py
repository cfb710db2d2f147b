"""A model that is trained and saved: in threads of the test, or by ranks that hold parts of it."""

from typing import Any

import torch

from pushpull.worker import connect

NUM_STEPS = 6
LEARNING_RATE = 0.01


class Small(torch.nn.Module):
    """Two layers, a norm with buffers, and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(8, 16)
        self.norm = torch.nn.BatchNorm1d(16)
        self.frozen = torch.nn.Linear(16, 16, bias=False)
        self.tied = torch.nn.Linear(16, 16, bias=False)
        self.tied.weight = self.frozen.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.norm(torch.tanh(self.first(inputs)))
        result: torch.Tensor = self.tied(torch.tanh(self.frozen(hidden)))
        return result


def small_model() -> Small:
    """The same values everywhere."""
    torch.manual_seed(0)
    return Small()


def batch(step: int) -> torch.Tensor:
    """Inputs of a step, [12, 8]."""
    return torch.randn(12, 8, generator=torch.Generator().manual_seed(step))


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, first: int = 0) -> None:
    """`NUM_STEPS` steps."""
    for step in range(first, first + NUM_STEPS):
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        optimizer.step()


def saved_by_a_rank() -> dict[str, Any]:
    """One rank of a worker whose first layer is divided."""
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    with connect() as worker:
        model = small_model()
        assert worker.mesh is not None
        parallelize_module(model, worker.mesh["tp"], {"first": ColwiseParallel(output_layouts=Replicate())})
        train(model, worker.optimizer(model, torch.optim.AdamW, lr=LEARNING_RATE))
        return worker.full_state_dict()
