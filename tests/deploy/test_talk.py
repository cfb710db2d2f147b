"""Standard error that nobody reads: nothing stops, and what is missing is said."""

import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pushpull.deploy.talk import Backlog, Talk, let_nobody_wait_for


class TestBacklog:
    def backlog(self, most_bytes: int = 10) -> Backlog:
        return Backlog(most_bytes, lambda num_lines: f"{num_lines} missing\n")

    def test_keeps_the_order(self) -> None:
        backlog = self.backlog()
        backlog.add(b"a\n")
        backlog.add(b"b\n")
        assert [backlog.take(), backlog.take()] == [b"a\n", b"b\n"]

    def test_says_where_lines_are_missing_and_how_many(self) -> None:
        backlog = self.backlog()
        backlog.add(b"12345678\n")
        backlog.add(b"two\nlines\n")
        backlog.add(b"one line\n")
        backlog.add(b"6")
        assert backlog.take() == b"12345678\n"
        backlog.add(b"x\n")
        assert [backlog.take(), backlog.take()] == [b"4 missing\n", b"x\n"]
        assert backlog.num_dropped == 4

    def test_says_so_too_when_nothing_comes_behind(self) -> None:
        backlog = self.backlog()
        backlog.add(b"12345678\n")
        backlog.add(b"one line\n")
        backlog.take()
        backlog.close_gap()
        assert backlog.take() == b"1 missing\n"
        backlog.close_gap()
        assert not backlog

    def test_holds_no_more_than_its_bytes(self) -> None:
        backlog = self.backlog(most_bytes=1000)
        for _ in range(10_000):
            backlog.add(b"x" * 99 + b"\n")
        assert len(backlog) == 10


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def read_all(descriptor: int, until: bytes) -> bytes:
    said = b""
    while until not in said:
        said += os.read(descriptor, 1 << 16)
    return said


class TestAProcessThatMayStartNoThread:
    """As under `ulimit -v` or `-u`: what it says of its end is what people need."""

    @pytest.fixture
    def no_threads(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            yield patch

    @pytest.mark.usefixtures("no_threads")
    def test_its_lines_are_written_all_the_same(self, pipe: tuple[int, int]) -> None:
        reading, writing = pipe
        talk = Talk(writing)
        talk.write(b"one\n")
        talk.write(b"two\n")
        assert talk.drain(0)
        assert os.read(reading, 100) == b"one\ntwo\n"

    @pytest.mark.usefixtures("no_threads")
    def test_it_does_not_wait_for_who_reads_either(self, pipe: tuple[int, int]) -> None:
        reading, writing = pipe
        talk = Talk(writing)
        for _ in range(100):
            talk.write(b"x" * 1023 + b"\n")  # more than a pipe holds
        assert not talk.drain(0)
        os.read(reading, 1 << 16)
        assert talk.drain(0)

    def test_a_thread_writes_as_soon_as_one_can_be_started(
        self, pipe: tuple[int, int], no_threads: pytest.MonkeyPatch
    ) -> None:
        reading, writing = pipe
        talk = Talk(writing)
        talk.write(b"one\n")
        no_threads.undo()
        talk.write(b"two\n")
        assert read_all(reading, b"two\n") == b"one\ntwo\n"


def test_who_writes_never_waits_and_who_reads_late_learns_what_is_missing(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    stream = io.TextIOWrapper(io.BufferedWriter(talk := Talk(writing, most_bytes=1 << 16)), line_buffering=True)
    for number in range(5_000):
        print(f"line {number} {'x' * 90}", file=stream)  # more than the pipe and the backlog hold
    assert not talk.drain(0.05)
    assert talk.num_dropped > 1_000
    said = ""
    while sum(map(int, re.findall(r"pushpull: (\d+) lines dropped here", said))) < talk.num_dropped:
        said += os.read(reading, 1 << 16).decode()
    assert said.count("\n") - said.count("dropped here") + talk.num_dropped == 5_000
    print("and on", file=stream)
    assert b"and on" in read_all(reading, b"and on")


def test_what_is_read_is_complete(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    talk = Talk(writing)
    for number in range(100):
        talk.write(b"%d\n" % number)
    assert talk.drain(10.0)
    assert os.read(reading, 1 << 16) == b"".join(b"%d\n" % number for number in range(100))
    assert talk.num_dropped == 0


def test_a_forked_child_writes_what_it_says_itself(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    talk = Talk(writing)
    talk.write(b"parent\n")
    assert talk.drain(10.0)
    child = os.fork()
    if child == 0:
        talk.write(b"child\n")
        os._exit(0 if talk.drain(10.0) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(reading, 1 << 16) == b"parent\nchild\n"


def test_libraries_that_write_by_themselves_are_not_stopped_either(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    shared = os.dup(writing)  # of another process
    let_nobody_wait_for(writing)
    os.write(writing, bytes(1 << 16))
    with pytest.raises(BlockingIOError):
        os.write(writing, bytes(1 << 16))
    assert os.get_blocking(shared)
    os.close(shared)
    talk = Talk(writing)
    talk.write(b"later\n")
    assert b"later\n" in read_all(reading, b"later\n")


FLOODS = """
import logging, sys
from pushpull.deploy.log_settings import LogSettings
from pushpull.deploy.logs import Speaker, configure_logs
from pushpull.deploy.output import CommandStreams

CommandStreams()
configure_logs(LogSettings(), Speaker("server"))
for number in range(6_000):
    logging.getLogger("theirs").warning("line %d %s", number, "x" * 100)
    print("x" * 100, file=sys.stderr)
print("went on", flush=True)
"""


def test_a_process_whose_log_nobody_reads_goes_on_and_ends() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FLOODS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read() == "went on\n"
    assert process.wait(20.0) == 0
    process.stderr.close()


def test_last_words_are_not_lost() -> None:
    said = "import sys; from pushpull.deploy.output import CommandStreams; CommandStreams(); sys.exit('the last words')"
    done = subprocess.run([sys.executable, "-c", said], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "the last words\n")
