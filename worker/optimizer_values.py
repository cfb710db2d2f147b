"""What a torch optimizer is on the wire: its name, and the numbers and flags of its parameter groups."""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from ..compression.encoder_spec import EncoderSpec
from ..compression.error_feedback import WithErrorFeedback
from ..compression.parameter_encoders import ParameterEncoders
from ..protos.common_pb2 import OptimizerSpecification, ParameterGroup
from ..protos.errors import SettingError
from .large_batch import LAMB, LARS
from .user_numbers import finite_number_of

logger = logging.getLogger(__name__)

SUPPORTED: tuple[type[torch.optim.Optimizer], ...] = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adagrad,
    torch.optim.RMSprop,
    LARS,
    LAMB,
)
ADAM_FAMILY = ("Adam", "AdamW", "LAMB")

_LARGE_BLOCK_ELEMENTS = 1 << 16
_SMALL_DELTA = 0.1
"""Contraction below which a codec counts as coarse: int4 has 0.43, int2, sign, vq and topk:0.01 less than 0.02."""

LOCAL_FLAGS = frozenset({"foreach", "fused", "capturable", "differentiable"})
"""How torch computes on this machine; the servers choose for themselves."""


def check_supported(optimizer_class: type[torch.optim.Optimizer]) -> None:
    """Raises SettingError unless the servers can run this optimizer."""
    if optimizer_class in SUPPORTED:
        return
    choices = ", ".join(_public_name(choice) for choice in SUPPORTED)
    if isinstance(optimizer_class, type):
        raise SettingError(
            f"the servers cannot run {optimizer_class.__module__}.{optimizer_class.__name__}; use one of {choices}"
        )
    raise SettingError(
        f"worker.optimizer() was given an object of type {type(optimizer_class).__name__} where the class of an optimizer "
        f"belongs: worker.optimizer(model, torch.optim.SGD, lr=...), say, or another one of {choices}"
    )


def _public_name(optimizer_class: type[torch.optim.Optimizer]) -> str:
    of_torch = optimizer_class.__module__.startswith("torch.")
    return f"{'torch.optim' if of_torch else 'pushpull.worker'}.{optimizer_class.__name__}"


def check_momentum(specification: OptimizerSpecification, encoders: ParameterEncoders) -> None:
    """Raises SettingError if both workers and servers would apply momentum."""
    own = next((encoder for encoder in encoders.all if encoder.memory.momentum), None)
    if own is None:
        return
    reason = f"push codec {own.spec} applies momentum {own.memory.momentum:g} on the workers"
    if specification.name in ADAM_FAMILY:
        raise SettingError(
            f"{reason}, and {specification.name} would apply its own to that on the servers; use torch.optim.SGD "
            "without momentum, or a push codec without dgc"
        )
    for index, group in enumerate(specification.groups):
        if group.numbers.get("momentum", 0.0):
            raise SettingError(
                f"{reason}, so momentum={group.numbers['momentum']:g} of parameter group {index} would count twice; set "
                "momentum=0 in the optimizer, or use a push codec without dgc"
            )


def warn_of_bursts(specification: OptimizerSpecification, encoders: ParameterEncoders) -> None:
    """Warns where error feedback of a coarse codec meets moments on the servers, which costs accuracy (measured:
    docs/convergence.md)."""
    keeps_moments = specification.name in ADAM_FAMILY or any(g.numbers.get("momentum") for g in specification.groups)
    coarse = next((encoder.spec for encoder in encoders.all if _comes_in_bursts(encoder)), None)
    if keeps_moments and coarse is not None:
        logger.warning(
            "push codec %s sends an element as one burst after many silent steps, which the moments of %s on the servers take "
            "for a change of the gradient: expect a higher loss than with push_codec=int8 or int4, or use torch.optim.SGD "
            "without momentum",
            coarse,
            specification.name,
        )


def _comes_in_bursts(encoder: EncoderSpec) -> bool:
    """Most of an element may wait in the residual."""
    if encoder.memory != WithErrorFeedback():
        return False
    delta = encoder.codec.contract.delta(_LARGE_BLOCK_ELEMENTS)
    return delta is not None and delta < _SMALL_DELTA


def optimizer_specification(
    optimizer_class: type[torch.optim.Optimizer],
    param_groups: Sequence[Mapping[str, Any]],
    defaults: Mapping[str, Any],
) -> OptimizerSpecification:
    """Name, numbers and flags of an optimizer. `defaults` names what the optimizer itself knows."""
    both = zip(group_numbers(param_groups, defaults), flag_values(param_groups, defaults), strict=True)
    groups = [ParameterGroup(numbers=numbers.numbers, flags=flags) for numbers, flags in both]
    return OptimizerSpecification(name=optimizer_class.__name__, groups=groups)


def scaled_rates(groups: Sequence[ParameterGroup], factor: float) -> Sequence[ParameterGroup]:
    """The same groups with other learning rates, and what they were multiplied by."""
    if factor != 1.0:
        for group in groups:
            group.numbers["lr"] *= factor
            group.lr_factor = factor
    return groups


def group_numbers(param_groups: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> list[ParameterGroup]:
    """The numeric values of every group at this moment, of whatever type of number; what schedulers add for themselves is
    left out.

    Raises:
        SettingError: a value is no number, or not finite; names the group and the value.
    """
    groups = []
    for index, group in enumerate(param_groups):
        where = f"parameter group {index}: "
        numbers = {key: number for name in defaults for key, number in _numbers(where, name, group[name])}
        groups.append(ParameterGroup(numbers=numbers))
    return groups


def flag_values(param_groups: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> list[dict[str, bool]]:
    """What is on and off in every group at this moment.

    Raises:
        SettingError: a value is neither; names the group and the value.
    """
    names = [name for name in defaults if name in known_flags()]
    return [
        {name: _flag(f"parameter group {index}: {name}", group[name]) for name in names}
        for index, group in enumerate(param_groups)
    ]


@lru_cache(maxsize=1)
def known_flags() -> frozenset[str]:
    """Names of what is on or off in the optimizers that are supported, and means something to the servers: whatever type
    a script gives it."""
    signatures = (inspect.signature(optimizer).parameters for optimizer in SUPPORTED)
    names = {name for each in signatures for name, parameter in each.items() if isinstance(parameter.default, bool)}
    return frozenset(names - LOCAL_FLAGS)


def _flag(name: str, value: Any) -> bool:
    if value is None or isinstance(value, str):
        raise SettingError(f"{name} is {value!r}; it must be True or False")
    return bool(value)


def _numbers(where: str, name: str, value: Any) -> Iterator[tuple[str, float]]:
    if value is None or name in LOCAL_FLAGS or name in known_flags():
        return
    if isinstance(value, tuple | list) or (hasattr(value, "ndim") and value.ndim > 0 and len(value) > 1):
        for position, item in enumerate(value):
            yield from _numbers(where, f"{name}.{position}", item)
    else:
        yield name, finite_number_of(f"{where}{name}", value)
