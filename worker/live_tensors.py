"""Where what no optimizer touches is at this moment: scripts assign new tensors (`self.mean = 0.9 * self.mean + ...`), load
frozen parameters with `assign=True`, and replace modules."""

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence

import torch

from ..compression.carried_words import carried_kind, carried_shape
from ..protos.parameter_names import plain_name
from .local_tensors import is_divided
from .model_table import ModelTable, unwrapped
from .writable_memory import obstacle

logger = logging.getLogger(__name__)


def live_tensors(table: ModelTable, parts: Sequence[torch.nn.Module]) -> Mapping[int, Callable[[], torch.Tensor]]:
    """By plan entry, of buffers and parameters in no group: asks this process's model for the tensor that it is now.

    Divided tensors are left out: torch itself puts gathered ones in their place now and then.
    """
    entry_of = {
        name: number
        for number, entry in enumerate(table.entries)
        for name in (entry.name, *entry.aliases)
        if entry.group < 0
    }
    found: dict[int, Callable[[], torch.Tensor]] = {}
    for part in parts:
        root = unwrapped(part)
        for path, module in root.named_modules(remove_duplicate=False):
            for own in (*module._buffers, *module._parameters):
                entry = entry_of.get(plain_name(f"{path}.{own}" if path else own))
                first = None if entry is None else table.tensors[entry]
                if entry is not None and first is not None and not is_divided(first):
                    found.setdefault(entry, LiveTensor(root, path, own, first))
    return found


class LiveTensor:
    """One of them. The servers know its size: a tensor that does not have it, or cannot be written, is left to the script, and
    people are told."""

    def __init__(self, root: torch.nn.Module, path: str, name: str, first: torch.Tensor) -> None:
        # Not held: threads hold this object, and a model that holds its worker would keep it in the job. The worker holds both.
        self._root = weakref.ref(root)
        self._path = path.split(".") if path else []
        self._name = name
        self._newest = first
        self._told = False

    def __call__(self) -> torch.Tensor:
        root = self._root()
        if root is None:
            return self._newest
        module = self._module(root)
        tensor = None if module is None else _tensor_of(module, self._name)
        if tensor is self._newest:
            return self._newest
        if tensor is not None and not obstacle(tensor) and _way(tensor) == _way(self._newest):
            self._newest = tensor
        elif not self._told:
            self._told = True
            logger.warning(
                "the %s %s of a %s %s: workers that join later get the values it had before",
                "parameter" if isinstance(self._newest, torch.nn.Parameter) else "buffer",
                self._name,
                type(root if module is None else module).__name__,
                "is gone"
                if tensor is None
                else obstacle(tensor) or "has another size or type than at worker.optimizer(...)",
            )
        return self._newest

    def _module(self, root: torch.nn.Module) -> torch.nn.Module | None:
        """The one that has the place in the model now."""
        module: torch.nn.Module | None = root
        for name in self._path:
            module = None if module is None else module._modules.get(name)
        return module


def _tensor_of(module: torch.nn.Module, name: str) -> torch.Tensor | None:
    found = module._buffers.get(name)
    return module._parameters.get(name) if found is None else found


def _way(tensor: torch.Tensor) -> tuple[object, ...]:
    """How it travels."""
    return carried_shape(tensor), carried_kind(tensor)
