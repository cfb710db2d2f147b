"""The open streams of one shard: one for each rank of each worker. The engine's lock guards them."""

from ..protos.errors import OverBudgetError, PushpullError
from .keys import Key, StreamKey
from .session import Sendable, Session, SessionLimits


class Streams:
    """Sessions by stream."""

    def __init__(self, shard: int, most: int) -> None:
        self._shard = shard
        self.most = most
        """At the same time."""
        self._sessions: dict[StreamKey, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, key: StreamKey, limits: SessionLimits) -> Session:
        """A new session; an older one of the same rank ends.

        Raises:
            OverBudgetError: there are too many.
        """
        old = self._sessions.pop(key, None)
        if old is not None:
            old.end()
        if len(self._sessions) >= self.most:
            raise OverBudgetError(
                f"shard {self._shard} serves {self.most} worker streams already, one for each rank of each worker; raise "
                "--max-workers of every server, which counts streams"
            )
        session = self._sessions[key] = Session(key, limits)
        return session

    def close(self, session: Session) -> None:
        """The stream of a session is over."""
        if self.is_current(session):
            del self._sessions[session.key]

    def is_current(self, session: Session) -> bool:
        """Whether its rank has opened no other stream since."""
        return self._sessions.get(session.key) is session

    def of(self, key: StreamKey) -> Session | None:
        """The stream of a rank, if it has one."""
        return self._sessions.get(key)

    def send(self, key: StreamKey, message: Sendable) -> None:
        """Sends to a rank, if it has a stream."""
        session = self._sessions.get(key)
        if session is not None:
            session.send(message)

    def dismiss(self, worker: Key, reason: PushpullError | None) -> None:
        """Ends the streams of all ranks of an incarnation."""
        for key in [key for key in self._sessions if key.worker == worker]:
            self._sessions.pop(key).end(reason)

    def end_all(self, reason: PushpullError | None = None) -> None:
        """Ends every stream behind what was sent; with a reason, the calls are refused with it."""
        for session in self._sessions.values():
            session.end(reason)
