"""What a command writes to: standard output, on which it answers, and standard error, on which it only talks.

An answer that nobody gets is an error and never lost in silence. What is said besides may be lost: nothing stops for it.
"""

import atexit
import io
import os
import sys

from ..protos.errors import UnwritableOutputError
from .talk import Talk

_INPUT, _OUTPUT, _ERRORS = 0, 1, 2
_BUFFER_BYTES = 1 << 18
"""More than a line has: lines come whole or not at all."""
LAST_WORDS_SECONDS = 1.0
"""That a process waits at its end for who reads its standard error."""


class CommandStreams:
    """The streams of a command, in the place of Python's until its script begins. One for each process."""

    def __init__(self) -> None:
        fill_closed_descriptors()
        self._answers = _Answers(_OUTPUT, "w", closefd=False)
        sys.stdout = _text(self._answers)
        self._talk = Talk(_ERRORS)
        sys.stderr = _text(self._talk)
        atexit.register(self._talk.end, LAST_WORDS_SECONDS)

    def finish(self) -> None:
        """Raises UnwritableOutputError if a part of the answer could not be written, whoever went on after that."""
        if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.closed:
            sys.stdout.flush()
        if self._answers.failure is not None:
            raise self._answers.failure


def output_is_closed() -> bool:
    """Whether this process was started without a standard output (`>&-`)."""
    return sys.__stdout__ is None


def demand_output() -> None:
    """For a command whose answer takes long to find: raises UnwritableOutputError if nobody can ever get it."""
    if output_is_closed():
        raise _unwritable("it is closed")


def give_streams_to_script() -> None:
    """From now on standard output and standard error are what they are in any Python process."""
    sys.stdout = sys.__stdout__
    if sys.__stderr__ is not None:
        sys.stderr = sys.__stderr__


def fill_closed_descriptors() -> None:
    """Occupies those of the descriptors 0, 1 and 2 that are closed. Else the next socket or file would be one of them, and
    what is printed would go there. Reading finds the end of a file; writing fails.
    """
    for descriptor in (_INPUT, _OUTPUT, _ERRORS):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY)
            assert opened == descriptor, "the smallest free descriptor is the one that is opened"
            os.set_inheritable(descriptor, True)


class _Answers(io.FileIO):
    """Fails once, with a sentence; what comes behind that is dropped, also what is still buffered when the process ends."""

    failure: UnwritableOutputError | None = None

    def write(self, data: object) -> int:
        if self.failure is None:
            try:
                return super().write(data)  # type: ignore[arg-type]
            except OSError as error:
                reason = "it is closed" if output_is_closed() else str(error.strerror)
                self.failure = _unwritable(reason)
                raise self.failure from None
        return memoryview(data).nbytes  # type: ignore[arg-type]


def _text(file: io.FileIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(file, _BUFFER_BYTES), errors="backslashreplace", line_buffering=True)


def _unwritable(reason: str) -> UnwritableOutputError:
    return UnwritableOutputError(
        f"Standard output cannot be written: {reason}. It carries this command's answer; give it a place, for example > FILE."
    )
