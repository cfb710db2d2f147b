"""Threshold: every element of at least a given magnitude."""

from dataclasses import dataclass

import numpy as np
import torch

from ...protos.errors import CodecError
from ..arguments import decimal, number
from ..codec import Codec, DenseCodec, Floats, Memo, Positions, Residual, non_finite
from ..contract import Contract
from . import sparse_kernels as kernels
from .sparse import SparseCodec
from .sparse_kernels import NOT_FINITE
from .topk import check_contracting


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
        found: Positions = np.empty(values.size + kernels.SPARE_ROOM, np.uint32)
        return found[: int(kernels.collect(values, self._bits, found))]

    def add_and_select(self, values: Floats, residual: Residual, seed: np.uint32, memo: Memo | None) -> Positions:
        found: Positions = np.empty(values.size + kernels.SPARE_ROOM, np.uint32)
        num_found = int(kernels.add_collect(values, *residual, self._bits, found))
        if num_found == NOT_FINITE:
            raise non_finite(values, residual)
        return found[:num_found]

    @property
    def _bits(self) -> np.int32:
        return np.float32(self.threshold).view(np.int32)

    def reference_select(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        return (values.abs() >= float(np.float32(self.threshold))).nonzero().view(-1)


def build(arguments: list[str], values: DenseCodec) -> Codec:
    if len(arguments) != 1:
        raise CodecError("threshold takes one argument, the smallest magnitude to send, e.g. threshold:0.001+fp16")
    threshold = number("threshold", "the smallest magnitude to send", arguments[0])
    with np.errstate(over="ignore"):
        rounded = np.float32(threshold)
    if not 0.0 < rounded < np.inf:
        raise CodecError(f"threshold sends magnitudes from a number above 0 that float32 can hold, not {arguments[0]}")
    check_contracting("threshold", values)
    return Threshold(threshold, values)
