"""Damaged frames by number: a case is a function of its seed, its number and the table of codecs."""

from dataclasses import dataclass
from itertools import accumulate
from random import Random

from draft import CHECKSUM_FLAG, HEADER_BYTES, Draft
from judge import ACCEPTED, Judge, Outcome, Violation, check_memory, memory_of
from mutations import MUTATIONS, Mutation
from valid_frames import Pool, sealed

_CUMULATIVE_WEIGHTS = tuple(accumulate(mutation.weight for mutation in MUTATIONS))


@dataclass(frozen=True, slots=True)
class Case:
    """A damaged frame, and how it came about."""

    mutations: tuple[Mutation, ...]
    draft: Draft
    misaligned_by: int
    """Bytes between where the frame ends in memory and a multiple of four."""
    sealed_before: bool
    sealed_after: bool

    def __str__(self) -> str:
        source, contents = self.draft.source, self.draft.contents
        return (
            f"{source}{', sealed' if self.sealed_before else ''}: {' + '.join(mutation.name for mutation in self.mutations)}"
            f"{', sealed again' if self.sealed_after else ''}; read as a block of {self.draft.num_elements}"
            f" from {self.misaligned_by} bytes beside alignment: {len(contents)} bytes,"
            f" first {bytes(contents[:64]).hex(' ', -4)}"
        )

    def is_undamaged(self) -> bool:
        """The frame is still as its codec wrote it."""
        source = self.draft.source
        return self.draft.num_elements == source.num_elements and self.draft.contents in (
            source.contents,
            source.sealed,
        )

    def breaks_its_checksum(self) -> bool:
        """The checksum is in force, and that of another frame."""
        in_force = self.sealed_before and not self.sealed_after and self.draft.field("flags") & CHECKSUM_FLAG
        return bool(in_force) and self.draft.contents != self.draft.source.sealed


def make_case(pool: Pool, seed: int, number: int) -> Case:
    """Case `number` of the sequence with this seed."""
    rng = Random((seed << 40) + number)
    source = pool.draw(rng)
    sealed_before, sealed_after = rng.random() < 0.2, rng.random() < 0.25
    misaligned_by = int(rng.random() * 4) if rng.random() < 0.1 else 0
    contents = bytearray(source.sealed if sealed_before else source.contents)
    draft = Draft(source, contents, source.num_elements, pool)
    mutations = tuple(rng.choices(MUTATIONS, cum_weights=_CUMULATIVE_WEIGHTS, k=2 if rng.random() < 0.12 else 1))
    for mutation in mutations:
        if len(draft.contents) >= HEADER_BYTES:
            mutation.apply(rng, draft)
    if sealed_after and len(draft.contents) >= HEADER_BYTES:
        draft.contents[:] = sealed(draft.contents)
    return Case(mutations, draft, misaligned_by, sealed_before, sealed_after)


def judge_case(judge: Judge, case: Case, measured: bool = False) -> tuple[Outcome, int]:
    """The outcome of a case and, if measured, the bytes that reading it allocated; raises Violation."""

    def read() -> Outcome:
        return judge(case.draft.contents, case.draft.num_elements, case.misaligned_by)

    outcome, allocated_bytes = memory_of(read) if measured else (read(), 0)
    check_memory(allocated_bytes, case.draft.num_elements)
    if outcome.kind != ACCEPTED and case.is_undamaged():
        raise Violation(f"a frame as its codec wrote it is refused: {outcome.reason}")
    if outcome.kind == ACCEPTED and case.breaks_its_checksum():
        raise Violation("a frame is accepted whose checksum is that of another")
    return outcome, allocated_bytes
