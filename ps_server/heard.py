"""Of whom a shard has heard since it said so last. Safe to use from several threads."""

import threading

from ..protos.registrar_pb2 import View, WorkersAlive
from .keys import StreamKey


class Heard:
    """Invariant: what is kept is bounded by the ranks of the newest view; of others nothing is noted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_ranks: dict[int, int] = {}
        """Of live incarnations."""
        self._heard: set[tuple[int, int]] = set()

    def expect(self, view: View) -> None:
        """Its members may be heard of from now on."""
        with self._lock:
            self._num_ranks = {member.incarnation: max(1, member.num_ranks) for member in view.members}

    def note(self, key: StreamKey) -> None:
        """A rank has sent something."""
        with self._lock:
            if key.rank < self._num_ranks.get(key.incarnation, 0):
                self._heard.add((key.incarnation, key.rank))

    def take(self) -> WorkersAlive:
        """Everybody who has sent something since the last call, perhaps nobody."""
        with self._lock:
            heard, self._heard = sorted(self._heard), set()
        return WorkersAlive(incarnations=[who for who, _ in heard], ranks=[rank for _, rank in heard])
