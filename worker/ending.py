"""How a worker process comes to its end."""

import signal
from types import FrameType

from ..protos.errors import ServerDrainingError


def failure_text(error: BaseException | None) -> str:
    """What the registrar is told. A process that was asked to end has not failed, nor has one that its servers leave."""
    if error is None or isinstance(error, ServerDrainingError):
        return ""
    if isinstance(error, SystemExit) and error.code in (None, 0, 128 + signal.SIGTERM):
        return ""
    return f"{type(error).__name__}: {error}"


def end_process(number: int, frame: FrameType | None) -> None:
    """Signal handler: leaves the training loop as an exception does, so that the worker leaves the job."""
    raise SystemExit(128 + number)
