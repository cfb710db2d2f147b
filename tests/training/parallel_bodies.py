"""What ranks run in tests of parallel models. Every function here is a body of `rank_groups`."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from parallel_gpt_layouts import Options, TrainingStep, build_parts
from parallel_gpt_model import GPTShape
from second_device import second_device
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from pushpull.worker.layout import DIMENSIONS, Layout, parse_layout


@dataclass(frozen=True)
class Group:
    """Ranks without a worker."""

    layout: Layout
    rank: int
    mesh: DeviceMesh | None


def windows_of(step: int, num_windows: int, shape: GPTShape) -> torch.Tensor:
    """The batch of a step: int64 [num_windows, context + 1]."""
    generator = torch.Generator().manual_seed(1000 + step)
    return torch.randint(shape.vocabulary, (num_windows, shape.context + 1), generator=generator)


def gradients(cases: list[dict[str, Any]], num_windows: int) -> list[dict[str, Any]]:
    """One step for each case {layout, shape, options}: its loss and whole gradients by name, of what this rank holds."""
    dist.init_process_group("gloo")
    return [
        _gradients(parse_layout(c["layout"]), GPTShape(**c["shape"]), Options(**c["options"]), num_windows)
        for c in cases
    ]


def gradients_on_two_devices(cases: list[dict[str, Any]], num_windows: int) -> list[dict[str, Any]]:
    """The same where there is a second device."""
    with second_device():
        return gradients(cases, num_windows)


def _gradients(layout: Layout, shape: GPTShape, options: Options, num_windows: int) -> dict[str, Any]:
    ranks = Group(layout, dist.get_rank(), init_device_mesh("cpu", layout.degrees, mesh_dim_names=DIMENSIONS))
    parts = build_parts(shape, ranks, options)
    loss = TrainingStep(parts, ranks, options)(windows_of(0, num_windows, shape))
    found = {name: p for part in parts for name, p in part.named_parameters()}
    held = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in found.values())
    return {"loss": loss, "held": held, "gradients": {name: _whole(p.grad) for name, p in found.items()}}


def _whole(gradient: torch.Tensor | None) -> torch.Tensor:
    assert gradient is not None
    return (gradient.full_tensor() if isinstance(gradient, DTensor) else gradient).cpu()
