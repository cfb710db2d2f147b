"""What a model asks for, read from the model itself on the meta device: no memory is taken, no arithmetic is done."""

import importlib.util
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ...protos.common_pb2 import OptimizerSpecification
from ...protos.errors import SettingError
from ...worker.model_table import described_model
from ...worker.optimizer_values import SUPPORTED, optimizer_specification
from ...worker.plan import BYTES_PER_ELEMENT, TableEntry
from .cluster import Cluster

FLOPS_PER_PARAMETER = 6
"""Of forward and backward, for each parameter and token (Kaplan et al. 2020, section 2.1)."""
_HALF = 2


@dataclass(frozen=True)
class StepCost:
    """One forward and backward pass over a batch."""

    flops: float
    saved_bytes: int
    """What forward leaves for backward."""
    peak_bytes: int
    """Most that lives at once, gradients included, the model's own tensors not."""


class ModelProfile:
    """The parameter table of a model, its optimizer, and what its steps cost.

    Raises:
        SettingError: a model or optimizer that cannot be trained this way.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        if cluster.model is None:
            raise SettingError("A plan needs a model: say --model file.py:function, or `model:` in the cluster file.")
        self._cluster = cluster
        self._loss = None if cluster.loss is None else load_function(cluster.loss, folder)
        make_model = load_function(cluster.model, folder)
        with torch.device("meta"):
            model = make_model()
        if not isinstance(model, torch.nn.Module):
            raise SettingError(f"{cluster.model} returned a {type(model).__name__}, not a torch.nn.Module")
        self._model = model
        optimizer_class = _optimizer_class(cluster.optimizer)
        template = optimizer_class(model.parameters(), **cluster.optimizer_options)
        table = described_model(model, template.param_groups)
        self.entries: tuple[TableEntry, ...] = table.entries
        self.num_parameters = table.num_parameters
        self.optimizer: OptimizerSpecification = optimizer_specification(
            type(template), template.param_groups, template.defaults
        )
        self._costs: dict[int, StepCost] = {}

    @property
    def measured(self) -> bool:
        """Whether work and memory of a step are measured, not assumed."""
        return self._loss is not None

    @property
    def trainable_elements(self) -> int:
        return sum(entry.num_elements for entry in self.entries if entry.group >= 0)

    def step(self, batch_size: int) -> StepCost:
        """The cost of a batch of so many samples on one device that holds the whole model."""
        if batch_size not in self._costs:
            self._costs[batch_size] = self._formula(batch_size) if self._loss is None else self._measure(batch_size)
        return self._costs[batch_size]

    def _formula(self, batch_size: int) -> StepCost:
        cluster = self._cluster
        elements = sum(entry.num_elements for entry in self.entries[: self.num_parameters])
        saved = batch_size * (cluster.activation_bytes_per_sample or 0)
        flops = FLOPS_PER_PARAMETER * elements * cluster.tokens_per_sample * batch_size
        return StepCost(flops, saved, max(saved, BYTES_PER_ELEMENT * self.trainable_elements))

    def _measure(self, batch_size: int) -> StepCost:
        assert self._loss is not None
        live = _LiveBytes()
        counter = FlopCounterMode(display=False)
        try:
            with torch.device("meta"), counter, live:
                loss = self._loss(self._model, batch_size)
                saved = live.now
                loss.backward()
        except Exception as error:
            raise SettingError(
                f"{self._cluster.loss} failed on the meta device with batch_size={batch_size}: {type(error).__name__}: "
                f"{error}. It must compute a loss of one element from tensors without values: no .item(), no data."
            ) from error
        for parameter in self._model.parameters():
            parameter.grad = None
        return self._in_precision(StepCost(float(counter.get_total_flops()), saved, live.peak))

    def _in_precision(self, cost: StepCost) -> StepCost:
        """Autocast halves what is saved and adds a copy of the weights in two bytes; meta tensors do not show it."""
        if self._cluster.precision == "fp32":
            return cost
        weights = _HALF * self.trainable_elements
        saved = cost.saved_bytes // 2 + weights
        gradients = BYTES_PER_ELEMENT * self.trainable_elements
        excess = max(0, cost.peak_bytes - max(cost.saved_bytes, gradients)) // 2
        return StepCost(cost.flops, saved, max(saved, gradients + weights) + excess)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that were made inside and still live; most of them at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        before = {id(storage) for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            # a view, or a tensor that was given, has its storage from before
            if id(storage) not in before and id(storage) not in self._sizes:
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._sizes[key] = size
        weakref.finalize(storage, self._drop, key)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def _optimizer_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    by_name = {optimizer_class.__name__: optimizer_class for optimizer_class in SUPPORTED}
    if name not in by_name:
        raise SettingError(f"`optimizer`: the servers cannot run {name!r}; use one of {', '.join(by_name)}")
    return by_name[name]


def load_function(target: str, folder: Path) -> Callable[..., Any]:
    """The function that `file.py:name` means; files are looked for in `folder`.

    Raises:
        SettingError: there is no such file or function, or the file cannot be run.
    """
    file, colon, name = target.rpartition(":")
    path = folder / file
    if not colon or not name:
        raise SettingError(f"{target!r} should be file.py:function, for example train.py:make_model")
    if not path.is_file():
        raise SettingError(f"{target!r}: there is no file {path}")
    specification = importlib.util.spec_from_file_location(f"pushpull_planned_{path.stem}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    with _searching(path.parent.resolve()):
        try:
            specification.loader.exec_module(module)
        except Exception as error:
            raise SettingError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise SettingError(f"{path} has no function {name!r}")
    found: Callable[..., Any] = function
    return found


@contextmanager
def _searching(folder: Path) -> Iterator[None]:
    """Imports find what lies beside a script, as when it is run."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
