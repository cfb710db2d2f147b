"""What the ranks of one worker do together. A worker of one process has a group that does nothing."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch

from ...protos.errors import RankLostError

Result = TypeVar("Result")
Value = TypeVar("Value")


class Ranks(Protocol):
    """The processes of one worker. Every rank makes the same calls in the same order.

    All calls raise RankLostError when another rank is gone.
    """

    rank: int
    num_ranks: int

    def together(self, action: Callable[[], Result]) -> Result:
        """Runs the action on every rank; when it fails on any, it fails on all.

        Raises:
            ExpiredError: a rank raised it, and none anything worse.
            RankFailedError: another rank failed in a way that ends the worker; this rank's own error goes first.
        """

    def from_first(self, action: Callable[[], Result]) -> Result:
        """Runs the action on rank 0 only; every rank gets its result, or its error.

        Raises:
            RankFailedError: rank 0 raised an error that is not one of pushpull's; that one is raised on rank 0.
        """

    def gather(self, value: Value) -> list[Value]:
        """Every rank's value, by rank."""

    def sums(self, values: Sequence[float]) -> list[float]:
        """Element by element over all ranks, in float64; the same bits everywhere."""

    def smallest(self, values: Sequence[int]) -> list[int]:
        """Element by element over all ranks."""

    def broadcast(self, values: torch.Tensor, source: int, ranks: tuple[int, ...]) -> None:
        """Copies values of rank `source` to the others of `ranks`, all of which call this; a CPU tensor."""

    def add_up(self, values: torch.Tensor, ranks: tuple[int, ...]) -> None:
        """Replaces values by their sum over `ranks`, all of which call this; contiguous."""

    def prepare(self, sets: Sequence[tuple[int, ...]]) -> None:
        """Announces the sets of ranks that `broadcast` and `add_up` will be called with, over the whole worker."""

    def loss_behind(self, error: BaseException) -> RankLostError | None:
        """What to raise instead of an error of user code that comes of another rank's end: it was in a call of torch then."""

    def close(self, orderly: bool) -> None:
        """Ends the group; in an orderly way: behind the last call of every rank."""


class SoleRank:
    """The group of a worker of one process."""

    rank = 0
    num_ranks = 1

    def together(self, action: Callable[[], Result]) -> Result:
        return action()

    def from_first(self, action: Callable[[], Result]) -> Result:
        return action()

    def gather(self, value: Value) -> list[Value]:
        return [value]

    def sums(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def smallest(self, values: Sequence[int]) -> list[int]:
        return list(values)

    def broadcast(self, values: torch.Tensor, source: int, ranks: tuple[int, ...]) -> None:
        """Nobody else is there."""

    def add_up(self, values: torch.Tensor, ranks: tuple[int, ...]) -> None:
        """Nobody else is there."""

    def prepare(self, sets: Sequence[tuple[int, ...]]) -> None:
        """Nobody else is there."""

    def loss_behind(self, error: BaseException) -> None:
        """Nobody else is there."""

    def close(self, orderly: bool) -> None:
        """Nothing was opened."""
