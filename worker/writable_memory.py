"""Refuses tensors of a model that values cannot be put into one by one: names them, and says what to do. Pure."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..protos.errors import SettingError
from .local_tensors import local_tensor


@dataclass(frozen=True)
class NamedTensor:
    """A tensor that this process holds of a model."""

    name: str
    tensor: torch.Tensor
    is_parameter: bool
    is_optimised: bool

    @property
    def kind(self) -> str:
        return "parameter" if self.is_parameter else "buffer"


def check_writable(tensors: Sequence[NamedTensor]) -> None:
    """Each must be a dense array whose elements have places of their own; those of a trained one are in no other tensor.

    Raises:
        SettingError: names the tensor, or both.
    """
    for each in tensors:
        found = obstacle(each.tensor) or (each.is_optimised and _outside_autograd(each.tensor))
        if found:
            remedy = (
                ""
                if each.is_parameter
                else "; or leave it out of what is saved: register_buffer(..., persistent=False)"
            )
            raise SettingError(f"{each.kind} {each.name} {found}{remedy}")
    for trained, other in _sharing_memory(tensors):
        raise SettingError(
            f"{trained.kind} {trained.name} and {other.kind} {other.name} are two tensors in the same memory, so what is "
            "written into one changes the other unseen; to tie them assign the one itself to both names (head.weight = "
            "embedding.weight, not .data or .detach() of it), else give each its own memory (.clone())"
        )


def obstacle(tensor: torch.Tensor) -> str:
    """Why values cannot be put into it, and what to do, as the rest of a sentence; empty if they can."""
    if tensor.layout != torch.strided:
        return f"is no dense tensor ({_short(tensor.layout)}); convert it by .to_dense()"
    if tensor.is_quantized:
        return f"is quantised ({_short(tensor.dtype)}); convert it by .dequantize()"
    if tensor.is_meta:
        return "is on the meta device and holds no values; move the model to a device first"
    if _overlaps_itself(local_tensor(tensor)):
        return (
            "has elements that share their memory (made by expand() or as_strided(), say), so they cannot have values of "
            "their own; give each its own by .clone(memory_format=torch.contiguous_format)"
        )
    return ""


def _outside_autograd(tensor: torch.Tensor) -> str:
    if not tensor.is_inference():
        return ""
    return (
        "was made inside torch.inference_mode(), where autograd does not see it, so it would never get a gradient; make the "
        "model outside, or a new parameter of it outside: nn.Parameter(parameter.clone())"
    )


def _short(of_torch: object) -> str:
    return str(of_torch).removeprefix("torch.")


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    extent = 1  # elements from the first to the last of the dimensions so far
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 0:
            return False
        if size > 1 and stride < extent:
            break  # perhaps: such dimensions may also run past one another
        extent += (size - 1) * stride
    else:
        return False
    taken = np.zeros(_num_elements_across(tensor), np.bool_)
    _elements_in(taken, tensor)[...] = True
    return int(np.count_nonzero(taken)) < tensor.numel()


def _num_elements_across(tensor: torch.Tensor) -> int:
    """From the first to the last in memory; of an empty one 0."""
    if not tensor.numel():
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _elements_in(places: np.ndarray, tensor: torch.Tensor, first: int = 0, step: int = 1) -> np.ndarray:
    """The places of a tensor's elements, in its shape, where `step` of them are one element."""
    strides = [stride * step * places.itemsize for stride in tensor.stride()]
    return np.lib.stride_tricks.as_strided(
        places[first:], (*tensor.shape, step), (*strides, places.itemsize), writeable=True
    )


@dataclass(frozen=True)
class _Placed:
    """A tensor's bytes in memory, first to last."""

    named: NamedTensor
    local: torch.Tensor
    first: int
    end: int


def _sharing_memory(tensors: Iterable[NamedTensor]) -> Iterator[tuple[NamedTensor, NamedTensor]]:
    """Pairs with an element in common, of which the first is trained."""
    placed = [_placed(each) for each in tensors if _has_address(local_tensor(each.tensor))]
    for neighbours in _neighbours(placed):
        if any(each.named.is_optimised for each in neighbours):
            yield from _common(neighbours)


def _has_address(tensor: torch.Tensor) -> bool:
    """Not one without elements, nor one of a class or device that tells of none: all of these seem to lie at 0."""
    return tensor.numel() > 0 and tensor.data_ptr() != 0


def _placed(named: NamedTensor) -> _Placed:
    local = local_tensor(named.tensor)
    first = local.data_ptr()
    return _Placed(named, local, first, first + _num_elements_across(local) * local.element_size())


def _neighbours(placed: Iterable[_Placed]) -> Iterator[list[_Placed]]:
    """Those whose stretches of memory overlap; tensors may still lie in the gaps of one another."""
    found: list[_Placed] = []
    end, device = 0, None
    for each in sorted(placed, key=lambda each: (str(each.local.device), each.first)):
        if found and (each.first >= end or each.local.device != device):
            if len(found) > 1:
                yield found
            found, end = [], 0
        found.append(each)
        end, device = max(end, each.end), each.local.device
    if len(found) > 1:
        yield found


def _common(placed: Sequence[_Placed]) -> Iterator[tuple[NamedTensor, NamedTensor]]:
    start, end = min(each.first for each in placed), max(each.end for each in placed)
    unit = math.gcd(*(each.local.element_size() for each in placed), *(each.first - start for each in placed))
    owners = np.zeros((end - start) // unit, np.int32)
    for number, each in enumerate(sorted(placed, key=lambda each: not each.named.is_optimised), start=1):
        own = _elements_in(owners, each.local, (each.first - start) // unit, each.local.element_size() // unit)
        before = int(own.max())
        if before:
            trained = sorted(placed, key=lambda other: not other.named.is_optimised)[before - 1]
            yield trained.named, each.named
        elif each.named.is_optimised:
            own[...] = number
