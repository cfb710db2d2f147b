"""How a job ends when one of its servers was told to end, or is gone. Pure; owned by the registrar."""

from ..protos.deadlines import ROUND_SECONDS
from ..protos.errors import JobOverError, ServerDrainingError, ServerLostError
from ..protos.registrar_pb2 import Draining

_AGAIN = "Start servers and workers again; they begin with a new model (snapshots do not exist yet)"


class Ending:
    """Whether the job ends, and when.

    Invariants: what has begun goes on; nobody is admitted once it has begun; no round closes once the job is over.
    """

    def __init__(self) -> None:
        self.over = False
        """The shards have been told, behind the last round."""
        self._error: JobOverError | None = None
        self._deadline_seconds = 0.0
        self._last_round = 0

    @property
    def has_begun(self) -> bool:
        return self._error is not None

    @property
    def message(self) -> str:
        """Why the job ends, for people; empty while it goes on."""
        return "" if self._error is None else str(self._error)

    def begin(self, now: float, shard: int, report: Draining, open_round: int) -> None:
        """A shard was told to end, or is gone: then nothing is waited for. A second one, or a repetition, changes nothing."""
        if self._error is not None:
            return
        who = f"shard {shard} at {report.address}"
        if report.failure:
            self._error = ServerLostError(
                f"{who} is gone ({report.failure}), and nobody else has its part of the model: the job cannot go on. {_AGAIN}"
            )
            return
        self._error = ServerDrainingError(
            f"{who} is shutting down, and nobody else has its part of the model: so this job ends. {_AGAIN}"
        )
        self._deadline_seconds = now + ROUND_SECONDS
        self._last_round = open_round

    @property
    def is_loss(self) -> bool:
        """Whether it ends because a server is gone."""
        return isinstance(self._error, ServerLostError)

    def check_admits(self) -> None:
        """Raises JobOverError once it has begun."""
        if self._error is not None:
            raise self._error

    def check_not_over(self) -> None:
        """Raises JobOverError once the job is over."""
        if self.over:
            self.check_admits()

    def comes_now(self, now: float, rounds_closed: int, round_has_begun: bool) -> bool:
        """Whether the job is over as of this moment: nothing is waited for any more. True once."""
        if self._error is None or self.over:
            return False
        waits = round_has_begun and rounds_closed < self._last_round and now < self._deadline_seconds
        self.over = not waits
        return self.over
