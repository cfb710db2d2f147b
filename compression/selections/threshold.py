"""Threshold: every element of at least a given magnitude."""

from dataclasses import dataclass

import numpy as np
import torch

from ...protos.errors import CodecError
from ..arguments import decimal, number
from ..codec import Codec, DenseCodec, Floats, Memo, Positions
from ..contract import Contract
from ..kernels import MAGNITUDE, bits_of, kernel
from . import sparse_kernels as kernels
from .sparse import SparseCodec
from .topk import check_contracting

_ROOM = 63
_I = np.int32


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdContract(Contract):
    """That of codecs which send as many elements as reach a magnitude, perhaps none: each one left out is below it,
    which bounds the residual of error feedback although nothing contracts (Sahu et al. 2021)."""

    def band(self, num_elements: int) -> tuple[int, int]:
        return 0, num_elements

    def delta(self, num_elements: int) -> float | None:
        return 0.0


@dataclass(frozen=True, slots=True)
class Threshold(SparseCodec):
    """Sends the elements whose magnitude is at least `threshold`, in the units of the gradient, written by another
    codec."""

    threshold: float
    values: DenseCodec

    @property
    def spec(self) -> str:
        return f"threshold:{decimal(self.threshold)}+{self.values.spec}"

    @property
    def contract(self) -> Contract:
        inner = self.values.contract
        return ThresholdContract(
            deterministic=inner.deterministic,
            relative_error=inner.relative_error,
            squared_error=inner.squared_error,
            absolute_error=inner.absolute_error,
        )

    def select(self, values: Floats, seed: np.uint32, memo: Memo | None) -> Positions:
        bits = np.float32(self.threshold).view(np.int32)
        found: Positions = np.empty(int(_count(values, bits)) + _ROOM, np.uint32)
        return found[: int(kernels.collect(values, bits, found))]

    def reference_select(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        return (values.abs() >= float(np.float32(self.threshold))).nonzero().view(-1)


@kernel
def _count(values: Floats, threshold: np.int32) -> np.int64:
    count = np.int64(0)
    for start in range(0, values.size, 1 << 16):
        found = _I(0)
        part = values[start : min(start + (1 << 16), values.size)]
        for i in range(part.size):
            found += _I(_I(bits_of(part[i]) & MAGNITUDE) >= threshold)
        count += found
    return count


def build(arguments: list[str], values: DenseCodec) -> Codec:
    if len(arguments) != 1:
        raise CodecError("threshold takes one argument, the smallest magnitude to send, e.g. threshold:0.001+fp16")
    threshold = number("threshold", "the smallest magnitude to send", arguments[0])
    if not 0.0 < float(np.float32(threshold)) < float("inf"):
        raise CodecError(f"threshold sends magnitudes from a number above 0 that float32 can hold, not {arguments[0]}")
    check_contracting("threshold", values)
    return Threshold(threshold, values)
