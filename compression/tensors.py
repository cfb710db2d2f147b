"""The library for torch tensors: any shape, any floating-point type, on the CPU or on a CUDA device.

frame = compress("int4", gradient, seed=step)
gradient = decompress(frame, gradient.shape, device=gradient.device)
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .codec import Bytes, Codec
from .cuda.device_codec import device_codec
from .cuda.device_frame import parse_on_device
from .frame import parse_frame
from .spec import parse_codec


def compress(
    codec: Codec | str, tensor: Tensor, *, seed: int = 0, residual: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """The frame of a tensor, uint8 [num_bytes] on its device.

    `codec` is a codec or its specification. The tensor may have any shape, strides and floating-point type, and may be
    empty; its elements are taken in the order of its indices, as float32: half precision is widened exactly, float64
    is rounded. With `residual`, (committed, pending), each contiguous float32 of as many elements on the same device,
    tensor + committed is encoded, pending becomes what the frame leaves out, and committed is only read: swap the two
    when the frame counts. Codecs that draw random numbers draw them from `seed` and the element's index, so different
    tensors, steps and workers need different seeds.

    CPU tensors are encoded by the CPU's kernels, CUDA tensors where they lie, with the same bytes (learned codebooks
    and entropy coding: frames of the same contract). The CUDA part was never run on a GPU.

    Raises:
        CodecError: the specification is not one.
        NonFiniteError: an element, or its sum with the residual, is a NaN or an infinity, or is too large for float32;
            committed is as before, pending undefined.
        ValueError: the tensor is sparse or not of a floating-point type, or the residual does not fit it.
    """
    codec = parse_codec(codec) if isinstance(codec, str) else codec
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(
            f"compress takes dense tensors of a floating-point type, not {tensor.dtype} with layout {tensor.layout} "
            f"on {tensor.device}"
        )
    values = tensor.detach().to(torch.float32).reshape(-1).contiguous()
    flat = (
        None if residual is None else (_flat(residual[0], "committed", values), _flat(residual[1], "pending", values))
    )
    if values.device.type != "cpu":
        return device_codec(codec, values.device).encode(values, seed=seed, residual=flat)
    out = np.empty(codec.frame_bound(values.numel()), np.uint8)
    rows = None if flat is None else (flat[0].numpy(), flat[1].numpy())
    num_bytes = codec.encode(values.numpy(), out, seed=seed, residual=rows)
    return torch.from_numpy(out[:num_bytes])


def decompress(
    frame: Tensor | bytes | memoryview,
    shape: int | Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """What a frame holds, as a tensor of this shape, type and device.

    `frame` is uint8 [num_bytes] on any device, or bytes. It is checked completely, in host memory, and decoded on
    `device`; a type narrower than float32 is rounded to.

    Raises:
        FrameError: these bytes are no frame of so many elements.
        NonFiniteError: the frame holds a NaN or an infinity.
        ValueError: `frame` is a tensor, but not one of bytes, or `dtype` is not a floating-point type.
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not dtype.is_floating_point:
        raise ValueError(f"decompress gives floating-point tensors, not {dtype}")
    if min(sizes, default=0) < 0:
        raise ValueError(f"a shape has no negative sizes: {list(sizes)}")
    out = torch.empty(math.prod(sizes), device=device)
    if out.device.type == "cpu":
        parse_frame(_bytes(frame), out.numel()).decode_into(out.numpy())
    else:
        parse_on_device(_bytes(frame), out.numel(), out.device).decode_into(out)
    return out.to(dtype).reshape(sizes)


def _bytes(frame: Tensor | bytes | memoryview) -> bytes | memoryview:
    if not isinstance(frame, Tensor):
        return frame
    if frame.dtype != torch.uint8 or frame.ndim != 1:
        raise ValueError(f"a frame is a one-dimensional uint8 tensor, not {frame.dtype} {list(frame.shape)}")
    held: Bytes = frame.detach().cpu().contiguous().numpy()
    return held.data


def _flat(row: Tensor, what: str, values: Tensor) -> Tensor:
    if row.dtype != torch.float32 or not row.is_contiguous() or row.numel() != values.numel():
        raise ValueError(
            f"the {what} residual must be a contiguous float32 tensor of {values.numel()} elements, "
            f"not {row.dtype} {list(row.shape)}"
        )
    if row.device != values.device:
        raise ValueError(f"the {what} residual is on {row.device}, the tensor is on {values.device}")
    return row.detach().view(-1)
