"""The whole model and its optimizer's state as plain torch saves them, from what the servers hold in full precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..protos.errors import SettingError
from ..protos.parameter_names import plain_name
from .assembly import GivenModel, Seat
from .given_parameters import GivenParameters
from .local_tensors import is_divided
from .local_updates import LocalUpdates
from .masters import MasterFetcher, MasterState
from .model_table import ModelTable, unwrapped
from .optimizer import RemoteOptimizer
from .ranks.group import Ranks
from .replica import Replica
from .training import Training

STEP_OF: Mapping[str, type[int] | type[torch.Tensor]] = {
    "Adam": torch.Tensor,
    "AdamW": torch.Tensor,
    "Adagrad": torch.Tensor,
    "RMSprop": torch.Tensor,
    "LAMB": int,
}
"""Optimizers that count a parameter's steps, and as what; torch's do in a float32 tensor."""
KEEPS_STATE_FROM_THE_START = frozenset({"Adagrad"})


@dataclass(frozen=True)
class FullState:
    """Puts together what this worker saves: see `Worker.full_state_dict`. Every rank has one.

    Values are FP32 whatever codecs and layouts are, and have the names and shapes of the undivided model. Host memory: 4 bytes
    an element, and as much for each moment.
    """

    model: GivenModel
    table: ModelTable
    optimizer_name: str
    """Of what the servers run."""
    ranks: Ranks
    fetcher: MasterFetcher
    given: GivenParameters

    def collect(self, optimizer: RemoteOptimizer | LocalUpdates, first_rank_only: bool) -> dict[str, Any]:
        """See `Worker.full_state_dict`. Every rank calls it together."""
        own = self.ranks.together(self._own_values)
        own_of_ranks = [own] if self.ranks.num_ranks == 1 else self.ranks.gather(own)
        skips = first_rank_only and self.ranks.rank > 0
        masters = self.ranks.together(lambda: None if skips else self.fetcher.fetch())
        if masters is None:
            return {}
        kept = {name: value for values in reversed(own_of_ranks) for name, value in values.items()}
        state: dict[str, Any] = {"model": self._model_state(masters, kept), "round": masters.round}
        if isinstance(optimizer, LocalUpdates):
            local = optimizer.inner.state_dict()
            return state | {
                "optimizer": local,
                "outer_optimizer": self._optimizer_state(masters, optimizer.outer_groups),
            }
        return state | {"optimizer": self._optimizer_state(masters, optimizer.param_groups)}

    def _own_values(self) -> dict[str, Any]:
        """What is saved of this process's part, and is not on the servers: buffers, and parameters that are not trained."""
        self.given.check()
        trained = self._trained_names()
        own: dict[str, Any] = {}
        for part in self.model.parts:
            for name, value in unwrapped(part).state_dict().items():
                if plain_name(name) in trained or (isinstance(value, torch.Tensor) and is_divided(value)):
                    continue
                own[plain_name(name)] = value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
        return own

    def _trained_names(self) -> dict[str, int]:
        """Plan entries by every name of the parameters that the servers optimise."""
        entries = enumerate(self.table.entries[: self.table.num_parameters])
        return {name: i for i, entry in entries if entry.group >= 0 for name in (entry.name, *entry.aliases)}

    def _model_state(self, masters: MasterState, own: Mapping[str, Any]) -> dict[str, Any]:
        whole = {
            name: masters.values.get(index, torch.zeros(entry.shape))
            for index, entry in enumerate(self.table.entries)
            for name in (entry.name, *entry.aliases)
        }
        return {**whole, **own}

    def _optimizer_state(self, masters: MasterState, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """In torch's format: parameters are numbered group by group, as they were given to the optimizer."""
        state: dict[int, dict[str, Any]] = {}
        packed: list[dict[str, Any]] = []
        number = 0
        for index, group in enumerate(groups):
            entries = self._entries_of(index, group)
            for position, entry in enumerate(entries):
                kept = self._state_of(entry, masters)
                if kept:
                    state[number + position] = kept
            options = {key: value for key, value in group.items() if key != "params"}
            packed.append(options | {"params": list(range(number, number + len(entries)))})
            number += len(entries)
        return {"state": state, "param_groups": packed}

    def _entries_of(self, index: int, group: Mapping[str, Any]) -> list[int]:
        """In the order of the group, if all its parameters are here; else in the order of the whole model."""
        entry_of = {id(tensor): entry for entry, tensor in self.table.held.items()}
        here = [entry_of[id(parameter)] for parameter in group["params"]]
        whole = [entry for entry, of_table in enumerate(self.table.entries) if of_table.group == index]
        return here if sorted(here) == whole else whole

    def _state_of(self, entry: int, masters: MasterState) -> dict[str, Any]:
        updates = masters.updates.get(entry, 0)
        if not updates and self.optimizer_name not in KEEPS_STATE_FROM_THE_START:
            return {}
        kept: dict[str, Any] = {name: of_slot[entry] for name, of_slot in masters.slots.items() if entry in of_slot}
        step = STEP_OF.get(self.optimizer_name)
        if step is None:
            return kept
        return {"step": updates if step is int else torch.tensor(float(updates)), **kept}


def full_state_of(
    model: GivenModel, table: ModelTable, template: torch.optim.Optimizer, replica: Replica, seat: Seat
) -> FullState:
    """Of a worker that has enrolled with this model, and with this optimizer for the servers."""
    fetcher = MasterFetcher(seat.membership.job, replica.plan, seat.membership.check)
    return FullState(model, table, type(template).__name__, seat.ranks, fetcher, replica.changes.given)


class SavesFullState:
    """The part of a worker that scripts save with."""

    _training: Training
    _full_state: FullState | None = None
    """Of the model that it was given."""

    def full_state_dict(self, *, first_rank_only: bool = False) -> dict[str, Any]:
        """For saving: the servers' FP32 values and moments of the whole model, of one round (`model`, `optimizer`, `round`).

        Buffers and frozen parameters are this worker's. Torch's own optimizer takes `optimizer` in `load_state_dict`; with
        local updates it is the local one's, beside `outer_optimizer`. Every rank calls it; `first_rank_only`: others get {}.
        """
        if self._full_state is None or self._training.optimizer is None:
            raise SettingError("there is nothing to save before worker.optimizer() or worker.local_updates()")
        return self._full_state.collect(self._training.optimizer, first_rank_only)
