"""Who is meant: a worker's incarnation, and one of its ranks. Pure data."""

from typing import NamedTuple

Key = tuple[int, int]
"""Worker id and incarnation."""


class StreamKey(NamedTuple):
    """The rank at the other end of a stream."""

    worker_id: int
    incarnation: int
    rank: int = 0

    @property
    def worker(self) -> Key:
        """The worker's incarnation that the rank belongs to."""
        return self.worker_id, self.incarnation
