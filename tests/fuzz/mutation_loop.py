"""Reads damaged frames by the million: each must be refused with a documented error, or decode to finite numbers.

    python tests/fuzz/mutation_loop.py                          # a million cases, as `make fuzz`
    python tests/fuzz/mutation_loop.py --seed 2 --cases 50000   # others
    python tests/fuzz/mutation_loop.py --seed 1 --only 4711     # one case again, told in words

The cases run in a process of their own, whose end, even by a signal, is traced back to the case.
"""

import argparse
import mmap
import re
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from cases import judge_case, make_case
from judge import ACCEPTED, Judge, Outcome, Violation
from mutations import MUTATIONS
from valid_frames import Pool, every_frame

MEASURED_EVERY = 50
"""Memory is measured in one case of this many, as that is slow."""
MOST_GROWTH_BYTES = 64 << 20
"""What the peak of the process may grow by over all cases: what its allocators keep, and less than a bomb."""
MOST_ADDRESS_SPACE_BYTES = 256 << 20
"""What the process may map beyond what it had before the first case: any larger request fails at once."""

_NUMBER = re.compile(r"\b[0-9][0-9a-fx.]*")
_NO_CASE = 2**64 - 1


@dataclass(slots=True)
class Report:
    """What became of the cases."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Cases by kind of damage and kind of outcome."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Refused cases by message, without its numbers."""
    num_measured: int = 0
    most_allocated: tuple[int, int] = (0, 0)
    """(bytes, elements of the block) of the measured case that came closest to its limit."""
    growth_bytes: int = 0

    def add(self, damage: str, outcome: Outcome) -> None:
        """Count a case."""
        self.outcomes[damage, outcome.kind] += 1
        if outcome.reason:
            self.reasons[_NUMBER.sub("#", outcome.reason)] += 1

    def add_memory(self, allocated_bytes: int, num_elements: int) -> None:
        """Note what a measured case allocated."""
        self.num_measured += 1
        self.most_allocated = max(
            self.most_allocated, (allocated_bytes, num_elements), key=lambda pair: pair[0] - 8 * pair[1]
        )

    def total(self, outcome: str) -> int:
        """Cases with this outcome."""
        return sum(count for (_, kind), count in self.outcomes.items() if kind == outcome)

    def accepted_share(self, damage: str) -> float:
        """Share of the cases of a kind of damage that were accepted."""
        cases = sum(count for (name, _), count in self.outcomes.items() if name == damage)
        return self.outcomes[damage, ACCEPTED] / cases if cases else 0.0

    def __str__(self) -> str:
        kinds = ("FrameError", "NonFiniteError", ACCEPTED)
        rows: list[tuple[str, ...]] = [("damage", *kinds)]
        rows += [(m.name, *(str(self.outcomes[m.name, kind]) for kind in kinds)) for m in MUTATIONS]
        rows += [("all", *(str(self.total(kind)) for kind in kinds))]
        lines = [f"{name:<26}{a:>12}{b:>16}{c:>12}" for name, a, b, c in rows]
        lines += ["", *(f"{count:>8}  {reason}" for reason, count in self.reasons.most_common()), ""]
        lines += [
            f"{len(self.reasons)} reasons; memory measured {self.num_measured} times, closest to its limit: "
            f"{self.most_allocated[0]} bytes for a block of {self.most_allocated[1]} elements; "
            f"peak of the process grew by {self.growth_bytes / 2**20:.1f} MiB"
        ]
        return "\n".join(lines)


def run_cases(
    pool: Pool, seed: int, num_cases: int, mark: Callable[[int], None] = lambda number: None, progress_every: int = 0
) -> Report:
    """Judge cases 0..num_cases-1; raises Violation that names the case and how to see it again."""
    judge, report, start = Judge(), Report(), time.monotonic()
    read_undamaged(judge, pool)
    peak_before = _peak_bytes()
    for number in range(num_cases):
        mark(number)
        case = make_case(pool, seed, number)
        measured = number % MEASURED_EVERY == 0
        try:
            outcome, allocated_bytes = judge_case(judge, case, measured)
        except Violation as violation:
            raise Violation(f"{violation}\n{case}\n{_replay(seed, number)}") from violation
        report.add(case.mutations[0].name, outcome)
        if measured:
            report.add_memory(allocated_bytes, case.draft.num_elements)
        if progress_every and (number + 1) % progress_every == 0:
            print(f"{number + 1} of {num_cases} cases, {time.monotonic() - start:.0f} s", flush=True)
    report.growth_bytes = _peak_bytes() - peak_before
    if report.growth_bytes > MOST_GROWTH_BYTES:
        raise Violation(f"the peak of the process grew by {report.growth_bytes} bytes over the cases of seed {seed}")
    return report


def read_undamaged(judge: Judge, pool: Pool) -> None:
    """Read every frame as it is, which also compiles every kernel: later, memory is taken by reading alone."""
    for frame in pool.frames:
        try:
            outcome = judge(frame.contents, frame.num_elements)
        except Violation as violation:
            raise Violation(f"{violation}\n{frame}, undamaged") from violation
        if outcome.kind != ACCEPTED:
            raise Violation(f"{frame} is refused as its codec wrote it: {outcome.reason}")


def run_watched(command: list[str], seed: int) -> int:
    """Run a command that marks its cases in the file named behind `--marker`; says which one ended it, if any."""
    with tempfile.TemporaryDirectory() as folder:
        marker = Path(folder) / "case"
        marker.write_bytes(struct.pack("<Q", _NO_CASE))
        status = subprocess.run([*command, "--marker", str(marker)]).returncode
        (number,) = struct.unpack("<Q", marker.read_bytes())
    if status < 0 and number != _NO_CASE:
        print(f"signal {-status} ended the process in case {number}; {_replay(seed, number)}", file=sys.stderr)
    return status


def forbid_large_requests() -> None:
    """Let every request for memory fail that is out of all proportion to the pool, in this process from now on."""
    mapped_bytes = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes + MOST_ADDRESS_SPACE_BYTES, resource.RLIM_INFINITY))


def main(arguments: list[str]) -> int:
    """The command of this file."""
    parser = argparse.ArgumentParser(description="Reads damaged frames by the million.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=1_000_000, help="how many; default: %(default)s")
    parser.add_argument("--only", type=int, metavar="CASE", help="judge and describe this case alone")
    parser.add_argument("--marker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only is not None:
        return _show(options.seed, options.only)
    if options.marker is None:
        return run_watched([sys.executable, __file__, *arguments], options.seed)
    return _run_marked(options)


def _run_marked(options: argparse.Namespace) -> int:
    pool = every_frame()
    forbid_large_requests()
    print(f"{options.cases} cases of seed {options.seed}, made of {len(pool.frames)} valid frames", flush=True)
    with options.marker.open("r+b") as file, mmap.mmap(file.fileno(), 8) as marker:
        try:
            report = run_cases(
                pool, options.seed, options.cases, lambda number: struct.pack_into("<Q", marker, 0, number), 100_000
            )
        except Violation as violation:
            print(violation, file=sys.stderr)
            return 1
    print(report)
    return 0


def _show(seed: int, number: int) -> int:
    case = make_case(every_frame(), seed, number)
    print(case, flush=True)
    outcome, allocated_bytes = judge_case(Judge(), case, measured=True)
    print(f"{outcome.kind} {outcome.reason}; allocated {allocated_bytes} bytes")
    return 0


def _replay(seed: int, number: int) -> str:
    return f"see it again: python tests/fuzz/mutation_loop.py --seed {seed} --only {number}"


def _peak_bytes() -> int:
    """The largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
