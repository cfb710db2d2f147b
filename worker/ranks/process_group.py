"""The ranks of one worker as a torch.distributed group."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ...protos.errors import ExpiredError, PushpullError, RankFailedError, RankLostError

Result = TypeVar("Result")
Value = TypeVar("Value")

TIMEOUT_SECONDS = 3600.0
"""Of a call in which another rank does not take part although it lives. Long: rank 0 may wait for servers that start."""
LAST_CALLS_SECONDS = 0.3

SIGNS_OF_LOSS = ("gloo/transport/", "ncclRemoteError")
"""In the texts of errors that torch raises where a connection to another rank breaks; it has no class for them."""

FINE, EXPIRED, FAILED = range(3)
"""How badly an action went, for all ranks to agree on."""


class ProcessGroupRanks:
    """All processes of the default group. What is agreed on goes through a gloo group of its own."""

    def __init__(self, opened_here: bool) -> None:
        """`opened_here`: the default group is ours to close."""
        self._opened_here = opened_here
        self.rank = dist.get_rank()
        self.num_ranks = dist.get_world_size()
        self._everybody = tuple(range(self.num_ranks))
        self._control = self._new_group(None)
        self._groups: dict[tuple[int, ...], Any] = {self._everybody: self._control}

    def together(self, action: Callable[[], Result]) -> Result:
        error: Exception | None = None
        result: Result | None = None
        try:
            result = action()
        except RankLostError:
            raise  # nobody is left to agree with
        except Exception as failure:
            error = failure
        worst = -self.smallest([-_severity(error)])[0]
        if worst != FINE:
            raise self._joint_error(error, worst)
        return result  # type: ignore[return-value]

    def from_first(self, action: Callable[[], Result]) -> Result:
        error: Exception | None = None
        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer[0] = action()
            except Exception as failure:
                error, answer[1] = failure, _for_others(failure)
        with _peers_alive():
            dist.broadcast_object_list(answer, src=0, group=self._control)
        error = error or answer[1]
        if error is not None:
            raise error
        return answer[0]  # type: ignore[no-any-return]

    def gather(self, value: Value) -> list[Value]:
        values: list[Any] = [None] * self.num_ranks
        with _peers_alive():
            dist.all_gather_object(values, value, group=self._control)
        return values

    def sums(self, values: Sequence[float]) -> list[float]:
        return self._reduced(torch.tensor(values, dtype=torch.float64), dist.ReduceOp.SUM)

    def smallest(self, values: Sequence[int]) -> list[int]:
        return self._reduced(torch.tensor(values, dtype=torch.int64), dist.ReduceOp.MIN)

    def broadcast(self, values: torch.Tensor, source: int, ranks: tuple[int, ...]) -> None:
        with _peers_alive():
            dist.broadcast(values, src=source, group=self._groups[ranks])

    def add_up(self, values: torch.Tensor, ranks: tuple[int, ...]) -> None:
        with _peers_alive():
            dist.all_reduce(values, op=dist.ReduceOp.SUM, group=self._groups[ranks])

    def prepare(self, sets: Sequence[tuple[int, ...]]) -> None:
        for ranks in sorted(set(sets) - self._groups.keys()):
            self._groups[ranks] = self._new_group(list(ranks))

    def loss_behind(self, error: BaseException) -> RankLostError | None:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, PushpullError):
            if isinstance(cause, RuntimeError) and any(sign in str(cause) for sign in SIGNS_OF_LOSS):
                return _rank_lost(cause)
            cause = cause.__cause__ or cause.__context__
        return None

    def close(self, orderly: bool) -> None:
        """Leaves the default group too if `connect()` has opened it."""
        with contextlib.suppress(RankLostError):
            if orderly:
                self.sums([0.0])
                # A thread of gloo that drops the last call's objects while the interpreter ends aborts the process.
                time.sleep(LAST_CALLS_SECONDS)
        self._groups.clear()
        if self._opened_here and dist.is_initialized() and orderly:
            dist.destroy_process_group()

    def _new_group(self, ranks: list[int] | None) -> Any:
        return dist.new_group(ranks, backend="gloo", timeout=timedelta(seconds=TIMEOUT_SECONDS))

    def _reduced(self, values: torch.Tensor, operation: Any) -> list[Any]:
        with _peers_alive():
            dist.all_reduce(values, op=operation, group=self._control)
        reduced: list[Any] = values.tolist()
        return reduced

    def _joint_error(self, own: Exception | None, worst: int) -> Exception:
        said = self.gather(None if own is None else (_severity(own), f"{type(own).__name__}: {own}"))
        if own is not None and _severity(own) == worst:
            return own
        rank = next(number for number, error in enumerate(said) if error is not None and error[0] == worst)
        text = f"rank {rank} of this worker failed: {said[rank][1]}"  # type: ignore[index]
        return ExpiredError(text) if worst == EXPIRED else RankFailedError(text)


def _for_others(error: Exception) -> Exception:
    """What the other ranks raise. Errors that are not ours might not survive the way to another process."""
    if isinstance(error, PushpullError):
        return error
    return RankFailedError(f"rank 0 of this worker failed: {type(error).__name__}: {error}")


def _severity(error: Exception | None) -> int:
    if error is None:
        return FINE
    return EXPIRED if isinstance(error, ExpiredError) else FAILED


@contextlib.contextmanager
def _peers_alive() -> Iterator[None]:
    """Says in our words what torch says when a connection to another rank breaks."""
    try:
        yield
    except RuntimeError as error:
        raise _rank_lost(error) from error


def _rank_lost(error: RuntimeError) -> RankLostError:
    return RankLostError(
        "another rank of this worker is gone or does not answer, so this one cannot go on; start the whole worker again "
        f"({error})"
    )
