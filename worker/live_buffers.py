"""Where a model's buffers are at this moment: scripts assign new tensors to them (`self.mean = 0.9 * self.mean + ...`)."""

import logging
from collections.abc import Callable, Mapping, Sequence

import torch

from ..compression.carried_words import carried_shape, travels_as_words
from ..protos.parameter_names import plain_name
from .model_table import ModelTable, unwrapped
from .writable_memory import obstacle

logger = logging.getLogger(__name__)


def live_buffers(table: ModelTable, parts: Sequence[torch.nn.Module]) -> Mapping[int, Callable[[], torch.Tensor]]:
    """By plan entry: asks the module of this process that holds the buffer for the tensor that it is now."""
    entry_of = {
        name: number
        for number in range(table.num_parameters, len(table.entries))
        for name in (table.entries[number].name, *table.entries[number].aliases)
    }
    found: dict[int, Callable[[], torch.Tensor]] = {}
    for part in parts:
        for path, module in unwrapped(part).named_modules(remove_duplicate=False):
            for own in module._buffers:
                entry = entry_of.get(plain_name(f"{path}.{own}" if path else own))
                first = None if entry is None else table.tensors[entry]
                if entry is not None and first is not None:
                    found.setdefault(entry, LiveBuffer(module, own, first))
    return found


class LiveBuffer:
    """One of them. The servers know its size: a tensor that does not have it, or cannot be written, is left to the script, and
    people are told."""

    def __init__(self, module: torch.nn.Module, name: str, first: torch.Tensor) -> None:
        self._module = module
        self._name = name
        self._newest = first
        self._told = False

    def __call__(self) -> torch.Tensor:
        tensor = self._module._buffers.get(self._name)
        if tensor is self._newest:
            return self._newest
        if tensor is not None and not obstacle(tensor) and _way(tensor) == _way(self._newest):
            self._newest = tensor
        elif not self._told:
            self._told = True
            logger.warning(
                "the buffer %s of a %s %s: workers that join later get the values it had before",
                self._name,
                type(self._module).__name__,
                "is gone"
                if tensor is None
                else obstacle(tensor) or "has another size or type than at worker.optimizer(...)",
            )
        return self._newest


def _way(tensor: torch.Tensor) -> tuple[object, ...]:
    """How it travels."""
    return travels_as_words(tensor), carried_shape(tensor)
