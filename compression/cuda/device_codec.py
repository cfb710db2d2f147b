"""Codecs on a device: only frames leave it.

Frames equal those of the CPU by bits. On CUDA devices, Triton kernels code the values where they exist, and plain torch
operations do everything else; without Triton they do all of it. Tested in Triton's interpreter and with torch on the
CPU; neither run nor measured on a GPU yet.
"""

import importlib.util
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from ...protos.errors import NonFiniteError
from ..codec import Codec, DenseCodec, seed_word
from ..entropy import Zstd, compress_frame
from ..header import DENSE, HEADER_BYTES, MAX_ELEMENTS, Header
from ..kernels import LARGEST
from ..selections.nonzero import NonZero
from ..selections.sparse import SparseCodec
from .device_sections import ReferenceSections, Residual, Sections, SectionsOf
from .device_selection import chosen_on_device, index_on_device

_LEAD_BYTES = 8
"""Puts what stands behind the header at a multiple of 32 bytes, so that kernels write whole vectors."""


class FrameWriter(Protocol):
    """Makes the frames of one codec."""

    def frame(self, values: Tensor, seed: int, residual: Residual | None) -> Tensor:
        """See `DeviceCodec.encode`; arguments are checked, and `seed` is the word that `seed_word` makes."""


class DeviceCodec:
    """A codec for tensors that stay on their device. Threads may share it; work runs on the caller's current stream."""

    def __init__(self, codec: Codec, sections_of: SectionsOf) -> None:
        self.codec = codec
        self._writer = _writer(codec, sections_of)

    def encode(self, values: Tensor, *, seed: int = 0, residual: Residual | None = None) -> Tensor:
        """The frame of y = values (+ committed), uint8 [num_bytes] on the same device.

        `values` is float32 [n], contiguous; with `residual`, (committed, pending) alike, pending becomes y - D and
        committed is only read. `seed` as for `Codec.encode`. Waits for the device, to learn whether everything is
        finite. Raises NonFiniteError if not: pending is then undefined.
        """
        check_values("values", values, values.numel(), values.device)
        if values.numel() > MAX_ELEMENTS:
            raise ValueError(f"{values.numel()} values do not fit one frame of at most {MAX_ELEMENTS}")
        if residual is not None:
            check_values("committed residual", residual[0], values.numel(), values.device)
            check_values("pending residual", residual[1], values.numel(), values.device)
        return self._writer.frame(values.detach(), int(seed_word(seed)), residual)


def reference_codec(codec: Codec) -> DeviceCodec:
    """In torch operations only: for any device."""
    return DeviceCodec(codec, ReferenceSections)


@lru_cache(maxsize=256)
def device_codec(codec: Codec, device: torch.device) -> DeviceCodec:
    """The fastest there is for tensors of this device."""
    return DeviceCodec(codec, sections_for(device))


def sections_for(device: torch.device) -> SectionsOf:
    """Triton kernels on CUDA devices if Triton is installed (the extra `cuda`), else references."""
    return _triton_sections() if device.type == "cuda" else ReferenceSections


@lru_cache(maxsize=1)
def _triton_sections() -> SectionsOf:
    if importlib.util.find_spec("triton") is None:
        return ReferenceSections
    from .triton_sections import triton_sections

    return triton_sections


def check_values(what: str, values: Tensor, size: int, device: torch.device) -> None:
    """Raise ValueError unless `values` is a contiguous float32 [size] on this device."""
    if values.dtype != torch.float32 or values.ndim != 1 or not values.is_contiguous():
        raise ValueError(
            f"{what} must be a contiguous one-dimensional float32 tensor, "
            f"not {values.dtype} {list(values.shape)} with strides {list(values.stride())}"
        )
    if values.numel() != size:
        raise ValueError(f"{what} has {values.numel()} elements instead of {size}")
    if values.device != device:
        raise ValueError(f"{what} is on {values.device}, the values are on {device}")


def _writer(codec: Codec, sections_of: SectionsOf) -> FrameWriter:
    match codec:
        case DenseCodec():
            return _DenseWriter(codec, sections_of(codec))
        case SparseCodec():
            return _SparseWriter(codec, sections_of(codec.values))
        case Zstd():
            return _CompressedWriter(_writer(codec.inner, sections_of))
    raise TypeError(f"{codec.spec} cannot be encoded on a device")


class _DenseWriter:
    def __init__(self, codec: DenseCodec, sections: Sections) -> None:
        self._codec = codec
        self._sections = sections

    def frame(self, values: Tensor, seed: int, residual: Residual | None) -> Tensor:
        count = values.numel()
        num_bytes = HEADER_BYTES + self._codec.section_bytes(count)
        frame = values.new_empty(_LEAD_BYTES + num_bytes, dtype=torch.uint8)[_LEAD_BYTES:]
        frame[:HEADER_BYTES] = Header(DENSE, self._codec.value_id, 0, self._codec.parameter, count, count).tensor(
            values.device
        )
        finding = values.new_zeros(2, dtype=torch.int32)
        self._sections.encode(values, frame[HEADER_BYTES:], seed, residual, finding[:1])
        if not self._codec.says_zero:
            finding[1:] = (values == 0 if residual is None else values == -residual[0]).any()
        is_not_finite, has_zero = finding.tolist()
        if is_not_finite:
            raise _non_finite(values, residual)
        if has_zero:
            return _SparseWriter(NonZero(self._codec), self._sections).frame(values, seed, residual)
        return frame


class _SparseWriter:
    def __init__(self, codec: SparseCodec, sections: Sections) -> None:
        self._codec = codec
        self._sections = sections

    def frame(self, values: Tensor, seed: int, residual: Residual | None) -> Tensor:
        total = values if residual is None else torch.add(values, residual[0], out=residual[1])
        if not torch.isfinite(total).all():
            raise _non_finite(values, residual)
        chosen = chosen_on_device(self._codec, total, seed)
        kept = total[chosen]
        drops_zeros = not self._codec.values.says_zero and not bool(kept.all())
        if drops_zeros:
            chosen = chosen[kept != 0].sort().values
            kept = total[chosen]
        header, index = index_on_device(self._codec, chosen, total.numel(), seed, named=drops_zeros)
        factor = self._codec.contract.factor(total.numel())
        if factor != 1:
            kept = (kept * factor).clamp(-float(LARGEST), float(LARGEST))
        section = values.new_empty(self._codec.values.section_bytes(kept.numel()), dtype=torch.uint8)
        self._sections.encode(kept, section, seed, None, values.new_zeros(1, dtype=torch.int32))
        if residual is not None:
            sent = torch.empty_like(kept)
            self._sections.decode(section, sent, 1.0, False)
            total[chosen] -= sent
        return torch.cat([header.tensor(values.device), index, section])


class _CompressedWriter:
    """The last stage is the host's: the frame goes there and back, so its bytes are few."""

    def __init__(self, inner: FrameWriter) -> None:
        self._inner = inner

    def frame(self, values: Tensor, seed: int, residual: Residual | None) -> Tensor:
        frame = self._inner.frame(values, seed, residual).cpu()
        num_bytes = compress_frame(frame.numpy(), values.numel())
        return frame[:num_bytes].to(values.device)


def _non_finite(values: Tensor, residual: Residual | None) -> NonFiniteError:
    """The error that names the first value that is not finite."""
    total = values if residual is None else values + residual[0]
    place = int((~torch.isfinite(total)).to(torch.uint8).argmax())
    by_residual = residual is not None and bool(torch.isfinite(values[place]))
    cause = " once the residual is added" if by_residual else ""
    return NonFiniteError(f"value {place} of {values.numel()} is {float(total[place])}{cause}; nothing was encoded")
