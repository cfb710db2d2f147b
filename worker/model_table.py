"""The parameter table of a torch model: names, shapes, ties, groups, and the tensors behind them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from ..protos.errors import SettingError
from .plan import TableEntry

WRAPPER_COMPONENTS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Path components that torch.compile and other wrappers add to names."""


@dataclass(frozen=True)
class ModelTable:
    """Entries and, in the same order, the live tensors of this process. Parameters first, then `num_buffers` buffers."""

    entries: tuple[TableEntry, ...]
    tensors: tuple[torch.Tensor, ...]
    num_parameters: int


def model_table(model: torch.nn.Module, param_groups: Sequence[Mapping[str, Any]]) -> ModelTable:
    """Reads a model. `param_groups` are those of a torch optimizer over (some of) its parameters.

    Raises:
        SettingError: a parameter cannot be trained this way, or a group holds a tensor that is not in the model.
    """
    table = described_model(model, param_groups)
    for entry, tensor in zip(table.entries, table.tensors, strict=True):
        if tensor.is_meta:
            raise SettingError(
                f"{entry.name} is on the meta device and holds no values; move the model to a device first"
            )
    return table


def described_model(model: torch.nn.Module, param_groups: Sequence[Mapping[str, Any]]) -> ModelTable:
    """As `model_table`, also of a model on the meta device: what a plan needs to know is there, values are not."""
    root = unwrapped(model)
    group_of = {id(p): number for number, group in enumerate(param_groups) for p in group["params"]}
    parameters = _named(root.named_parameters(remove_duplicate=False))
    persistent = root.state_dict(keep_vars=True).keys()
    buffers = _named(
        (name, buffer)
        for name, buffer in root.named_buffers(remove_duplicate=False)
        if name in persistent and buffer.is_floating_point()
    )
    foreign = group_of.keys() - {id(tensor) for tensor, _ in parameters}
    if foreign:
        raise SettingError(
            f"{len(foreign)} of the tensors given as params are not parameters of the model; pass parameters of the model "
            "that is given to worker.optimizer()"
        )
    entries = [_parameter_entry(tensor, names, group_of) for tensor, names in parameters]
    entries += [TableEntry(names[0], tuple(tensor.shape), False, tuple(names[1:])) for tensor, names in buffers]
    tensors = [tensor for tensor, _ in (*parameters, *buffers)]
    return ModelTable(tuple(entries), tuple(tensors), len(parameters))


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside torch.compile and (distributed) data-parallel wrappers."""
    data_parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(model, data_parallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), torch.nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def plain_name(name: str) -> str:
    """A dotted name without what wrappers added."""
    return ".".join(part for part in name.split(".") if part not in WRAPPER_COMPONENTS)


def _named(named: Iterable[tuple[str, torch.Tensor]]) -> list[tuple[torch.Tensor, list[str]]]:
    """Each tensor once, in order of first appearance, with all its names."""
    found: dict[int, tuple[torch.Tensor, list[str]]] = {}
    for name, tensor in named:
        found.setdefault(id(tensor), (tensor, []))[1].append(plain_name(name))
    return list(found.values())


def _parameter_entry(tensor: torch.Tensor, names: list[str], group_of: Mapping[int, int]) -> TableEntry:
    name = names[0]
    if is_lazy(tensor):
        raise SettingError(f"parameter {name} has no shape yet; run one forward pass before worker.optimizer()")
    if not tensor.is_floating_point():
        raise SettingError(
            f"parameter {name} has type {tensor.dtype}; only real floating-point parameters can be trained"
        )
    group = group_of.get(id(tensor), -1) if tensor.requires_grad else -1
    return TableEntry(name, tuple(tensor.shape), tensor.requires_grad, tuple(names[1:]), group)
