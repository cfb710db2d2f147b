"""Compiling device kernels ahead of the first step; Triton keeps them on the disk."""

import torch

from ..codec import Codec
from .device_codec import device_codec
from .device_frame import parse_on_device

_ELEMENTS = 8191


def warm_up_on_device(codec: Codec, device: torch.device) -> None:
    """Compile, or load from the disk cache, every kernel of the codec for tensors of this device. Takes seconds once."""
    for member in {codec, codec.dense()}:
        values = torch.ones(_ELEMENTS, device=device)
        on_device = device_codec(member, device)
        on_device.encode(values)
        frame = on_device.encode(values, residual=(torch.zeros_like(values), torch.empty_like(values)))
        read = parse_on_device(frame.cpu().numpy().data, _ELEMENTS, device)
        read.decode_into(values)
        read.add_to(values)
