"""The part of a parameter that lies in this process, and where in the whole it is.

Tensors that torch has divided between processes (DTensor) are told by their attributes: importing their module costs half a
second, which people whose model is not divided need not pay.
"""

from typing import Any

import torch

from ..protos.errors import SettingError
from .grid import Box, chunks


def is_divided(tensor: torch.Tensor) -> bool:
    """Whether this is a DTensor."""
    return hasattr(tensor, "device_mesh")


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part, in the tensor's own memory."""
    if not is_divided(tensor):
        return tensor
    with torch.no_grad():
        local: torch.Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return local


def local_box(tensor: torch.Tensor) -> Box:
    """Offsets and sizes of this process's part in the whole tensor.

    Raises:
        SettingError: a placement that does not give every rank one hyper-rectangle.
    """
    offsets, sizes = [0] * tensor.dim(), list(tensor.shape)
    for dimension, num_parts, part in _splits(tensor):
        first, last = chunks(sizes[dimension], num_parts)[part]
        offsets[dimension] += first
        sizes[dimension] = last - first
    box = tuple(offsets), tuple(sizes)
    if box[1] != tuple(local_tensor(tensor).shape):
        raise SettingError(
            f"a parameter of shape {tuple(tensor.shape)} is placed as {getattr(tensor, 'placements', ())}, which gives this "
            f"rank {tuple(local_tensor(tensor).shape)} instead of {box[1]}; use Shard and Replicate as parallelize_module and "
            "fully_shard make them"
        )
    return box


def _splits(tensor: torch.Tensor) -> list[tuple[int, int, int]]:
    """(dimension, parts, this process's part) of each cut, in the order in which they were made."""
    if not is_divided(tensor):
        return []
    divided: Any = tensor
    mesh, coordinate = divided.device_mesh, divided.device_mesh.get_coordinate()
    splits = [(axis, placement) for axis, placement in enumerate(divided.placements) if hasattr(placement, "dim")]
    # FSDP over tensor parallelism: the strided placement stands to the left of the one inside which it cuts.
    splits.sort(key=lambda split: not split[1].is_shard())
    return [(placement.dim, mesh.size(axis), coordinate[axis]) for axis, placement in splits]


def mesh_dimensions(tensor: torch.Tensor) -> frozenset[str]:
    """Names of the mesh dimensions over which torch divides or repeats this tensor; none for a plain one."""
    if not is_divided(tensor):
        return frozenset()
    return frozenset(tensor.device_mesh.mesh_dim_names or ())  # type: ignore[attr-defined]


def local_gradient(gradient: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This process's part of a gradient, laid out as its parameter is.

    A gradient may be placed unlike its parameter (repeated, or a part of a sum): then ranks communicate here, and every
    rank that holds the parameter must call this in the same order.
    """
    if not is_divided(gradient):
        return gradient.to_dense() if gradient.is_sparse else gradient
    divided: Any = gradient
    with torch.no_grad():
        placements = parameter.placements  # type: ignore[attr-defined]
        if tuple(divided.placements) != tuple(placements):
            divided = divided.redistribute(placements=placements)
        local: torch.Tensor = divided.to_local()
    return local


def lies_as(gradient: torch.Tensor, parameter: torch.Tensor) -> bool:
    """Whether `local_gradient` gives the gradient's own memory, without asking other ranks."""
    if gradient.is_sparse:
        return False
    if not is_divided(gradient):
        return True
    return tuple(gradient.placements) == tuple(parameter.placements)  # type: ignore[attr-defined]


def versions_of(gradient: torch.Tensor) -> tuple[int, ...]:
    """Changes whenever torch writes to the gradient, but not with what is written through `.data` or numpy.

    Work on a DTensor shows in the tensor inside it only.
    """
    return gradient._version, local_tensor(gradient)._version
