"""The parameter table of a torch model: names, shapes, ties, groups, and the tensors behind them."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from ..compression.carried_words import carried_kind, carried_shape, travels_as_words
from ..protos.errors import SettingError
from ..protos.parameter_names import plain_name
from .plan import TableEntry
from .writable_memory import NamedTensor, check_writable


@dataclass(frozen=True)
class ModelTable:
    """Entries of the whole model and, in the same order, the live tensors of this process; None for what it does not hold.

    Parameters first, then buffers.
    """

    entries: tuple[TableEntry, ...]
    tensors: tuple[torch.Tensor | None, ...]
    num_parameters: int

    @property
    def held(self) -> dict[int, torch.Tensor]:
        """The tensors of this process by plan entry."""
        return {index: tensor for index, tensor in enumerate(self.tensors) if tensor is not None}

    @property
    def words(self) -> frozenset[int]:
        """Entries of buffers of this process that travel as words."""
        return frozenset(i for i, tensor in self.held.items() if i >= self.num_parameters and travels_as_words(tensor))


@dataclass(frozen=True)
class Fact:
    """What only the process that holds a parameter knows of it."""

    group: int
    """Parameter group of the optimizer; -1 = in none: never trained."""


Facts = Mapping[int, Fact]
"""By plan entry."""


@dataclass(frozen=True)
class _Named:
    """One tensor and all its names."""

    tensor: torch.Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class ModelReading:
    """A model as one process sees it: complete once the facts of all processes that hold a part of it are known."""

    facts: Facts
    """What this process knows."""
    _parameters: Sequence[_Named]
    _buffers: Sequence[_Named]
    _held: Sequence[torch.Tensor | None]

    def check_memory(self) -> None:
        """Refuses tensors of this process that cannot hold values of their own; see `check_writable`."""
        held = zip((*self._parameters, *self._buffers), self._held, strict=True)
        check_writable(
            [
                NamedTensor(
                    named.names[0],
                    tensor,
                    is_parameter=index < len(self._parameters),
                    is_optimised=index in self.facts and self.facts[index].group >= 0,
                )
                for index, (named, tensor) in enumerate(held)
                if tensor is not None
            ]
        )

    def table(self, facts: Sequence[Facts]) -> ModelTable:
        """The table, from the facts of every rank.

        Raises:
            SettingError: a parameter cannot be trained, or no rank holds it.
        """
        known: dict[int, Fact] = {}
        for of_rank in facts:
            known = {**of_rank, **known}
        entries = [_parameter_entry(named, known.get(index)) for index, named in enumerate(self._parameters)]
        entries += [
            TableEntry(b.names[0], carried_shape(b.tensor), False, b.names[1:], carries=carried_kind(b.tensor))
            for b in self._buffers
        ]
        return ModelTable(tuple(entries), tuple(self._held), len(self._parameters))


def model_table(model: torch.nn.Module, param_groups: Sequence[Mapping[str, Any]]) -> ModelTable:
    """The table of a model that this process holds whole; see `read_model`."""
    reading = read_model([model], param_groups)
    return reading.table([reading.facts])


def read_model(
    parts: Sequence[torch.nn.Module],
    param_groups: Sequence[Mapping[str, Any]],
    whole: torch.nn.Module | None = None,
) -> ModelReading:
    """Reads a model, or the parts of it that this process holds.

    Args:
        parts: the modules of this process. Tensors have the names that they have in the whole model.
        param_groups: of a torch optimizer over (some of) the parameters in `parts`.
        whole: the undivided model, for names, order, shapes and ties; its values do not matter (meta device). Default: the
            only part.

    Raises:
        SettingError: a parameter cannot be trained this way, a group holds a tensor that is not in the model, or the parts
            do not fit the whole.
    """
    reading = _read(parts, param_groups, whole)
    reading.check_memory()
    return reading


def described_model(model: torch.nn.Module, param_groups: Sequence[Mapping[str, Any]]) -> ModelTable:
    """The table of a model that may be on the meta device: all that a plan needs to know of it."""
    reading = _read([model], param_groups, None)
    return reading.table([reading.facts])


def _read(
    parts: Sequence[torch.nn.Module], param_groups: Sequence[Mapping[str, Any]], whole: torch.nn.Module | None
) -> ModelReading:
    if whole is None and len(parts) != 1:
        raise SettingError(
            f"{len(parts)} modules were given; pass whole=..., the undivided model (it may be on the meta device), so that "
            "names, order and shapes are known"
        )
    root = unwrapped(whole if whole is not None else parts[0])
    parameters, buffers = _parameters(root), _buffers(root)
    shapes = {name: named.tensor.shape for named in (*parameters, *buffers) for name in named.names}
    tensors = _tensors_by_name([unwrapped(part) for part in parts], shapes)
    held = [_held(named, tensors) for named in (*parameters, *buffers)]
    group_of = {id(p): number for number, group in enumerate(param_groups) for p in group["params"]}
    _check_groups(group_of, held[: len(parameters)])
    own = [(i, tensor) for i, tensor in enumerate(held[: len(parameters)]) if tensor is not None]
    # Whether it requires a gradient now does not matter: what is frozen may be unfrozen later, and what is trained frozen.
    facts = {i: Fact(group_of.get(id(tensor), -1)) for i, tensor in own}
    return ModelReading(facts, parameters, buffers, held)


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


def _parameters(model: torch.nn.Module) -> list[_Named]:
    return _named(model.named_parameters(remove_duplicate=False))


def _buffers(model: torch.nn.Module) -> list[_Named]:
    """Those that are saved, of any type."""
    persistent = model.state_dict(keep_vars=True).keys()
    return _named((name, buffer) for name, buffer in model.named_buffers(remove_duplicate=False) if name in persistent)


def _named(named: Iterable[tuple[str, torch.Tensor]]) -> list[_Named]:
    """Each tensor once, in order of first appearance, with all its names."""
    found: dict[int, tuple[torch.Tensor, list[str]]] = {}
    for name, tensor in named:
        if is_lazy(tensor):
            raise SettingError(f"{plain_name(name)} has no shape yet; run one forward pass before worker.optimizer()")
        if tensor.is_nested:  # has no shape that could be asked for
            raise SettingError(f"{plain_name(name)} is a nested tensor; pad it to a dense one")
        found.setdefault(id(tensor), (tensor, []))[1].append(plain_name(name))
    return [_Named(tensor, tuple(names)) for tensor, names in found.values()]


def _tensors_by_name(parts: Sequence[torch.nn.Module], shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Every tensor of the parts under each of its names, all of which are names of the whole model."""
    tensors: dict[str, torch.Tensor] = {}
    for part in parts:
        for named in (*_parameters(part), *_buffers(part)):
            for name in named.names:
                if name not in shapes:
                    near = difflib.get_close_matches(name, shapes, n=1, cutoff=0.0)
                    raise SettingError(
                        f"{name} is in a part of the model, but not in the whole one (nearest there: {', '.join(near)}); a "
                        "part must keep the names of the whole, so delete layers from it instead of building it anew"
                    )
                if named.tensor.shape != shapes[name]:
                    raise SettingError(
                        f"{name} has shape {tuple(named.tensor.shape)} in a part and {tuple(shapes[name])} in the whole model"
                    )
                tensors[name] = named.tensor
    return tensors


def _held(named: _Named, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """This process's tensor for an entry of the whole model, if it has one."""
    found = {name: tensors[name] for name in named.names if name in tensors}
    if len({id(tensor) for tensor in found.values()}) > 1:
        first, second = list(found)[:2]
        raise SettingError(
            f"{first} and {second} are one tensor in the whole model, but two here (parallelize_module separates tied "
            "weights); tie them again before worker.optimizer()"
        )
    return next(iter(found.values()), None)


def _check_groups(group_of: Mapping[int, int], held: Sequence[torch.Tensor | None]) -> None:
    foreign = group_of.keys() - {id(tensor) for tensor in held}
    if foreign:
        raise SettingError(
            f"{len(foreign)} of the tensors given as params are not parameters of the model; pass parameters of the model "
            "that is given to worker.optimizer()"
        )


def _parameter_entry(named: _Named, fact: Fact | None) -> TableEntry:
    name, tensor = named.names[0], named.tensor
    if not tensor.is_floating_point():
        raise SettingError(
            f"parameter {name} has type {tensor.dtype}; only real floating-point parameters can be trained. Keep what is "
            "never trained as a buffer (register_buffer)"
        )
    if fact is None:
        raise SettingError(f"parameter {name} of the whole model is in no rank's part")
    return TableEntry(name, tuple(tensor.shape), fact.group >= 0, named.names[1:], fact.group)
