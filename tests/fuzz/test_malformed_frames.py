"""Damaged frames by the thousand; `make fuzz` reads a million. What the loop must catch, it is shown to catch."""

import ctypes
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fuzz_frames
import judge
import make_corpus
import mutation_loop
import numpy as np
import pytest
from draft import FIELDS, HEADER_BYTES, Draft
from judge import ACCEPTED, SLACK_BYTES, Violation
from make_corpus import CORPUS
from mutations import MUTATIONS
from numpy.typing import NDArray
from valid_frames import Pool, every_frame

from pushpull.compression import header, kernels
from pushpull.compression.frame import Frame, parse_frame
from pushpull.compression.spec import parse_codec
from pushpull.protos.errors import FrameError

Floats = NDArray[np.float32]

SEED = 20
NUM_CASES = 50_000


@pytest.fixture(scope="module")
def pool() -> Pool:
    return every_frame()


@pytest.fixture(scope="module")
def report(pool: Pool) -> mutation_loop.Report:
    return mutation_loop.run_cases(pool, SEED, NUM_CASES)


def test_damaged_frames_are_refused_or_decode_to_finite_numbers(report: mutation_loop.Report) -> None:
    assert sum(report.outcomes.values()) == NUM_CASES


def test_most_damage_is_refused_and_some_frames_survive_it(report: mutation_loop.Report) -> None:
    assert 0.05 < report.total(ACCEPTED) / NUM_CASES < 0.35
    assert report.total("NonFiniteError") > 0.005 * NUM_CASES


@pytest.mark.parametrize("damage", [mutation.name for mutation in MUTATIONS if mutation.name != "nothing"])
def test_every_kind_of_damage_is_refused_at_times(report: mutation_loop.Report, damage: str) -> None:
    assert report.outcomes[damage, "FrameError"] > 0


@pytest.mark.parametrize("damage", ["truncate", "extend"])
def test_frames_of_another_length_are_refused_unless_more_damage_mends_them(
    report: mutation_loop.Report, damage: str
) -> None:
    assert report.accepted_share(damage) < 0.005


@pytest.mark.parametrize("damage", ["damage the index", "damage values", "damage widths", "lie to the reader too"])
def test_damage_reaches_behind_the_first_checks(report: mutation_loop.Report, damage: str) -> None:
    assert 0.02 < report.accepted_share(damage) < 0.8


def test_a_case_depends_on_nothing_but_its_seed_and_number(pool: Pool) -> None:
    first, again = (mutation_loop.make_case(pool, 3, 1234) for _ in range(2))
    assert first == again
    assert first.draft.contents != mutation_loop.make_case(pool, 4, 1234).draft.contents


def test_the_fields_that_are_damaged_are_those_of_the_header(pool: Pool) -> None:
    contents = np.empty(HEADER_BYTES, np.uint8)
    numbers = {name: 11 + place for place, name in enumerate(FIELDS) if name not in ("magic", "version")}
    header.Header(**numbers).write(contents)
    draft = Draft(pool.frames[0], bytearray(contents.tobytes()), 0, pool)
    assert {name: draft.field(name) for name in numbers} == numbers
    assert draft.field("magic") == header.MAGIC
    assert draft.field("version") == header.VERSION


# From here on the reader is weakened, and the loop must see it.


class Misbehaving:
    """A valid frame that decodes rightly, then does something else besides."""

    def __init__(self, frame: Frame, then: Callable[[Floats], None]) -> None:
        self._frame = frame
        self._then = then

    def decode_into(self, out: Floats) -> None:
        self._frame.decode_into(out)
        self._then(out)

    def add_to(self, accumulator: Floats, scale: float) -> None:
        self._frame.add_to(accumulator, scale)


def leave_a_nan(out: Floats) -> None:
    out[-1:] = np.nan


def decode_other_numbers(out: Floats) -> None:
    out[:1] += 1


def take_three_times_the_block(out: Floats) -> None:
    np.empty(3 * out.nbytes + SLACK_BYTES, np.uint8)


def stumble(out: Floats) -> None:
    [][out.size]


def write_in_front(out: Floats) -> None:
    ctypes.memset(out.ctypes.data - 4, 0, 4)


SMALL_SIZES = (1, 33, 300)


@pytest.fixture
def small_pool() -> Pool:
    return Pool(["fp32", "int8", "topk:0.4+fp16"], SMALL_SIZES)


@pytest.mark.parametrize(
    ("misbehaviour", "message"),
    [
        (leave_a_nan, "not finite"),
        (decode_other_numbers, "other numbers than decoding"),
        (take_three_times_the_block, "allocated"),
        (stumble, "IndexError instead of a documented error"),
        (write_in_front, "in front of its output"),
    ],
)
def test_the_loop_catches_a_decoder_that(
    monkeypatch: pytest.MonkeyPatch, small_pool: Pool, misbehaviour: Callable[[Floats], None], message: str
) -> None:
    def parse(buffer: memoryview, num_elements: int) -> Misbehaving:
        return Misbehaving(parse_frame(buffer, num_elements), misbehaviour)

    mutation_loop.run_cases(small_pool, SEED, 500)
    monkeypatch.setattr(judge, "parse_frame", parse)
    with pytest.raises(Violation, match=message):
        mutation_loop.run_cases(small_pool, SEED, 500)


@pytest.mark.parametrize("spec", ["fp32", "fp16", "bf16"])
def test_the_loop_catches_a_reader_that_does_not_check_its_values(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    pool = Pool([spec], (33, 300))
    mutation_loop.run_cases(pool, SEED, 1000)
    monkeypatch.setattr(type(parse_codec(spec)), "check_section", lambda *_: None)
    with pytest.raises(Violation, match="not finite"):
        mutation_loop.run_cases(pool, SEED, 1000)


def test_the_loop_catches_a_checksum_that_is_always_right(monkeypatch: pytest.MonkeyPatch, small_pool: Pool) -> None:
    monkeypatch.setattr(header.zlib, "crc32", lambda *_: 0)
    with pytest.raises(Violation, match="checksum is that of another"):
        mutation_loop.run_cases(small_pool, SEED, 500)


def test_the_loop_catches_a_reader_that_refuses_a_valid_frame(
    monkeypatch: pytest.MonkeyPatch, small_pool: Pool
) -> None:
    def parse(buffer: memoryview, num_elements: int) -> Frame:
        if any(buffer[20:24]):  # a checksum, which frames have in cases only
            raise FrameError("frame of an unlucky checksum")
        return parse_frame(buffer, num_elements)

    monkeypatch.setattr(judge, "parse_frame", parse)
    with pytest.raises(Violation, match="as its codec wrote it is refused: frame of an unlucky checksum"):
        mutation_loop.run_cases(small_pool, SEED, 500)


def test_a_violation_names_its_case_and_shows_it_again(
    monkeypatch: pytest.MonkeyPatch, small_pool: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mutation_loop, "every_frame", lambda: small_pool)

    def parse(buffer: memoryview, num_elements: int) -> Frame:
        return [parse_frame][num_elements not in SMALL_SIZES](buffer, num_elements)

    monkeypatch.setattr(judge, "parse_frame", parse)
    with pytest.raises(Violation) as caught:
        mutation_loop.run_cases(small_pool, SEED, 500)
    command = re.search(r"mutation_loop.py (--seed \d+ --only \d+)$", str(caught.value))
    assert command
    with pytest.raises(Violation, match="IndexError"):
        mutation_loop.main(command[1].split())
    assert capsys.readouterr().out.strip() in str(caught.value)


CRASHING = """
import ctypes, sys
sys.path.insert(0, {folder!r})
import judge, mutation_loop
from valid_frames import Pool

def parse(buffer, num_elements):
    if num_elements == 12:  # a lie, which the loop tells in one of its first cases
        ctypes.string_at(judge.np.frombuffer(buffer, "u1").ctypes.data, len(buffer) + 5)
    return honest(buffer, num_elements)

mutation_loop.every_frame = lambda: Pool(["fp32"], (11,))
honest, judge.parse_frame = judge.parse_frame, parse
sys.exit(mutation_loop.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nothing guards the end of memory there")
def test_a_read_beyond_the_frame_ends_the_loop_and_names_its_case(capfd: pytest.CaptureFixture[str]) -> None:
    program = CRASHING.format(folder=str(Path(mutation_loop.__file__).parent))
    status = mutation_loop.run_watched([sys.executable, "-c", program, "--seed", "5", "--cases", "10000"], seed=5)
    assert -status in (signal.SIGSEGV, signal.SIGBUS)
    found = re.search(r"ended the process in case (\d+); .*--seed 5 --only (\d+)", capfd.readouterr().err)
    assert found
    case = mutation_loop.make_case(Pool(["fp32"], (11,)), 5, int(found[2]))
    assert found[1] == found[2]
    assert case.draft.num_elements == 12


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux alone")
def test_no_case_can_take_memory_out_of_proportion() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(Path(mutation_loop.__file__).parent)!r})\n"
        "import mutation_loop, numpy\n"
        "mutation_loop.forbid_large_requests()\n"
        "numpy.empty(2**24, 'u1')\n"
        "try: numpy.empty(2**30, 'u1')\n"
        "except MemoryError: sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 7


def test_what_the_fuzzer_found_is_refused_or_decodes() -> None:
    judge_all = judge.Judge()
    outcomes = {path.name: fuzz_frames.read_input(judge_all, path.read_bytes()) for path in CORPUS.iterdir()}
    assert ACCEPTED in {outcome.kind for outcome in outcomes.values() if outcome}
    assert "FrameError" in {outcome.kind for outcome in outcomes.values() if outcome}


def test_the_fuzzer_is_given_the_python_of_the_reader_and_no_kernel() -> None:
    functions = set(fuzz_frames.python_functions("pushpull.compression"))
    assert {parse_frame, Frame.decode_into, header.read_header, parse_codec("int8").check_section.__func__} <= functions
    assert kernels.add.py_func not in functions


def test_a_seed_of_the_corpus_is_small() -> None:
    assert max(path.stat().st_size for path in CORPUS.iterdir()) <= make_corpus.MOST_BYTES
