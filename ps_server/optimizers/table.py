"""Optimizers by name."""

from collections.abc import Sequence

import torch

from ...protos.common_pb2 import OptimizerSpecification
from ...protos.errors import SettingError
from .base import BlockOptimizer, GroupValues
from .layerwise import Lamb, Lars
from .slots import SLOTS
from .torch_optimizers import Adagrad, Adam, AdamW, RmsProp, Sgd

OPTIMIZERS: dict[str, type[BlockOptimizer]] = {
    "SGD": Sgd,
    "Adam": Adam,
    "AdamW": AdamW,
    "Adagrad": Adagrad,
    "RMSprop": RmsProp,
    "LARS": Lars,
    "LAMB": Lamb,
}


def check_optimizer(specification: OptimizerSpecification) -> None:
    """Refuses an optimizer that the servers do not have, or groups without numbers.

    Raises:
        SettingError: names the optimizers there are, or what is missing.
    """
    optimizer = optimizer_for(specification, [(0, 1)], 1)
    for group in specification.groups:
        values = GroupValues(dict(group.numbers), dict(group.flags))
        try:
            optimizer.update([0], [torch.ones(1)], [torch.ones(1)], values)
        except KeyError as missing:
            raise SettingError(f"optimizer {specification.name} needs {missing} in every parameter group") from None


def optimizer_for(
    specification: OptimizerSpecification,
    ranges: Sequence[tuple[int, int]],
    num_elements: int,
    state: str = "fp32",
) -> BlockOptimizer:
    """The optimizer that a specification names, with fresh state.

    Args:
        ranges: start and stop of each block in the flat parameter buffer.
        num_elements: of that buffer.
        state: how moments are kept, `fp32` or `int8`.

    Raises:
        SettingError: no such optimizer here, or a group without its numbers.
    """
    kind = OPTIMIZERS.get(specification.name)
    if kind is None:
        raise SettingError(f"optimizer {specification.name} is not one of {', '.join(OPTIMIZERS)}")
    groups = [GroupValues(dict(group.numbers), dict(group.flags)) for group in specification.groups]
    if not groups or any("lr" not in group.numbers for group in groups):
        raise SettingError(f"optimizer {specification.name} needs at least one parameter group, each with lr")
    return kind(len(ranges), SLOTS[state](ranges, num_elements), groups)
