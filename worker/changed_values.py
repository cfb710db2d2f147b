"""Noticing that the script has changed parameters which hold the servers' values, or has put others in their place."""

import logging
from collections.abc import Callable, Collection, Iterable

from ..protos.errors import PushpullError, RankFailedError, SettingError
from .given_parameters import listed
from .plan import PlanBlock
from .ranks.model import RankModel

logger = logging.getLogger(__name__)


class ChangedValues:
    """Which blocks of this rank no longer hold what was written there. All ranks of a worker call `check` together.

    Only parameters that the servers optimise are looked at: frozen ones and buffers are the script's own.
    """

    def __init__(self, model: RankModel) -> None:
        self._ranks = model.ranks
        self._memory = model.memory
        self.given = model.given
        self._entries = model.plan.entries
        held = [*model.blocks.blocks.values(), *(block for copied in model.blocks.copies for block in copied.blocks)]
        found = {block.id: block for block in held if self._entries[block.entry].group >= 0}
        self._blocks = [found[number] for number in sorted(found)]

    def blocks(self, wanted: Callable[[PlanBlock], bool] = lambda block: True) -> list[PlanBlock]:
        """Those that were changed since, ascending."""
        return self._memory.changed(filter(wanted, self._blocks))

    def check(self, entries: Collection[int] | None = None) -> None:
        """Looks at all parameters, or at these.

        Raises:
            SettingError: names what was changed or replaced, and says what to do.
            RankFailedError: another rank of this worker has changed something.
        """
        fault = self.given.fault()
        changed = self.blocks() if entries is None else self.blocks(lambda block: block.entry in entries)
        num_faults, num_changed = self._ranks.sums([float(bool(fault)), float(len(changed))])
        if num_faults:
            raise (
                SettingError(fault) if fault else RankFailedError("another rank of this worker has replaced parameters")
            )
        if num_changed:
            raise self._refusal(changed)

    def blocks_to_push(self) -> list[PlanBlock]:
        """What was changed, for the servers.

        Raises:
            SettingError: a parameter was replaced, and nothing of the new one would go.
        """
        self._ranks.together(self.given.check)
        return self.blocks()

    def names(self) -> list[str]:
        """Of the parameters of this rank that were changed since."""
        return self._names_of(self.blocks())

    def warn_of_loss(self) -> None:
        """The servers' values are about to be put over everything."""
        changed = self.blocks()
        if changed:
            logger.warning(
                "the lease ran out, and everything is pulled anew: what the script had put into %s is lost; change it again "
                "and call optimizer.push_values()",
                listed(self._names_of(changed)),
            )

    def _refusal(self, changed: Iterable[PlanBlock]) -> PushpullError:
        names = listed(self._names_of(changed))
        if not names:
            return RankFailedError(
                "another rank of this worker has changed parameters that hold the servers' values, without "
                "optimizer.push_values()"
            )
        return SettingError(
            f"the script has changed {names} since the servers' values were put there (load_state_dict, clamp_, max_norm, a "
            "layer initialised anew, another type, ...). Other workers do not know of it, and the next values from the servers "
            "would undo it, so nothing was pushed. Call optimizer.push_values() after the change, which makes these values the "
            "servers'; or change the model before worker.optimizer()"
        )

    def _names_of(self, changed: Iterable[PlanBlock]) -> list[str]:
        return list(dict.fromkeys(self._entries[block.entry].name for block in changed))
