"""Pulls that have not been answered, one at most for each stream. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..protos.shard_pb2 import PullDone
from .consistency import Policy
from .effects import AnswerPull, Counters, Effect, Job, PullTicket
from .keys import Key, StreamKey
from .membership import Membership


@dataclass(frozen=True)
class RoundSize:
    """What the newest round that applied anything was made of; nothing outside synchronous mode."""

    num_workers: int = 0
    num_samples: float = 0.0


@dataclass(frozen=True)
class Progress:
    """How far the shard has come."""

    jobs_done: int
    round: int
    round_size: RoundSize


class WaitingPulls:
    """A pull waits as an entry in a table: for jobs that were decided before it, its step's outcome, and the policy."""

    def __init__(self, policy: Policy, membership: Membership, counters: Counters) -> None:
        self._policy = policy
        self._membership = membership
        self._counters = counters
        self._tickets: dict[StreamKey, PullTicket] = {}

    def add(self, ticket: PullTicket) -> None:
        """A newer pull of a stream takes the older one's place."""
        self._tickets[ticket.key] = ticket

    def keep(self, live: set[Key]) -> None:
        """Forgets the pulls of everybody else."""
        for key in [key for key in self._tickets if key.worker not in live]:
            del self._tickets[key]

    def streaming(self, job: Job) -> list[PullTicket]:
        """Those that will be answered when the job is done: they may be sent its values as they are made.

        Not those that the policy will hold back: what they were sent now, others' steps would make old, and all of it
        would be sent again.
        """
        return [
            ticket
            for key, ticket in self._tickets.items()
            if ticket.step
            and key.worker in job.settles
            and self._policy.may_answer(self._membership.clock_lag_after_step(key.worker_id))
        ]

    def answer(self, progress: Progress, last_step: Callable[[Key], int]) -> list[Effect]:
        """Answers every pull that may be answered now; `last_step` is the newest settled step of a worker."""
        effects: list[Effect] = []
        for key, ticket in list(self._tickets.items()):
            if ticket.after_job > progress.jobs_done or last_step(key.worker) < ticket.step:
                continue
            lag = self._membership.clock_lag(key.worker_id)
            if not self._policy.may_answer(lag):
                self._counters.pulls_waited += not ticket.waited
                ticket.waited = True
                continue
            del self._tickets[key]
            done = PullDone(
                request=ticket.request,
                step=ticket.step,
                round=progress.round,
                num_workers=progress.round_size.num_workers,
                num_samples=progress.round_size.num_samples,
                clock=self._membership.clock(key.worker_id),
                smallest_clock=self._membership.smallest_clock(key.worker_id),
            )
            effects.append(AnswerPull(ticket, done, lag))
        return effects


def merged_versions(num_blocks: int, parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> NDArray[np.int64]:
    """Versions beside all blocks of a shard, from (positions, versions) of each rank; -1 where nobody owns the block."""
    merged = np.full(num_blocks, -1, dtype=np.int64)
    for positions, versions in parts:
        merged[positions] = versions
    return merged
