"""What attempts to reach a server say about it: whether it may come back. Pure; times are monotonic seconds.

A process that is gone is refused by the system it ran on, within a round trip; a link that is down answers nothing. State
that is kept for a server that comes back with it (snapshots do not exist yet) would change `GONE_SECONDS`, and nothing else.
"""

import grpc

GONE_SECONDS = 3.0
"""For so long nobody may listen at a server's address: a proxy in between may be restarted, a server is not."""


class Absence:
    """Of one server that was there and does not answer."""

    def __init__(self, address: str, patience_seconds: float) -> None:
        self._address = address
        self._patience_seconds = patience_seconds
        self._since: float | None = None
        self._refused_since: float | None = None

    def refused(self, now: float) -> None:
        """Nobody listens there."""
        self._since = now if self._since is None else self._since
        self._refused_since = now if self._refused_since is None else self._refused_since

    def silent(self, now: float) -> None:
        """No answer at all."""
        self._since = now if self._since is None else self._since
        self._refused_since = None

    def answered(self) -> None:
        """It is there."""
        self._since = self._refused_since = None

    def verdict(self, now: float) -> str:
        """Why it will not come back; empty while it may."""
        if self._refused_since is not None and now - self._refused_since >= GONE_SECONDS:
            return f"nobody listens at {self._address} any more (connection refused)"
        if self._since is not None and now - self._since >= self._patience_seconds:
            return f"{self._address} has not answered for {self._patience_seconds:g} s"
        return ""


def is_refused(failure: grpc.RpcError) -> bool:
    """Whether a call failed because nobody listens at the address."""
    return isinstance(failure, grpc.Call) and "Connection refused" in (failure.details() or "")
