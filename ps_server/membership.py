"""What one shard knows of the membership: the newest view, and each member's clock here. Pure."""

from ..protos.common_pb2 import ErrorCode
from ..protos.errors import ExpiredError, PushpullError, ReplacedError, StepError, UnknownIncarnationError
from ..protos.registrar_pb2 import Fence, Member, View
from .fencing import gone_long_ago

FENCES_KEPT = 1024
"""Incarnations that ended last, of which it is known how."""


class Membership:
    """The newest view and the clocks that this shard counts.

    A clock counts the steps of a worker that *this shard* has settled since the worker last became active, on top of the
    start clock that the registrar gave it: so a pulled block contains what the clocks say.
    """

    def __init__(self) -> None:
        self.view = View()
        self._members: dict[int, Member] = {}
        self._clocks: dict[int, int] = {}
        self._fences: dict[int, Fence] = {}
        """By incarnation, in the order in which they ended."""

    def install(self, view: View) -> list[tuple[int, int]]:
        """Takes a newer view; older ones change nothing. Returns (worker id, incarnation) of those live no more."""
        if view.number <= self.view.number:
            return []
        before = self._members
        self.view = view
        self._fences.update((fence.incarnation, fence) for fence in view.fences)
        while len(self._fences) > FENCES_KEPT:
            del self._fences[next(iter(self._fences))]
        self._members = {member.worker_id: member for member in view.members}
        for member in view.members:
            old = before.get(member.worker_id)
            same_life = old is not None and old.incarnation == member.incarnation
            newly_active = member.active and not (same_life and old is not None and old.active)
            if newly_active:
                self._clocks[member.worker_id] = member.start_clock
        self._forget_clocks()
        return [
            (worker, old.incarnation)
            for worker, old in before.items()
            if worker not in self._members or self._members[worker].incarnation != old.incarnation
        ]

    def _forget_clocks(self) -> None:
        """Of ids that nobody has, those that came last are kept: who joins again is told how far it was."""
        gone = [worker for worker in self._clocks if worker not in self._members]
        for worker in gone[: max(0, len(gone) - FENCES_KEPT)]:
            del self._clocks[worker]

    def check(self, worker_id: int, incarnation: int) -> Member:
        """The live member with this incarnation.

        Raises:
            UnknownIncarnationError: newer than this shard's view; the same message may succeed soon.
            ReplacedError, ExpiredError, StepError: fenced for good.
        """
        member = self._members.get(worker_id)
        if member is not None and member.incarnation == incarnation:
            return member
        if incarnation > self.view.newest_incarnation:
            raise UnknownIncarnationError(
                f"incarnation {incarnation} of worker {worker_id} is newer than this shard's view"
            )
        fence = self._fences.get(incarnation)
        if member is None and (fence is None or fence.worker_id != worker_id):
            raise ReplacedError(gone_long_ago(worker_id, incarnation))
        if fence is not None and fence.worker_id == worker_id:
            if fence.reason == ErrorCode.FENCED_EXPIRED:
                raise ExpiredError(f"the lease of worker {worker_id} ran out while it was silent")
            if fence.reason == ErrorCode.BAD_STEP:
                raise StepError(f"worker {worker_id} has left the job")
        raise ReplacedError(f"a newer process has taken the place of worker {worker_id}")

    def may_act(self, worker_id: int, incarnation: int) -> bool:
        """Whether it is live, or so new that this shard has not heard of it."""
        member = self._members.get(worker_id)
        live = member is not None and member.incarnation == incarnation
        return live or incarnation > self.view.newest_incarnation

    def remembers(self, worker_id: int, incarnation: int) -> bool:
        """Whether it is known how this incarnation ended."""
        fence = self._fences.get(incarnation)
        return fence is not None and fence.worker_id == worker_id

    def num_ranks(self, worker_id: int, incarnation: int) -> int:
        """Streams that make up a worker here; 1 if it is not live."""
        member = self._members.get(worker_id)
        return max(1, member.num_ranks) if member is not None and member.incarnation == incarnation else 1

    def why_gone(self, worker_id: int, incarnation: int) -> PushpullError | None:
        """Why an incarnation is live no more; None if it left by itself, or is live."""
        try:
            self.check(worker_id, incarnation)
        except StepError:
            return None
        except PushpullError as error:
            return error
        return None

    @property
    def num_active(self) -> int:
        return sum(member.active for member in self._members.values())

    def clock(self, worker_id: int) -> int:
        """Of one worker, as settled on this shard."""
        return self._clocks.get(worker_id, 0)

    def advance(self, worker_id: int) -> None:
        """A step of this worker is settled here."""
        self._clocks[worker_id] = self._clocks.get(worker_id, 0) + 1

    def smallest_clock(self, worker_id: int) -> int:
        """Over the active members; with no other member it is the worker's own."""
        clocks = [self._clocks[member.worker_id] for member in self._members.values() if member.active]
        return min(clocks, default=self.clock(worker_id))

    def clock_lag(self, worker_id: int) -> int:
        """The worker's clock minus the smallest member's; 0 for a worker that is not active."""
        member = self._members.get(worker_id)
        if member is None or not member.active:
            return 0
        return self.clock(worker_id) - self.smallest_clock(worker_id)

    def clock_lag_after_step(self, worker_id: int) -> int:
        """What the lag will be when one more step of the worker is settled here."""
        member = self._members.get(worker_id)
        if member is None or not member.active:
            return 0
        others = [self._clocks[other] for other, who in self._members.items() if who.active and other != worker_id]
        clock = self.clock(worker_id) + 1
        return clock - min([clock, *others])
