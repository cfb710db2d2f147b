"""The ledgers of all incarnations that a shard has heard of, and who may write in which. Pure."""

from collections.abc import Iterator

from ..protos.errors import BadRequestError, StepError
from ..protos.shard_pb2 import Commit, Hello, RecordedResponse
from .keys import Key, StreamKey
from .membership import Membership
from .shares import Share, Shares
from .steps import OpenStep, StepLedger

ENDED_LEDGERS_KEPT = 1024
"""Incarnations that are live no more whose last outcome may still be asked for."""


class Ledgers:
    """One ledger for each incarnation of a worker, whatever its number of ranks.

    Invariant: no two ranks of an incarnation own the same block. A view or a round costs something for each live incarnation,
    and nothing for those that ended before.
    """

    def __init__(self, membership: Membership, shares: Shares) -> None:
        self._membership = membership
        self._shares = shares
        self._live: dict[Key, StepLedger] = {}
        self._ended: dict[Key, StepLedger] = {}
        """In the order in which they ended."""

    def __iter__(self) -> Iterator[StepLedger]:
        return iter((*self._live.values(), *self._ended.values()))

    def greet(self, hello: Hello) -> StepLedger:
        """Takes in a rank that opens a stream, with what it says it owns.

        Raises:
            FencedError, UnknownIncarnationError: see `Membership.check`.
            BadRequestError: the rank does not exist, or may not own these blocks; see `Shares.claim`.
        """
        worker, num_ranks = hello.worker_id, max(1, hello.num_ranks)
        ledger = self.find((worker, hello.incarnation))
        if ledger is None:
            self._membership.check(worker, hello.incarnation)
            ledger = self._new((worker, hello.incarnation))
        if num_ranks != ledger.num_ranks:
            raise BadRequestError(
                f"worker {worker} joined with num_ranks={ledger.num_ranks}, but its rank {hello.rank} says "
                f"num_ranks={num_ranks}"
            )
        if hello.rank >= num_ranks:
            raise BadRequestError(f"worker {worker} has num_ranks={num_ranks}; there is no rank {hello.rank}")
        ledger.shares[hello.rank] = self._shares.claim(hello, ledger.shares)
        if ledger.key not in self._ended:
            self._live[ledger.key] = ledger
        return ledger

    def of(self, key: StreamKey) -> tuple[StepLedger, Share]:
        """The ledger that a rank writes in, and what it owns.

        Raises:
            FencedError, UnknownIncarnationError, BadRequestError: it has not said Hello, or may not any more.
        """
        ledger = self.find(key.worker)
        share = ledger.shares.get(key.rank) if ledger is not None else None
        if ledger is None or share is None:
            self._membership.check(*key.worker)
            raise BadRequestError("frames, commits and pulls come after Hello")
        return ledger, share

    def find(self, key: Key) -> StepLedger | None:
        return self._live.get(key) or self._ended.get(key)

    def obtain(self, key: Key) -> StepLedger:
        """The ledger of a worker that the registrar named; it may have said nothing here yet."""
        ledger = self.find(key)
        if ledger is None:
            ledger = self._live[key] = self._new(key)
        return ledger

    def last_step(self, key: Key) -> int:
        """Newest settled step of a worker; 0 = none."""
        ledger = self.find(key)
        return ledger.last_outcome.step if ledger is not None else 0

    def recorded(self, key: Key, step: int) -> RecordedResponse:
        """What became of a step, whoever asks.

        Raises:
            StepError: a worker that may act has not come so far, and need not ever: who asked would ask for ever.
        """
        ledger = self.find(key)
        outcome = ledger.recorded(step) if ledger is not None else None
        if outcome is not None:
            return RecordedResponse(state=RecordedResponse.STATE_RECORDED, outcome=outcome)
        if (ledger is not None and ledger.open is not None) or self._membership.may_act(*key):
            due = 1 + (ledger.last_outcome.step if ledger is not None else 0)
            if step > due:
                raise StepError(f"nothing is known of step {step} of worker {key[0]}: its step {due} is due here")
            return RecordedResponse(state=RecordedResponse.STATE_OPEN)
        known = ledger is not None or self._membership.remembers(*key)
        return RecordedResponse(state=RecordedResponse.STATE_NEVER if known else RecordedResponse.STATE_FORGOTTEN)

    def whole_steps(self) -> list[tuple[StepLedger, OpenStep, Commit]]:
        """Open steps of live workers that all ranks have committed, with what they committed as one worker."""
        whole = []
        for ledger in self._live.values():
            step = ledger.open
            if step is not None and step.whole(ledger.num_ranks) and step.commit is not None:
                whole.append((ledger, step, step.commit))
        return whole

    def end_all_but(self, live: set[Key]) -> None:
        """Forgets what others had staged and owned, unless it is being applied. Outcomes stay on record."""
        for key in sorted(self._live.keys() - live, key=lambda key: key[1]):
            ledger = self._ended[key] = self._live.pop(key)
            ledger.shares.clear()
            if ledger.open is not None and not ledger.open.closing:
                ledger.open = None
        if len(self._ended) > ENDED_LEDGERS_KEPT:
            old = list(self._ended.values())[: len(self._ended) - ENDED_LEDGERS_KEPT]
            for ledger in old:
                if ledger.open is None:
                    del self._ended[ledger.key]

    def _new(self, key: Key) -> StepLedger:
        return StepLedger(*key, num_ranks=self._membership.num_ranks(*key))
