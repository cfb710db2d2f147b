"""Where encoding is queued on a CUDA device, and how its frames come to the host. Never run on a GPU."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..codec import Bytes


class EncodingStreams:
    """A stream of its own for each thread and device.

    On the default stream, encoding would wait for everything that backward has queued there by now, not only for the
    gradient that is encoded.
    """

    def __init__(self) -> None:
        self._local = threading.local()

    @contextmanager
    def after(self, ready: torch.cuda.Event, device: torch.device) -> Iterator[None]:
        """Queue on this thread's stream, behind `ready`: the gradient is complete.

        The caller keeps the gradient until its frame is on the host: the allocator does not know of this stream.
        """
        streams: dict[torch.device, torch.cuda.Stream] = self._local.__dict__.setdefault("streams", {})
        if device not in streams:
            streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        streams[device].wait_event(ready)
        with torch.cuda.stream(streams[device]):
            yield


def frame_to_host(frame: Tensor, out: Bytes) -> int:
    """Copy a frame to the start of `out`, uint8, when the current stream has made it; returns its bytes."""
    target = torch.from_numpy(out[: frame.numel()])
    target.copy_(frame)
    return frame.numel()
