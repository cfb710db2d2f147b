"""How many samples a batch of any structure has. Pure."""

import dataclasses
from collections.abc import Iterator, Mapping, Sized
from typing import Any


def batch_samples(batch: Any) -> float:
    """The length of its first tensor or array that has one, however deep; without any, its own length, else 1."""
    length = next(_lengths(batch), None)
    if length is not None:
        return float(length)
    return float(len(batch)) if isinstance(batch, Sized) else 1.0


def _lengths(part: Any) -> Iterator[int]:
    """Of the tensors of a structure, in its own order."""
    shape = getattr(part, "shape", None)
    if isinstance(shape, tuple):
        if len(shape) > 0:
            yield int(shape[0])
    elif isinstance(part, Mapping):
        for each in part.values():
            yield from _lengths(each)
    elif isinstance(part, tuple | list):
        for each in part:
            yield from _lengths(each)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        for field in dataclasses.fields(part):
            yield from _lengths(getattr(part, field.name))
    elif not isinstance(part, str | bytes | int | float | bool | type(None)):
        for each in getattr(part, "__dict__", {}).values():
            yield from _lengths(each)
