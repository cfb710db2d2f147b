"""One block on its way to a server and back, without the servers: encoded with its memory, parsed, decoded."""

import numpy as np

from ..compression.codec import Floats
from ..compression.encoder_spec import parse_encoder
from ..compression.frame import parse_frame

_KEY = 0


class Channel:
    """What a server reads of the vectors that one worker sends through the encoder `spec`; every frame is applied."""

    def __init__(self, spec: str, num_elements: int) -> None:
        encoder = parse_encoder(spec)
        self._encoder = encoder.build()
        self._out = np.empty(encoder.frame_bound(num_elements), np.uint8)
        self._decoded = np.empty(num_elements, np.float32)
        self.num_bytes = 0
        """Bytes of all frames so far."""

    def send(self, values: Floats, step: int) -> Floats:
        """What arrives of float32 [num_elements]; valid until the next call. `step` seeds random choices."""
        num_bytes = self._encoder.encode(_KEY, values, self._out, step)
        self._encoder.commit((_KEY,))
        self.num_bytes += num_bytes
        parse_frame(self._out[:num_bytes].data, values.size).decode_into(self._decoded)
        return self._decoded
