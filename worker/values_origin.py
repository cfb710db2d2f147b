"""What a worker says of the values that it starts from: whose they are, and what becomes of its own. Pure."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ..protos.registrar_pb2 import Origin
from ..protos.values_digest import differing, values_checksum

MOST_NAMES = 3


@dataclass(frozen=True)
class Comparison:
    """A worker that has come into a job, and what it brought."""

    worker: int
    incarnation: int
    comes_back: bool
    """Its id was in the job before."""
    clock: int
    """The job's."""
    names: Sequence[str]
    """Of parameters and buffers, like the digests."""
    values: Sequence[int]


@dataclass(frozen=True)
class Said:
    """One line of the log."""

    level: int
    text: str


def said_of(origin: Origin, mine: Comparison) -> Said:
    """What people should know: loud where values that somebody may have meant are given up."""
    checksum = values_checksum(mine.values)
    if origin.incarnation == mine.incarnation:
        return Said(logging.INFO, f"the job starts from the values of this worker ({mine.worker}), checksum {checksum}")
    whose = f"{origin.who}, {_span(origin.seconds_ago)} ago" if origin.who else "another worker"
    if not origin.values and mine.clock == 0:
        return Said(
            logging.INFO, f"the job starts from the values of {whose}; those of worker {mine.worker} are replaced"
        )
    different = _different(origin, mine)
    if mine.clock > 0:
        level = logging.INFO if mine.comes_back else logging.WARNING
        return Said(
            level,
            f"the values of worker {mine.worker} are replaced by trained ones: this job is at clock {mine.clock} and began "
            f"with those of {whose}. If this worker was not meant to go on with that job, start servers of its own, and "
            "give jobs names (--set name=...)",
        )
    if not different:
        return Said(logging.INFO, f"the job starts from the values of {whose}, which are also those of this worker")
    return Said(
        logging.WARNING,
        f"the values of worker {mine.worker} (checksum {checksum}) are replaced: the job starts from those of {whose} "
        f"(checksum {values_checksum(origin.values)}), and {different}. If they are random, this is as it "
        "should be, and the same seed on every worker (torch.manual_seed before the model is built) ends this warning; if they "
        "were loaded from a file, it is lost here: start the servers with --init FILE, or load it on every worker",
    )


def _different(origin: Origin, mine: Comparison) -> str:
    """Which values differ, for people; empty if none do, or nobody knows."""
    if not mine.values or len(origin.values) != len(mine.values):
        return ""
    names = [mine.names[place] for place in differing(mine.values, origin.values)]
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{', '.join(names[:MOST_NAMES])}{more} {'differ' if len(names) > 1 else 'differs'}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
