"""A second device on a machine that has only a CPU, for layers placed on several devices.

Tensors on it keep their values in other tensors, which the code under test cannot reach. As with a real device, torch refuses
to mix them with tensors of the CPU and does not hand out their memory; values travel by copies in either direction. Streams,
memory limits and speed are not imitated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_BACKEND = "second"
SECOND_DEVICE = f"{_BACKEND}:0"

_aten = torch.ops.aten
_COPIES = (_aten.copy_.default, _aten._to_copy.default)


class SecondDeviceTensor(torch.Tensor):
    """A tensor on the second device; `hidden` has its values."""

    hidden: torch.Tensor

    @staticmethod
    def __new__(cls, hidden: torch.Tensor) -> "SecondDeviceTensor":
        tensor: SecondDeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            hidden.shape,
            strides=hidden.stride(),
            storage_offset=hidden.storage_offset(),
            dtype=hidden.dtype,
            device=torch.device(SECOND_DEVICE),
        )
        tensor.hidden = hidden
        return tensor

    def __repr__(self, **_: Any) -> str:
        return f"{self.hidden!r} on {self.device}"

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        target = kwargs.get("device")
        stays = target is None or torch.device(target).type == _BACKEND
        if target is not None:
            kwargs["device"] = "cpu"
        if operation not in _COPIES:
            tree_map(_refuse_cpu, (args, kwargs))
        result = operation(*tree_map(_values, args), **tree_map(_values, kwargs))
        if operation._schema.is_mutable and isinstance(result, torch.Tensor):
            return args[0]  # in place
        return tree_map(_on_second_device, result) if stays else result


@contextmanager
def second_device() -> Iterator[None]:
    """Makes `.to("second:0")` work inside the block. Once for each process, which remembers the name."""
    _setup_privateuseone_for_python_backend(_BACKEND)
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    yield
    del library


def _values(value: Any) -> Any:
    return value.hidden if isinstance(value, SecondDeviceTensor) else value


def _on_second_device(value: Any) -> Any:
    return SecondDeviceTensor(value) if isinstance(value, torch.Tensor) else value


def _refuse_cpu(value: Any) -> None:
    # torch allows single numbers of the CPU everywhere.
    if isinstance(value, torch.Tensor) and not isinstance(value, SecondDeviceTensor) and value.ndim:
        raise RuntimeError(f"Expected all tensors to be on the same device, but one is on {value.device}")


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:
    return SecondDeviceTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:
    return SecondDeviceTensor(torch.empty_strided(size, stride, dtype=dtype))
