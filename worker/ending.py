"""How a worker process comes to its end."""

import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..protos.deadlines import INSISTS_AFTER_SECONDS, WORKER_END_SECONDS
from ..protos.ending_signals import ending_signals
from ..protos.errors import ServerDrainingError

LAST_WORDS_SECONDS = 0.5
LONGEST_END_SECONDS = WORKER_END_SECONDS
EXIT_STATUS = 128 + signal.SIGTERM
_ORDERLY = (None, 0, *(128 + number for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)))
"""What `sys.exit` is given by a script that does not fail, or that was asked to end."""
_NO_SIGNAL = 0


def failure_text(error: BaseException | None) -> str:
    """What the registrar is told. A process that was asked to end has not failed, nor has one that its servers leave."""
    if error is None or isinstance(error, ServerDrainingError | KeyboardInterrupt):
        return ""
    if isinstance(error, SystemExit) and error.code in _ORDERLY:
        return ""
    return f"{type(error).__name__}: {error}"


class EndOnSigterm:
    """SIGTERM, or SIGHUP if it is not ignored, leaves the job at once, raises SystemExit in the main thread, and ends the
    process in time.

    `leave` is called from a thread of its own, without waiting for the main thread: that may be in a long call of C code, and
    others wait for this worker meanwhile. The same thread ends a process that is still there after `LONGEST_END_SECONDS`.

    To be used in the main thread only, where signal handlers can be set; anywhere else it does nothing, nor for a signal that
    user code has a handler of its own for. A handler that has a true attribute `ends_process` is one of ours and may be
    replaced.
    """

    def __init__(self) -> None:
        self.requested = False
        """One of the signals has come."""
        self.exit_status = EXIT_STATUS
        """Of the process, once it is requested to end."""
        self.leave: Callable[[], None] = lambda: None
        """To be set once there is a job to leave."""
        self._requested_at = 0.0
        self._has_raised = False
        self._old_handlers: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None

    def install(self) -> None:
        """From now on these signals are ours."""
        if threading.current_thread() is not threading.main_thread():
            return
        numbers = [number for number in ending_signals() if _is_free(number)]
        if not numbers:
            return
        reading, writing = self._pipe = os.pipe()
        os.set_blocking(writing, False)
        others = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        if others != -1:
            # It is an event loop's. Our handler wakes the thread, if the main thread comes to run it.
            signal.set_wakeup_fd(others)
        self._old_handlers = {number: signal.signal(number, self) for number in numbers}
        forget = weakref.WeakMethod(self._forget_in_child)
        os.register_at_fork(after_in_child=lambda: (method := forget()) and method())
        threading.Thread(target=self._watch, args=(reading,), name="pushpull-ending", daemon=True).start()

    def remove(self) -> None:
        """Gives the signals back; but not once one has come, because then the process must end."""
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
                os._exit(self.exit_status)
            return
        self._has_raised = True
        self._note(number)
        if self._pipe is not None:
            os.write(self._pipe[1], bytes([number]))
        raise SystemExit(self.exit_status)

    def _note(self, number: int) -> None:
        if not self.requested:
            self._requested_at = time.monotonic()
            self.exit_status = 128 + number
            self.requested = True

    def _watch(self, reading: int) -> None:
        # The pipe tells of every signal that Python handles, also of those that are not ours.
        while True:
            numbers = os.read(reading, 64)
            if ours := [number for number in numbers if number in self._old_handlers]:
                break
            if _NO_SIGNAL in numbers or not numbers:
                os.close(reading)
                return
        self._note(ours[0])
        threading.Thread(target=self._end_at_last, args=(ours[0],), name="pushpull-end", daemon=True).start()
        self.leave()

    def _end_at_last(self, number: int) -> None:
        time.sleep(max(0.0, self._requested_at + LONGEST_END_SECONDS - time.monotonic()))
        name = signal.Signals(number).name
        text = f"pushpull: this process was still busy {LONGEST_END_SECONDS:g} s after {name}; it ends now\n"
        # by a thread: where nobody reads standard error, writing may take for ever
        saying = threading.Thread(target=os.write, args=(2, text.encode()), daemon=True)
        saying.start()
        saying.join(LAST_WORDS_SECONDS)
        os._exit(self.exit_status)

    def _forget_in_child(self) -> None:
        # A signal of a forked child, which data loaders end by SIGTERM, must not reach the pipe, which the child shares.
        if self._pipe is not None:
            self._restore(self._pipe[1])
            self._pipe = None

    def _restore(self, writing: int) -> None:
        others = signal.set_wakeup_fd(-1)
        if others not in (-1, writing):
            signal.set_wakeup_fd(others)
        for number, old in self._old_handlers.items():
            handler: object = signal.getsignal(number)
            if handler is self:
                signal.signal(number, old)


def _is_free(number: signal.Signals) -> bool:
    handler = signal.getsignal(number)
    return handler is signal.SIG_DFL or bool(getattr(handler, "ends_process", False))
