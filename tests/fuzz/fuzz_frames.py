"""Coverage-guided fuzzing of the frame reader, with atheris (`pip install -e '.[fuzz]'`).

    make fuzz-coverage                           # five minutes; FUZZ_SECONDS=3600 for an hour
    python tests/fuzz/fuzz_frames.py build/fuzz-crash-0123abcd     # a finding again
    python tests/fuzz/make_corpus.py             # the seeds anew, after a change of codecs

The command of the first is, after `mkdir -p build/fuzz`, where it keeps what it finds on its way:

    python tests/fuzz/fuzz_frames.py build/fuzz tests/fuzz/corpus -dict=tests/fuzz/frames.dict \\
        -artifact_prefix=build/fuzz- -max_len=2048 -max_total_time=300 -print_final_stats=1

An input is one byte that says what the reader is told, and a frame. Bits 0..3 of the byte: the block's size, one of
`SIZES`, or, beyond them, what the frame's own header says. Bit 6: the frame starts two bytes beside alignment.
Bit 7: the frame is given the right checksum, so that the fuzzer gets behind it without finding one.

The Python of `compression/` is instrumented; its kernels are compiled, and opaque to the fuzzer. What an input may
do is decided by judge.py, as for `make fuzz`.
"""

import inspect
import shlex
import struct
import sys
from collections.abc import Callable, Iterator
from types import FunctionType

from draft import FIELDS, HEADER_BYTES
from judge import MOST_BYTES, Judge, Outcome
from mutation_loop import read_undamaged
from valid_frames import every_frame, sealed

SIZES = (0, 1, 2, 32, 33, 256, 257, 1000)
MISALIGNED, SEALED = 1 << 6, 1 << 7
SIZE_OF_HEADER = len(SIZES)
"""The number in bits 0..3 that lets the header say the size."""


def read_input(judge: Judge, data: bytes) -> Outcome | None:
    """Judge one input, which need not hold a whole frame; raises Violation."""
    if not data or len(data) > MOST_BYTES:
        return None
    told, contents = data[0], data[1:]
    if told & SEALED and len(contents) >= HEADER_BYTES:
        contents = sealed(contents)
    return judge(contents, _told_size(told & 15, contents), misaligned_by=2 if told & MISALIGNED else 0)


def _told_size(number: int, contents: bytes) -> int:
    if number < len(SIZES):
        return SIZES[number]
    offset, layout = FIELDS["num_elements"]
    return int(struct.unpack_from(layout, contents, offset)[0]) if len(contents) >= HEADER_BYTES else 0


def python_functions(package: str) -> Iterator[FunctionType]:
    """Functions and methods that are defined in modules of a package; compiled kernels are not among them."""
    for name, module in list(sys.modules.items()):
        if name.startswith(package):
            for member in vars(module).values():
                yield from (found for found in _functions_of(member) if found.__module__ == name)


def _functions_of(member: object) -> Iterator[FunctionType]:
    if isinstance(member, FunctionType):
        yield member
    elif isinstance(member, property) and member.fget is not None:
        yield from _functions_of(member.fget)
    elif inspect.isclass(member):
        for attribute in vars(member).values():
            yield from _functions_of(attribute) if not inspect.isclass(attribute) else ()


def main() -> None:
    """Fuzz with the arguments of libFuzzer."""
    try:
        import atheris
    except ImportError:
        sys.exit(
            "atheris is not installed. It comes ready-built for Linux on x86-64 with Python 3.11 to 3.13; elsewhere it is "
            "built with a clang that has libFuzzer (Apple's has not), and not on Windows. `make fuzz` works without it."
        )
    judge = Judge()
    read_undamaged(judge, every_frame())  # loads and compiles all that instrumenting must leave alone
    for function in python_functions("pushpull.compression"):
        atheris.instrument_func(function)
    read: Callable[[bytes], object] = lambda data: read_input(judge, data)  # noqa: E731
    again = f"{shlex.quote(sys.executable)} {shlex.quote(__file__)}"  # how -merge and -fork start processes of theirs
    atheris.Setup([again, *sys.argv[1:]], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
