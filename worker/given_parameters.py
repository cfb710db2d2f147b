"""Whether the parameters that a model has now are those that the servers train: scripts replace modules afterwards."""

import logging
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import is_

import torch

from ..protos.errors import SettingError
from ..protos.parameter_names import plain_name
from .local_tensors import mesh_dimensions
from .model_table import ModelTable, unwrapped

logger = logging.getLogger(__name__)

NAMES_SHOWN = 3


class GivenParameters:
    """Used by the training thread. Looks at a dict for each module, and at names only once one of them has changed."""

    def __init__(self, table: ModelTable, parts: Sequence[torch.nn.Module]) -> None:
        # Not held: threads hold this object, and a model that holds its worker would keep it in the job. The worker holds both.
        self._roots = [weakref.ref(unwrapped(part)) for part in parts]
        self._left_out = frozenset(
            module for root in self._there() for module in root.modules() if _is_divided_by_fsdp(module)
        )
        """torch puts whole parameters in the place of the divided ones around their forward pass."""
        trained = {id(tensor) for entry, tensor in table.held.items() if table.entries[entry].group >= 0}
        self._given = dict(self._named())
        self._trained = frozenset(name for name, tensor in self._given.items() if id(tensor) in trained)
        self._seen = self._look()
        self._told: frozenset[str] = frozenset()

    def fault(self) -> str:
        """What is wrong and what to do, if a trained parameter is not the model's own any more; else empty.

        One that is gone, and one that nobody trains, are worth a warning: plain torch goes on then, too.
        """
        if all(look.holds() for look in self._seen):
            return ""
        found = difference(self._given, dict(self._named()), self._trained)
        if found.replaced:
            return (
                f"{listed(found.replaced)}: not the parameters that worker.optimizer() was given (a module was replaced, "
                "weights were tied, untied or parametrised, load_state_dict(assign=True), ...). The servers know only those: "
                "the new ones would not be trained, and the old values be saved, so nothing was done. Change the model before "
                "worker.optimizer(...); to put values into it later keep its parameters (`with torch.no_grad(): "
                "parameter.copy_(values)`) and call optimizer.push_values()"
            )
        self._warn(found)
        self._seen = self._look()
        return ""

    def check(self) -> None:
        """Raises SettingError if there is a fault: names the parameters."""
        fault = self.fault()
        if fault:
            raise SettingError(fault)

    def _warn(self, found: "Difference") -> None:
        gone, new = ([name for name in names if name not in self._told] for names in (found.gone, found.new))
        self._told |= {*gone, *new}
        if gone:
            logger.warning(
                "%s: gone from the model since worker.optimizer(); worker.full_state_dict() still has the values "
                "that the servers hold of it",
                listed(gone),
            )
        if new:
            logger.warning(
                "%s: in the model, but not when it was given to worker.optimizer(), so nobody trains it, and it differs from "
                "worker to worker; build the whole model before, or call requires_grad_(False) if that is meant",
                listed(new),
            )

    def _there(self) -> list[torch.nn.Module]:
        return [root for reference in self._roots if (root := reference()) is not None]

    def _named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Each parameter under each of its names."""
        for root in self._there():
            for path, module in root.named_modules(remove_duplicate=False):
                for name, parameter in module._parameters.items():
                    if parameter is not None and module not in self._left_out:
                        yield plain_name(f"{path}.{name}" if path else name), parameter

    def _look(self) -> "list[_Look]":
        looks = []
        for root in self._there():
            for module in root.modules():
                looks.append(_Look.at(module._modules))
                if module not in self._left_out:
                    looks.append(_Look.at(module._parameters))
        return looks


@dataclass(frozen=True)
class _Look:
    """What was in a dict of a module."""

    live: Mapping[str, object]
    names: tuple[str, ...]
    values: tuple[object, ...]

    @classmethod
    def at(cls, live: Mapping[str, object]) -> "_Look":
        return cls(live, tuple(live), tuple(live.values()))

    def holds(self) -> bool:
        """Whether the same objects are there under the same names."""
        return tuple(self.live) == self.names and all(map(is_, self.live.values(), self.values))


@dataclass(frozen=True)
class Difference:
    """Between the parameters of a model at two moments. Names, the later ones' in parentheses."""

    replaced: Sequence[str]
    """Trained ones whose name another parameter has now, or that have another name, or whose place new ones have taken."""
    gone: Sequence[str]
    new: Sequence[str]
    """That require a gradient."""


def difference(
    given: Mapping[str, torch.Tensor], now: Mapping[str, torch.Tensor], trained: frozenset[str]
) -> Difference:
    """Pure. Both by name; `trained` are names of `given`."""
    known = {id(tensor) for tensor in given.values()}
    new = [
        name for name, tensor in now.items() if name not in given and id(tensor) not in known and tensor.requires_grad
    ]
    names = {id(tensor): name for name, tensor in reversed(list(now.items()))}
    replaced, gone = [], []
    for name, tensor in given.items():
        if name not in trained or now.get(name) is tensor:
            continue
        elsewhere = names.get(id(tensor), "")
        taken = _beside(name, new)
        if name in now:
            replaced.append(name)
        elif elsewhere and elsewhere not in given:
            replaced.append(f"{name} (now {elsewhere})")
        elif taken and not elsewhere:
            replaced.append(f"{name} (now {', '.join(taken)})")
        elif not elsewhere:
            gone.append(name)
    return Difference(replaced, gone, new)


def _beside(name: str, new: Sequence[str]) -> list[str]:
    """New names in the module of a parameter, or below it: a weight that has become the product of two others, say."""
    module = name.rpartition(".")[0]
    if not module:
        return [other for other in new if "." not in other or other.startswith("parametrizations.")]
    return [other for other in new if other.startswith(f"{module}.")]


def _is_divided_by_fsdp(module: torch.nn.Module) -> bool:
    return any(
        "fsdp" in mesh_dimensions(parameter) for parameter in module._parameters.values() if parameter is not None
    )


def listed(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
