"""What the caller of `worker.optimizer()` or `worker.local_updates()` chose."""

import os
from dataclasses import dataclass

MOST_ENCODER_THREADS = 2


@dataclass(frozen=True, kw_only=True)
class ReplicaSettings:
    """How a replica stages its steps."""

    accumulate: int = 1
    clip_norm: float | None = None
    num_encoder_threads: int = 1
    early: bool = True
    encode_on_device: bool = False
    on_demand: tuple[str, ...] = ()
    """Patterns of names of parameters whose values are fetched, not sent after every step."""


def num_usable_encoder_threads() -> int:
    """Threads that may encode beside the training itself."""
    return max(1, min(MOST_ENCODER_THREADS, (os.cpu_count() or 1) // 2))
