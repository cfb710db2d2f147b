"""What every codec means, in plain torch operations: the oracle that kernels equal by bits, on any device.

Each codec brings its own reference; nothing but the header is shared with the kernels.
"""

import torch
from torch import Tensor

from .codec import Codec, seed_word
from .entropy import expanded
from .header import COMPRESSED_FLAG, DENSE, HEADER_BYTES, read_header
from .spec import REFERENCE_POSITIONS, VALUE_READERS


def encode(codec: Codec, values: Tensor, seed: int = 0, committed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The frame of y = values (+ committed), uint8 [num_bytes], and what it leaves out, float32 [n].

    The frame of a codec with a last stage is the one before that stage.
    """
    total = values if committed is None else values + committed
    frame = codec.reference_frame(total, int(seed_word(seed)))
    return frame, total - decode(frame, total.numel())


def decode(frame: Tensor, num_elements: int) -> Tensor:
    """D, float32 [num_elements], of a valid frame, uint8 [num_bytes]."""
    header = read_header(frame.cpu().numpy().data, num_elements)
    values = VALUE_READERS[header.values](header.parameter)
    sections = frame[HEADER_BYTES:]
    if header.flags & COMPRESSED_FLAG:
        plain = expanded(header, values, sections.cpu().numpy())
        sections = torch.from_numpy(plain.copy()).to(frame.device)
    if header.selection == DENSE:
        return values.reference_values(sections, num_elements)
    positions, num_bytes = REFERENCE_POSITIONS[header.selection](header, sections)
    out = torch.zeros(num_elements, device=frame.device)
    out[positions] = values.reference_values(sections[num_bytes:], header.num_sent)
    return out
