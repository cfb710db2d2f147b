"""Who lives but keeps others waiting: when a member is suspended, and why. Pure; owned by the registrar."""

from collections.abc import Iterator

from .config import JobSettings
from .consistency import Policy
from .contacts import Contacts
from .dealing import DataDealer
from .roster import Roster
from .rounds import Rounds
from .workers import Worker


class Suspensions:
    """A suspended member counts as if it had paused: nobody waits for it, and data that it has not used go to others.

    Who does not advance is suspended after `progress_timeout_seconds` (0 is never), who is cut off from a shard after the
    lease.
    """

    def __init__(
        self,
        settings: JobSettings,
        policy: Policy,
        roster: Roster,
        rounds: Rounds | None,
        dealer: DataDealer,
        contacts: Contacts,
    ) -> None:
        self._timeout_seconds = settings.progress_timeout_seconds
        self._policy = policy
        self._roster = roster
        self._rounds = rounds
        self._dealer = dealer
        self._contacts = contacts

    def take_due(self, now: float) -> list[Worker]:
        """Members that are suspended as of now; each says why, for people."""
        members = self._roster.members
        self._recall_from_others(now)
        due = {worker: why for worker in members if (why := self._cut_off(worker))} if len(members) > 1 else {}
        if self._timeout_seconds > 0:
            for worker in self._waited_for() - due.keys():
                seconds = now - self._roster[worker].last_progress
                if seconds > self._timeout_seconds:
                    due[worker] = f"others wait for it, and it has ended no step for {seconds:.0f} s"
        suspended = [self._roster[member] for member in sorted(due)]
        for stuck in suspended:
            stuck.suspended = due[stuck.worker_id]
        return suspended

    def _recall_from_others(self, now: float) -> None:
        """Data go on also from one that is no member, because it only looks at them, and that asks for no more."""
        for worker in self._dealer.waiting_for(self._roster.members.keys()) - self._roster.members.keys():
            if 0 < self._timeout_seconds < now - self._roster[worker].last_progress:
                self._dealer.recall(worker)

    def _cut_off(self, member: int) -> str:
        worker = self._roster[member]
        silence = self._contacts.too_long_silence(worker.incarnation)
        if silence is None:
            return ""
        whom = f"its rank {silence.rank}" if worker.num_ranks > 1 else "it"
        return f"shard {silence.shard} has not heard of {whom} for {silence.seconds:.0f} s"

    def _waited_for(self) -> set[int]:
        """Members that others wait for, in rounds, by their clocks or for data."""
        members = self._roster.members
        for_data = self._dealer.waiting_for(members.keys()) & members.keys()
        if self._rounds is not None:  # whose step is complete waits itself
            for_data -= self._rounds.complete(members).keys()
        return for_data.union(self._waited_for_in_steps()) if len(members) > 1 else for_data

    def _waited_for_in_steps(self) -> Iterator[int]:
        members = self._roster.members
        if self._rounds is not None:
            yield from self._rounds.waiting_for(members)
        elif self._policy.waits_for_the_slowest:
            slowest = self._roster.smallest_clock()
            yield from (member for member in members if self._roster[member].clock == slowest)
