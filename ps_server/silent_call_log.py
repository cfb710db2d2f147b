"""Tells people of calls that were opened and never said anything: each kind now and then, whoever opens how many."""

import structlog

log = structlog.get_logger(__name__)

AGAIN_SECONDS = 60.0
"""Between two lines of a kind."""


class Seldom:
    """When something of a kind is worth a line again. Pure; the caller has few kinds, and a lock."""

    def __init__(self, again_seconds: float) -> None:
        self._again_seconds = again_seconds
        self._told: dict[str, tuple[float, int]] = {}
        """By kind: when, in monotonic seconds, and how often it was not since."""

    def happened(self, now: float, kind: str) -> int | None:
        """How often it has happened untold since the last line; None if there should be no line now."""
        told_at, num_untold = self._told.get(kind, (None, 0))
        if told_at is not None and now - told_at < self._again_seconds:
            self._told[kind] = told_at, num_untold + 1
            return None
        self._told[kind] = now, 0
        return num_untold


def tell_silent_call(method: str, peer: str, silent_seconds: float, was_cut_off: bool, num_untold: int) -> None:
    """One call, and how many more of its kind there were since the last line."""
    log.warning(
        "call said nothing",
        method=method,
        peer=peer,
        silent_seconds=round(silent_seconds, 1),
        ended="cut off here" if was_cut_off else "by its caller",
        more_since_last_line=num_untold,
    )
