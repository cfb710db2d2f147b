"""Standard error as something that never stops a process: what nobody reads is dropped, and counted."""

import contextlib
import io
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from ..protos.exposition import Family

LINES_DROPPED = Family("counter", "pushpull_log_lines_dropped", "Lines for standard error that nobody read in time.")

STANDARD_ERROR = 2
MOST_BYTES = 1 << 20
"""That wait to be written; a pipe holds another 64 KiB."""


class Backlog:
    """What waits to be written, a bounded number of bytes. What is too much is dropped, and a sentence stands in its place.

    Pure; owned by `Talk`, whose lock guards it.
    """

    def __init__(self, most_bytes: int, about_dropped: Callable[[int], str]) -> None:
        self.about_dropped = about_dropped
        """A line, with its end, for so many lines that are missing."""
        self.num_dropped = 0
        """Lines, so far."""
        self._untold = 0
        self._most_bytes = most_bytes
        self._num_bytes = 0
        self._chunks: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._chunks)

    def add(self, chunk: bytes) -> None:
        """One line or more."""
        # once something is missing much must have been read before anything is taken again: one long gap, not many
        most_bytes = self._most_bytes / 2 if self._untold else self._most_bytes
        if self._num_bytes + len(chunk) > most_bytes:
            num_lines = max(1, chunk.count(b"\n"))
            self.num_dropped += num_lines
            self._untold += num_lines
            return
        if self._untold:
            self._append(self.about_dropped(self._untold).encode())
            self._untold = 0
        self._append(chunk)

    def take(self) -> bytes:
        """The oldest chunk."""
        chunk = self._chunks.popleft()
        self._num_bytes -= len(chunk)
        return chunk

    def close_gap(self) -> None:
        """Everything before has been written: says what is missing now, not with the next line."""
        if self._untold:
            self._append(self.about_dropped(self._untold).encode())
            self._untold = 0

    def _append(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._num_bytes += len(chunk)


class Talk(io.FileIO):
    """A descriptor that is written by a thread of its own, so that who writes never waits for who reads."""

    def __init__(self, descriptor: int, most_bytes: int = MOST_BYTES) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._descriptor = descriptor
        self.backlog = Backlog(most_bytes, _about_dropped)
        self._changed = threading.Condition()
        self._writing = False
        self._at_once = False
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._begin_anew)

    @property
    def num_dropped(self) -> int:
        """Lines that nobody has read in time."""
        return self.backlog.num_dropped

    def write(self, data: object) -> int:
        """Takes everything. Never waits and never fails."""
        chunk = bytes(data)  # type: ignore[call-overload]
        if self._at_once:
            self._write_all(chunk)
            return len(chunk)
        with self._changed:
            self.backlog.add(chunk)
            if not self._has_thread():
                self._write_what_is_taken()
            self._changed.notify_all()
        return len(chunk)

    def drain(self, timeout_seconds: float) -> bool:
        """Waits until everything is written, or for so long; returns whether it is."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            if self._thread is None:
                self._write_what_is_taken()
            return self._changed.wait_for(
                lambda: not self.backlog and not self._writing, max(0.0, deadline - time.monotonic())
            )

    def end(self, timeout_seconds: float) -> None:
        """The process ends, and with it the thread: what is still said is written at once, where it can be."""
        self._at_once = self.drain(timeout_seconds)

    def _has_thread(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="standard-error", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError):
                return False  # no more threads or memory for this process (`ulimit`): it must still say so
            self._thread = thread
        return True

    def _write_what_is_taken(self) -> None:
        # in the place of the thread that could not be started; nor does this wait for who reads
        while self.backlog and select.select((), (self._descriptor,), (), 0)[1]:
            self._write_all(self.backlog.take())

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                if not self.backlog:
                    self.backlog.close_gap()
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self.backlog))
                chunk = self.backlog.take()
                self._writing = True
            self._write_all(chunk)

    def _write_all(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                select.select((), (self._descriptor,), ())
            except OSError:
                return  # nobody will ever read it

    def _begin_anew(self) -> None:
        # in a forked child: the thread is gone, locks may be held by nobody, and what waits is the parent's to write
        self.backlog = Backlog(MOST_BYTES, self.backlog.about_dropped)
        self._changed = threading.Condition()
        self._writing = False
        self._thread = None


def let_nobody_wait_for(descriptor: int) -> None:
    """From now on what is written into a full pipe fails at once, also by libraries in C, which know nothing of `Talk`.

    The pipe is opened once more for that, so that other processes which write into it are left alone. Where it cannot be, as
    a socket, everything stays as it is.
    """
    with contextlib.suppress(OSError):
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND | os.O_NOCTTY)
        os.dup2(own, descriptor)
        os.close(own)


def talk_of(stream: TextIO | None) -> Talk | None:
    """What is behind a text stream, if it is a `Talk`."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, Talk) else None


def drain_standard_error(timeout_seconds: float) -> None:
    """Before a process is ended without its interpreter's leave."""
    talk = talk_of(sys.stderr)
    if talk is not None:
        talk.drain(timeout_seconds)


def _about_dropped(num_lines: int) -> str:
    return f"pushpull: {num_lines} lines dropped here: nobody read standard error\n"
