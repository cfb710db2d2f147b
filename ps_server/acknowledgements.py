"""What each shard has said it has carried out. Pure; owned by the registrar."""

from collections.abc import Sequence

from ..protos.registrar_pb2 import ShardStatus


class Acknowledgements:
    """Plans and views that shards have installed, and how each shard said it is."""

    def __init__(self, num_shards: int) -> None:
        self._views = dict.fromkeys(range(num_shards), 0)
        self.newest_common_view = 0
        """Every shard has installed this view or a newer one."""
        self._without_plan = set(range(num_shards))
        self._status: dict[int, tuple[float, ShardStatus]] = {}

    def plan_installed(self, shard: int) -> None:
        """The shard has made its blocks."""
        self._without_plan.discard(shard)

    def view_installed(self, shard: int, number: int) -> None:
        """The shard listens to the members of this view."""
        self._views[shard] = max(self._views[shard], number)
        self.newest_common_view = min(self._views.values())

    def status(self, now: float, shard: int, status: ShardStatus) -> None:
        """The shard's figures."""
        self._status[shard] = now, status

    @property
    def first_without_plan(self) -> int | None:
        return min(self._without_plan, default=None)

    def said(self) -> list[tuple[float, ShardStatus]]:
        """What each shard said last of itself, and when, by shard. Nobody writes in these messages."""
        return [said for _, said in sorted(self._status.items())]


def statuses_at(now: float, said: Sequence[tuple[float, ShardStatus]]) -> list[ShardStatus]:
    """With how long ago each was said."""
    statuses = []
    for said_at, status in said:
        statuses.append(ShardStatus())
        statuses[-1].CopyFrom(status)
        statuses[-1].reported_seconds_ago = max(0.0, now - said_at)
    return statuses
