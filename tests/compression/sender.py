"""An encoder together with what its receiver decodes."""

import numpy as np
from numpy.typing import NDArray

from pushpull.compression.encoder_spec import parse_encoder
from pushpull.compression.frame import parse_frame

Floats = NDArray[np.float32]

KEY = 7
SIZE = 500


def gradient(step: int, size: int = SIZE) -> Floats:
    return np.random.default_rng(step).standard_normal(size).astype(np.float32)


class Sender:
    """Sends blocks as a specification says."""

    def __init__(self, spec: str) -> None:
        self.spec = parse_encoder(spec)
        self.encoder = self.spec.build()

    def send(self, values: Floats, key: int = KEY, seed: int = 0) -> Floats:
        """What arrives; nothing is committed."""
        out = np.empty(self.spec.frame_bound(values.size), np.uint8)
        num_bytes = self.encoder.encode(key, values, out, seed)
        received = np.empty_like(values)
        parse_frame(out[:num_bytes].tobytes(), values.size).decode_into(received)
        return received

    def commit(self, key: int = KEY) -> None:
        self.encoder.commit([key])

    def remembered(self, name: str, key: int = KEY) -> Floats:
        """A committed row."""
        row: Floats = self.encoder.state_dict()[key][name].numpy()
        return row

    def residual(self, key: int = KEY) -> Floats:
        return self.remembered("residual", key)
