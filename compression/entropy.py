"""The last stage of a frame: its sections compressed by a general-purpose coder, where that makes it smaller.

Behind the header of a compressed frame: u32 bytes of the sections, u32 bytes of the Zstandard frame, that frame,
zeros up to four bytes. Zstandard promises equal decoding only: its bytes may differ between releases.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import zstandard

from ..protos.errors import CodecError, FrameError
from .arguments import no_arguments
from .codec import Bytes, Codec, DenseCodec, Floats, Memo, Residual, check_padding, frozen, padded
from .contract import Contract
from .header import COMPRESSED_FLAG, HEADER_BYTES, Header, read_header
from .selections.indices import index_bound

_LEVEL = 1
_LENGTHS_BYTES = 8
_MOST_BYTES = 2**32 - 1
"""What a length can say; larger sections stay as they are."""


@dataclass(frozen=True, slots=True)
class Zstd(Codec):
    """Another codec's frames, compressed. A frame that would not become smaller stays as it is."""

    inner: Codec

    @property
    def spec(self) -> str:
        return f"{self.inner.spec}+zstd"

    @property
    def contract(self) -> Contract:
        return self.inner.contract

    @property
    def lossless(self) -> bool:
        return self.inner.lossless

    @property
    def exact_bytes(self) -> bool:
        return False

    def frame_bound(self, num_elements: int) -> int:
        return self.inner.frame_bound(num_elements)

    def dense(self) -> DenseCodec:
        return self.inner.dense()

    def with_density(self, share: float) -> Codec | None:
        inner = self.inner.with_density(share)
        return None if inner is None else Zstd(inner)

    def _encode(self, values: Floats, out: Bytes, seed: np.uint32, residual: Residual | None, memo: Memo | None) -> int:
        num_bytes = self.inner._encode(values, out, seed, residual, memo)
        return compress_frame(out[:num_bytes], values.size)

    def reference_frame(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        return self.inner.reference_frame(values, seed)


def compress_frame(frame: Bytes, num_elements: int) -> int:
    """Compress the sections of a frame in place; returns its bytes, as many as before if that gains nothing."""
    sections = frame[HEADER_BYTES:]
    if sections.size > _MOST_BYTES:
        return frame.size
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False, write_content_size=True)
    packed = np.frombuffer(compressor.compress(sections.data), np.uint8)
    used = HEADER_BYTES + _LENGTHS_BYTES + packed.size
    num_bytes = padded(used)
    if num_bytes >= frame.size:
        return frame.size
    header = read_header(frame.data, num_elements)
    replace(header, flags=header.flags | COMPRESSED_FLAG).write(frame)
    frame[HEADER_BYTES : HEADER_BYTES + _LENGTHS_BYTES].view(np.uint32)[:] = sections.size, packed.size
    frame[HEADER_BYTES + _LENGTHS_BYTES : used] = packed
    frame[used:num_bytes] = 0
    return num_bytes


def expanded(header: Header, values: DenseCodec, stored: Bytes) -> Bytes:
    """The sections of a compressed frame, uint8, aligned to four bytes; raises FrameError.

    What is allocated is at most what a frame with this header may hold.
    """
    if stored.size < _LENGTHS_BYTES:
        raise FrameError("compressed frame ends inside its lengths")
    num_bytes, packed_bytes = (int(length) for length in stored[:_LENGTHS_BYTES].view(np.uint32))
    most = index_bound(header.num_elements, header.num_sent) + values.section_bytes(header.num_sent)
    if num_bytes % 4 or num_bytes > most:
        raise FrameError(f"compressed frame claims {num_bytes} bytes; with its header there are at most {most}")
    if stored.size >= num_bytes:
        raise FrameError("compressed frame is not smaller than what it claims to hold")
    if padded(_LENGTHS_BYTES + packed_bytes) != stored.size:
        raise FrameError(f"compressed frame has {stored.size} bytes, which its lengths contradict")
    packed = stored[_LENGTHS_BYTES : _LENGTHS_BYTES + packed_bytes]
    check_padding(stored[_LENGTHS_BYTES + packed_bytes :])
    return frozen(np.frombuffer(_expand(packed, num_bytes), np.uint8))


def _expand(packed: Bytes, num_bytes: int) -> bytes:
    try:
        parameters = zstandard.get_frame_parameters(packed.data)
        if parameters.content_size != num_bytes or parameters.dict_id:
            raise FrameError(f"compressed frame of {num_bytes} bytes holds a stream of another size")
        sections = zstandard.ZstdDecompressor().decompress(
            packed.data, max_output_size=num_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise FrameError(f"compressed frame cannot be expanded: {error}") from None
    if len(sections) != num_bytes:
        raise FrameError(f"compressed frame of {num_bytes} bytes expands to {len(sections)}")
    return sections


def build(arguments: list[str], inner: Codec) -> Codec:
    no_arguments("zstd", arguments)
    if isinstance(inner, Zstd):
        raise CodecError("zstd is the last stage and stands once")
    return Zstd(inner)
