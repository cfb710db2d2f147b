"""Value sections on a device, as the device codecs see them, and those of codecs without device kernels."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..codec import DenseCodec

Residual = tuple[Tensor, Tensor]
"""(committed, pending), each float32 [n] on the device of the values."""


class Sections(Protocol):
    """The value sections of one codec on a device: uint8 [section_bytes(n)], aligned to four bytes. Nothing is
    checked; everything runs on the current stream."""

    def encode(self, values: Tensor, section: Tensor, seed: int, residual: Residual | None, finding: Tensor) -> None:
        """Encode float32 [n] (+ committed); pending becomes what is left out. `finding`, int32 [1], becomes 1 if a value
        is not finite, and stays as it is else. `seed` is the word that `seed_word` makes."""

    def decode(self, section: Tensor, out: Tensor, scale: float, add: bool) -> None:
        """out = fl(scale * D), or that added to out, float32 [n]. `scale` is a number of float32."""


SectionsOf = Callable[[DenseCodec], Sections]
"""What codes the values of a codec on some device."""


class ReferenceSections:
    """The torch operations that say what the codec means: right on any device, many passes over memory."""

    def __init__(self, codec: DenseCodec) -> None:
        self._codec = codec

    def encode(self, values: Tensor, section: Tensor, seed: int, residual: Residual | None, finding: Tensor) -> None:
        total = values if residual is None else values + residual[0]
        if not torch.isfinite(total).all():
            finding.fill_(1)
            return
        section.copy_(self._codec.reference_section(total, seed))
        if residual is not None:
            torch.sub(total, self._codec.reference_values(section, total.numel()), out=residual[1])

    def decode(self, section: Tensor, out: Tensor, scale: float, add: bool) -> None:
        scaled = self._codec.reference_values(section, out.numel()) * scale
        # Not torch.add with a factor, which may round once where this rounds twice.
        out.copy_(out + scaled if add else scaled)
