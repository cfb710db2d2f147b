"""What encoders remember of blocks, in two copies each: one that counts, one of the frame whose outcome is open."""

import threading
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from .codec import Memo
from .kernels import sum_of_squares

Rows = NDArray[np.float32]
"""float32 [rows, n]: one row for each thing that is remembered, one column for each element."""
State = dict[str, torch.Tensor]

_NUM_APPLIED = "num_applied"


class BlockState:
    """The memory of one block. `encoded` says that pending belongs to a frame whose outcome is open."""

    __slots__ = ("committed", "encoded", "memo", "num_applied", "pending")

    def __init__(self, committed: Rows, num_applied: int = 0) -> None:
        self.committed = committed
        self.pending: Rows = np.empty_like(committed)
        self.encoded = False
        self.num_applied = num_applied
        """Frames of this block that counted."""
        self.memo = Memo()


class BlockMemory:
    """A row for each of `names`, for each block that was ever opened; zeros at first.

    Owned by one encoder. Different blocks may be used by different threads at the same time.
    """

    def __init__(self, *names: str) -> None:
        self._names = names
        self._blocks: dict[int, BlockState] = {}
        self._lock = threading.Lock()

    def open(self, key: int, num_elements: int) -> BlockState:
        """The state of a block about to be encoded: its pending copy belongs to no frame until the caller sets
        `encoded`.

        Raises ValueError if it was loaded for a block of another size.
        """
        state = self._blocks.get(key)
        if state is None:
            with self._lock:
                empty: Rows = np.zeros((len(self._names), num_elements), np.float32)
                state = self._blocks.setdefault(key, BlockState(empty))
        if state.committed.shape[1] != num_elements:
            raise ValueError(
                f"block {key} has {num_elements} elements, its {self._names[0]} {state.committed.shape[1]}: "
                f"the {self._names[0]} belongs to another plan"
            )
        state.encoded = False
        return state

    def commit(self, keys: Iterable[int]) -> None:
        """What these blocks last encoded was applied: once for each frame, pending becomes committed."""
        for key in keys:
            state = self._blocks.get(key)
            if state is not None and state.encoded:
                state.committed, state.pending = state.pending, state.committed
                state.num_applied += 1
                state.encoded = False

    def discard(self, keys: Iterable[int]) -> None:
        """What these blocks last encoded will never be applied."""
        for key in keys:
            state = self._blocks.get(key)
            if state is not None:
                state.encoded = False

    def norm(self, name: str) -> float:
        """Euclidean norm of one committed row over all blocks."""
        row = self._names.index(name)
        return float(sum(sum_of_squares(state.committed[row]) for state in self._snapshot().values()) ** 0.5)

    def state_dict(self) -> dict[int, State]:
        """Committed rows by block and name, float32 [n], copied; and how many frames counted."""
        return {
            key: {
                **{name: torch.from_numpy(row.copy()) for name, row in zip(self._names, state.committed, strict=True)},
                _NUM_APPLIED: torch.tensor(state.num_applied),
            }
            for key, state in self._snapshot().items()
        }

    def load_state_dict(self, state: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
        """Replace everything by copies. A row that was not saved, because another encoder saved, is zero."""
        loaded = {key: self._loaded(saved) for key, saved in state.items() if set(self._names) & set(saved)}
        with self._lock:
            self._blocks = loaded

    def _loaded(self, saved: Mapping[str, torch.Tensor]) -> BlockState:
        found = {
            name: saved[name].detach().to("cpu", torch.float32).flatten().numpy()
            for name in self._names
            if name in saved
        }
        num_elements = max(row.size for row in found.values())
        empty = np.zeros(num_elements, np.float32)
        count = saved.get(_NUM_APPLIED)
        return BlockState(
            np.stack([found.get(name, empty) for name in self._names]), 0 if count is None else int(count)
        )

    def _snapshot(self) -> dict[int, BlockState]:
        with self._lock:
            return dict(self._blocks)
