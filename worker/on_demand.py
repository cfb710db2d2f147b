"""Parameters whose values come when they are asked for, instead of behind every step: experts, of which a step uses a few."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from ..protos.errors import PushpullError, RankFailedError, SettingError
from ..protos.shard_pb2 import Pull
from .held_values import HeldValues
from .plan import TableEntry
from .ranks.model import RankModel


class OnDemand:
    """Which plan entries are on demand, and which of these hold values that may be computed with.

    Fetched values are as good as those of the rest of the model until that gets newer ones: then they have to be fetched
    again. All ranks of a worker know of the same entries that they are fetched. The training thread calls; `may_push` is
    called by autograd's threads too.
    """

    def __init__(self, model: RankModel, patterns: Sequence[str]) -> None:
        """`patterns` of parameter names, as for `fnmatch`.

        Raises:
            SettingError: one matches no parameter.
        """
        self._ranks = model.ranks
        self._own = model.blocks
        self.entries = _matching(model.plan.entries[: model.num_parameters], patterns)
        """All that are on demand."""
        self.local = frozenset(e for e, entry in enumerate(model.plan.entries) if entry.group < 0)
        """What no optimizer touches: asked for once, at the start, and the script's own afterwards."""
        self.named = self.entries | self.local
        """Sent only when a pull names them."""
        self.others = frozenset(range(len(model.plan.entries))) - self.entries
        self._fetched: frozenset[int] = frozenset()

    @property
    def blocks(self) -> list[int]:
        """This rank's blocks of `entries`, ascending."""
        return [block.id for block in self._own.blocks.values() if block.entry in self.entries]

    def wanted_by_any(self, entries: Collection[int]) -> frozenset[int]:
        """What of these is on demand, over all ranks: one may own a block that another one is about to use."""
        candidates = sorted(self.entries)
        unwanted = self._ranks.smallest([int(entry not in entries) for entry in candidates])
        return frozenset(entry for entry, missing in zip(candidates, unwanted, strict=True) if not missing)

    def pulls(self, entries: Collection[int], held: HeldValues | None) -> dict[int, Pull]:
        """What this rank asks each shard for; nothing of shards that have none of its blocks. None: nothing is held."""
        pulls: dict[int, Pull] = {}
        for shard, owned in enumerate(self._own.blocks_of_shard):
            blocks = [number for number in owned if self._own.blocks[number].entry in entries]
            if blocks:
                versions = [] if held is None else held.versions_of(blocks)
                pulls[shard] = Pull(blocks=blocks, base_versions=versions)
        return pulls

    def fetched(self, entries: Collection[int]) -> None:
        """These have the newest values."""
        self._fetched = self._fetched.union(entries)

    def outdated(self) -> None:
        """The rest of the model has newer values than all that was fetched."""
        self._fetched = frozenset()

    def may_push(self, entry: int) -> bool:
        """Whether a gradient of this entry comes from values that this worker may compute with."""
        return entry in self.others or entry in self._fetched

    def all_may_be_pushed(self, entries: Collection[int]) -> bool:
        """See `may_push`."""
        return all(map(self.may_push, entries))

    def refusal(self, entries: Collection[int]) -> PushpullError:
        """Why a step with gradients of these entries cannot be taken, on some rank of this worker."""
        wrong = (self._own.entries[entry].name for entry in sorted(entries) if not self.may_push(entry))
        name = next(wrong, None)
        if name is None:
            return RankFailedError("another rank of this worker has a gradient of a parameter that was not fetched")
        return SettingError(
            f"{name} is on demand and has a gradient, but was not fetched since the step before: its values were old. Call "
            "optimizer.fetch(...) with it, or with a module that contains it, ahead of the forward pass that uses it; a "
            "parameter that was not used must have no gradient, not zeros (zero_grad(set_to_none=True))"
        )


def _matching(parameters: Sequence[TableEntry], patterns: Sequence[str]) -> frozenset[int]:
    found: set[int] = set()
    for pattern in patterns:
        matches = {entry for entry, parameter in enumerate(parameters) if _is_named(parameter, pattern)}
        if not matches:
            raise SettingError(
                f"on_demand: {pattern!r} matches no parameter of the model; the first one's name is {parameters[0].name}"
            )
        found |= matches
    return frozenset(found)


def _is_named(parameter: TableEntry, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (parameter.name, *parameter.aliases))
