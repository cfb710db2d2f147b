"""What ranks run in tests of values that the script changes. Every function here is a body of `rank_groups`."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from pushpull.protos.errors import PushpullError
from pushpull.worker import connect

LEARNING_RATE = 0.1
NUM_HELD = 100_000
"""Numbers of a buffer: more bytes than the room that one step of one rank has."""


def model_with_buffer() -> nn.Sequential:
    """The same one in every process."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    model.register_buffer("held", torch.zeros(NUM_HELD))
    model.register_buffer("count", torch.zeros(1, dtype=torch.int64))
    return model


def change(model: nn.Module) -> None:
    """As a script does it: each rank what it holds."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-2.0)


def whole(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, of all ranks."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for name, value in model.named_parameters()
    }


def push_and_average() -> Mapping[str, object]:
    """What this worker has behind a push of changed values, behind a mean of buffers, and behind a step."""
    model = model_with_buffer()
    with connect() as worker:
        if worker.layout.tp > 1:
            parallelize_module(model, worker.mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=LEARNING_RATE)
        if worker.rank == 0:
            model[2].bias.to_local().data.zero_() if worker.layout.tp > 1 else model[2].bias.data.zero_()
        refused = False
        try:
            optimizer.step()
        except PushpullError as error:
            refused = "push_values" in str(error)
        change(model)
        optimizer.push_values()
        pushed = whole(model)
        model.held.fill_(float(worker.layout.tp))
        model.count.fill_(worker.layout.tp)
        optimizer.average_buffers()
        averaged = model.held.clone(), int(model.count)
        model(torch.ones(2, 8)).square().mean().backward()
        optimizer.step()
        return {"refused": refused, "pushed": pushed, "averaged": averaged, "stepped": whole(model)}
