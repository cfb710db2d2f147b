"""What ranks run in tests of parallel models. Every function here is a body of `rank_groups`."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from parallel_gpt_layouts import Options, Ranks, TrainingStep, build_parts
from parallel_gpt_model import GPT, GPTShape
from second_device import second_device
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from pushpull.protos.errors import PushpullError
from pushpull.worker import connect
from pushpull.worker.layout import DIMENSIONS, Layout, parse_layout
from pushpull.worker.share import batch_weight, part_of

LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Group:
    """Ranks without a worker."""

    layout: Layout
    rank: int
    mesh: Any = None


def windows_of(step: int, num_windows: int, shape: GPTShape) -> torch.Tensor:
    """The batch of a step, int64 [num_windows, context + 1]: numbers that grow by 1, 2 or 3, which can be learned."""
    generator = torch.Generator().manual_seed(1000 + step)
    first = torch.randint(shape.vocabulary, (num_windows, 1), generator=generator)
    stride = torch.randint(1, 4, (num_windows, 1), generator=generator)
    return (first + stride * torch.arange(shape.context + 1)) % shape.vocabulary


def own_part(windows: torch.Tensor, ranks: Ranks) -> tuple[torch.Tensor, float]:
    """What this rank works on of its worker's batch, and the weight of its mean loss, as `worker.share` gives them."""
    part = ranks.layout.data_rank(ranks.rank), ranks.layout.num_data_ranks
    first, size = part_of(len(windows), part)
    return windows[first : first + size], batch_weight(len(windows), part)


def gradients(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One step for each case {layout, shape, options, num_windows}: its loss and whole gradients by name, of this rank."""
    dist.init_process_group("gloo")
    return [_gradients(**case) for case in cases]


def gradients_on_two_devices(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same where there is a second device."""
    with second_device():
        return gradients(cases)


def _gradients(layout: str, shape: dict[str, Any], options: dict[str, Any], num_windows: int) -> dict[str, Any]:
    found = parse_layout(layout)
    ranks = Group(found, dist.get_rank(), init_device_mesh("cpu", found.degrees, mesh_dim_names=DIMENSIONS))
    parts = build_parts(GPTShape(**shape), ranks, Options(**options))
    windows, weight = own_part(windows_of(0, num_windows, parts[0].shape), ranks)
    loss = TrainingStep(parts, ranks, Options(**options))(windows, weight)
    held = {name: p for part in parts for name, p in part.named_parameters()}
    num_held = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in held.values())
    return {"loss": loss, "num_held": num_held, "gradients": {name: _whole(p.grad) for name, p in held.items()}}


def _whole(gradient: torch.Tensor | None) -> torch.Tensor:
    assert gradient is not None
    return (gradient.full_tensor() if isinstance(gradient, DTensor) else gradient).cpu()


def train(shape: dict[str, Any], options: dict[str, Any], num_steps: int, bounds: tuple[int, int, int]) -> list[float]:
    """The loss of each step. `bounds`: (first, one past last) of the batch that are this worker's, and its size."""
    first, last, total = bounds
    settings = Options(**options)
    with torch.device("meta"):
        whole = GPT(GPTShape(**shape))
    with connect() as worker:
        parts = build_parts(whole.shape, worker, settings)
        optimizer = worker.optimizer(parts, torch.optim.AdamW, whole=whole, lr=LEARNING_RATE)
        step = TrainingStep(parts, worker, settings)
        losses = []
        for number in range(num_steps):
            losses.append(step(*own_part(windows_of(number, total, whole.shape)[first:last], worker)))
            optimizer.step(num_samples=last - first)
            optimizer.zero_grad()
    return losses


def train_locally(
    shape: dict[str, Any], options: dict[str, Any], num_steps: int, num_windows: int, every: int
) -> list[float]:
    """The loss of each step of a worker that pushes every few of them, to servers that take its values over as they are."""
    settings = Options(**options)
    with torch.device("meta"):
        whole = GPT(GPTShape(**shape))
    with connect() as worker:
        parts = build_parts(whole.shape, worker, settings)
        inner = torch.optim.AdamW([p for part in parts for p in part.parameters()], lr=LEARNING_RATE, foreach=False)
        optimizer = worker.local_updates(parts, inner, every=every, outer_lr=1.0, outer_momentum=0.0, whole=whole)
        step = TrainingStep(parts, worker, settings)
        losses = []
        for number in range(num_steps):
            losses.append(step(*own_part(windows_of(number, num_windows, whole.shape), worker)))
            optimizer.step()
            optimizer.zero_grad()
    return losses


def push_with_a_loss_scale_of_its_own(shape: dict[str, Any]) -> str:
    """What a rank is told whose scaler has come to another scale than the other rank's."""
    with torch.device("meta"):
        whole = GPT(GPTShape(**shape))
    with connect() as worker:
        parts = build_parts(whole.shape, worker, Options())
        optimizer = worker.optimizer(parts, torch.optim.AdamW, whole=whole, lr=LEARNING_RATE)
        TrainingStep(parts, worker, Options())(windows_of(0, 8, whole.shape))
        optimizer.found_inf, optimizer.grad_scale = torch.zeros(1), torch.full((1,), 2.0**worker.rank)
        try:
            optimizer.step()
        except PushpullError as error:
            return f"{type(error).__name__}: {error}"
    return "nothing"


def train_on_two_devices(**arguments: Any) -> list[float]:
    """The same where there is a second device."""
    with second_device():
        return train(**arguments)


def train_plain(shape: dict[str, Any], num_steps: int, num_windows: int) -> list[float]:
    """In this process, without servers: the loss of each step."""
    alone = Group(Layout(), 0)
    (model,) = build_parts(GPTShape(**shape), alone, Options())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    step = TrainingStep([model], alone, Options())
    losses = []
    for number in range(num_steps):
        losses.append(step(windows_of(number, num_windows, model.shape)))
        optimizer.step()
        optimizer.zero_grad()
    return losses
