"""Where the blocks of a gradient are encoded: in this computer's memory, or where the gradient lies."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..compression.checksum import checksum, checksum_of_tensor
from ..compression.cuda.device_memory import DeviceEncoder, device_encoder
from ..compression.cuda.streams import EncodingStreams, frame_to_host
from ..compression.encoder_spec import EncoderSpec
from ..compression.kernels import sum_of_squares
from ..compression.parameter_encoders import ParameterEncoders
from .gradient_encoder import AnyEncoder, GradientEncoder
from .plan import PlanBlock, ShardingPlan
from .tensor_memory import block_of, values_of_blocks

Bytes = NDArray[np.uint8]


class BlockEncoding(Protocol):
    """Encodes blocks of gradients. Used by the encoder's threads, different blocks at the same time."""

    bounds: Sequence[int]
    """Most bytes of each block's frame."""

    def after(self, ready: "torch.cuda.Event | None", gradient: torch.Tensor) -> AbstractContextManager[None]:
        """Inside, the gradient is complete for everything done here."""

    def blocks(self, gradient: torch.Tensor, blocks: Sequence[PlanBlock]) -> Iterator[tuple[PlanBlock, Any]]:
        """Each block with its values, float32 [n], contiguous: what the others take. May be the gradient's own memory."""

    def checksum(self, values: Any) -> int:
        """See `compression.checksum`."""

    def encode(self, block: int, values: Any, out: Bytes, seed: int) -> int:
        """Encodes values into `out`; returns the bytes written. Raises NonFiniteError."""

    def squares(self, values: Any) -> float:
        """Sum of squares of values, in float64."""


class HostEncoding:
    """In this computer's memory; gradients that lie elsewhere are copied first."""

    def __init__(self, encoder: GradientEncoder) -> None:
        self._encoder = encoder
        self.bounds: Sequence[int] = encoder.bounds

    def after(self, ready: "torch.cuda.Event | None", gradient: torch.Tensor) -> AbstractContextManager[None]:
        if ready is not None:
            ready.synchronize()
        return nullcontext()

    def blocks(self, gradient: torch.Tensor, blocks: Sequence[PlanBlock]) -> Iterator[tuple[PlanBlock, Any]]:
        return values_of_blocks(gradient, blocks)

    def checksum(self, values: Any) -> int:
        return checksum(values)

    def encode(self, block: int, values: Any, out: Bytes, seed: int) -> int:
        return self._encoder.encode(block, values, out, seed)

    def squares(self, values: Any) -> float:
        return sum_of_squares(values)


class DeviceEncoding:
    """Where the gradient lies, so that only frames leave the device. Blocks whose memory has no form for devices
    (`dgc`, `momentum`) are copied. Never run on a GPU; on the CPU its frames have the bits of the others, but for
    learned codebooks and compressed frames, which decode equally well."""

    def __init__(self, encoder: GradientEncoder) -> None:
        self._encoder = encoder
        self.bounds: Sequence[int] = encoder.bounds
        self._on_device: list[DeviceEncoder | None] = [
            found if isinstance(found := encoder.of(block), DeviceEncoder) else None
            for block in range(len(encoder.bounds))
        ]
        self._streams = EncodingStreams()

    def after(self, ready: "torch.cuda.Event | None", gradient: torch.Tensor) -> AbstractContextManager[None]:
        return nullcontext() if ready is None else self._streams.after(ready, gradient.device)

    def blocks(self, gradient: torch.Tensor, blocks: Sequence[PlanBlock]) -> Iterator[tuple[PlanBlock, Any]]:
        for block in blocks:
            yield block, block_of(gradient, block).reshape(-1).float().contiguous()

    def checksum(self, values: Any) -> int:
        return checksum_of_tensor(values)

    def encode(self, block: int, values: Any, out: Bytes, seed: int) -> int:
        encoder = self._on_device[block]
        if encoder is not None:
            return frame_to_host(encoder.encode_on_device(block, values, seed), out)
        return self._encoder.encode(block, values.cpu().numpy(), out, seed)

    def squares(self, values: Any) -> float:
        return float(values.double().square().sum())


def encoding_of(
    plan: ShardingPlan, encoders: ParameterEncoders, on_device: bool
) -> tuple[GradientEncoder, BlockEncoding]:
    """The job's encoders over a plan, and where they work."""
    if on_device:
        encoder = GradientEncoder(plan, encoders, encoder_on_device)
        return encoder, DeviceEncoding(encoder)
    encoder = GradientEncoder(plan, encoders)
    return encoder, HostEncoding(encoder)


def encoder_on_device(spec: EncoderSpec) -> AnyEncoder:
    """The encoder that works where a block lies, or that of the host where there is none."""
    return device_encoder(spec) or spec.build()


def times(values: Any, factor: np.float32) -> Any:
    """The same values where the factor is 1, else others: a gradient is never changed."""
    return values if factor == 1.0 else values * float(factor)
