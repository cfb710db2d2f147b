"""Which worker saves and prints for all. Pure; owned by the registrar."""

from .initialisation import Initialisation
from .roster import Roster
from .workers import Worker


class FirstWorker:
    """Of the live trainers one is the first: whoever initialised the servers, and when it ends the smallest that has enrolled.

    It stays the first until it ends, also where smaller ids come later. Nobody is before the servers hold values.
    """

    def __init__(self, roster: Roster, initialisation: Initialisation) -> None:
        self._roster = roster
        self._initialisation = initialisation
        self._holder: Worker | None = None

    def is_first(self, worker: Worker) -> bool:
        """Whether this live worker is it now."""
        if self._holder is None or not self._holder.live:
            self._holder = self._elected()
        return worker is self._holder

    def _elected(self) -> Worker | None:
        if not self._initialisation.done:
            return None
        candidates = self._roster.enrolled_trainers()
        initialiser = self._initialisation.initialiser if self._holder is None else 0
        return next((w for w in candidates if w.incarnation == initialiser), candidates[0] if candidates else None)
