"""How a worker process comes to its end."""

import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..protos.errors import ServerDrainingError

LONGEST_END_SECONDS = 8.0
"""From SIGTERM to the end of the process, whatever it is doing: less than the 12 s after which nobody waits any more."""
INSISTS_AFTER_SECONDS = 1.0
"""A second SIGTERM ends the process at once, unless it comes so soon that it is the first one sent twice."""
EXIT_STATUS = 128 + signal.SIGTERM
_NO_SIGNAL = 0


def failure_text(error: BaseException | None) -> str:
    """What the registrar is told. A process that was asked to end has not failed, nor has one that its servers leave."""
    if error is None or isinstance(error, ServerDrainingError):
        return ""
    if isinstance(error, SystemExit) and error.code in (None, 0, EXIT_STATUS):
        return ""
    return f"{type(error).__name__}: {error}"


class EndOnSigterm:
    """SIGTERM leaves the job at once, raises SystemExit in the main thread, and ends the process in time.

    `leave` is called from a thread of its own, without waiting for the main thread: that may be in a long call of C code, and
    others wait for this worker meanwhile. The same thread ends a process that is still there after `LONGEST_END_SECONDS`.

    To be used in the main thread only, where signal handlers can be set; anywhere else it does nothing, nor where user code has
    a handler for SIGTERM of its own. A handler that has a true attribute `ends_process` is one of ours and may be replaced.
    """

    def __init__(self) -> None:
        self.requested = False
        """SIGTERM has come."""
        self.leave: Callable[[], None] = lambda: None
        """To be set once there is a job to leave."""
        self._requested_at = 0.0
        self._has_raised = False
        self._old_handler: Any = None
        self._pipe: tuple[int, int] | None = None

    def install(self) -> None:
        """From now on SIGTERM is ours."""
        handler = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread():
            return
        if handler is not signal.SIG_DFL and not getattr(handler, "ends_process", False):
            return
        reading, writing = self._pipe = os.pipe()
        os.set_blocking(writing, False)
        others = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        if others != -1:
            # It is an event loop's. Our handler wakes the thread, if the main thread comes to run it.
            signal.set_wakeup_fd(others)
        self._old_handler = signal.signal(signal.SIGTERM, self)
        forget = weakref.WeakMethod(self._forget_in_child)
        os.register_at_fork(after_in_child=lambda: (method := forget()) and method())
        threading.Thread(target=self._watch, args=(reading,), name="pushpull-ending", daemon=True).start()

    def remove(self) -> None:
        """Gives SIGTERM back; but not once it has come, because then the process must end."""
        if self._pipe is None or self.requested:
            return
        if threading.current_thread() is not threading.main_thread():
            return
        _, writing = self._pipe
        self._restore(writing)
        self._pipe = None
        os.write(writing, bytes([_NO_SIGNAL]))  # not the end of the pipe: forked processes may hold it, too
        os.close(writing)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        if self._has_raised:
            if time.monotonic() > self._requested_at + INSISTS_AFTER_SECONDS:
                os._exit(EXIT_STATUS)
            return
        self._has_raised = True
        self._note()
        if self._pipe is not None:
            os.write(self._pipe[1], bytes([number]))
        raise SystemExit(EXIT_STATUS)

    def _note(self) -> None:
        if not self.requested:
            self._requested_at = time.monotonic()
            self.requested = True

    def _watch(self, reading: int) -> None:
        while signal.SIGTERM not in (numbers := os.read(reading, 64)):
            if _NO_SIGNAL in numbers or not numbers:
                os.close(reading)
                return
        self._note()
        threading.Thread(target=self._end_at_last, name="pushpull-end", daemon=True).start()
        self.leave()

    def _end_at_last(self) -> None:
        time.sleep(max(0.0, self._requested_at + LONGEST_END_SECONDS - time.monotonic()))
        text = f"pushpull: this process was still busy {LONGEST_END_SECONDS:g} s after SIGTERM; it ends now\n"
        os.write(2, text.encode())
        os._exit(EXIT_STATUS)

    def _forget_in_child(self) -> None:
        # A signal of a forked child, which data loaders end by SIGTERM, must not reach the pipe, which the child shares.
        if self._pipe is not None:
            self._restore(self._pipe[1])
            self._pipe = None

    def _restore(self, writing: int) -> None:
        others = signal.set_wakeup_fd(-1)
        if others not in (-1, writing):
            signal.set_wakeup_fd(others)
        handler: object = signal.getsignal(signal.SIGTERM)
        if handler is self:
            signal.signal(signal.SIGTERM, self._old_handler)
