"""Gradients on their way to the shards: encoded by a pool of threads, early while backward still runs, or in `step()`.

What is sent early is speculative. `finish` sends it again, under a higher attempt, unless every gradient is still the same
tensor, and its memory still has the bits that were encoded: torch's version counters miss what is written through `.data`,
through numpy or by code that is not torch's.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from ..protos.errors import NonFiniteError
from .block_encoding import BlockEncoding, times
from .bundle import Bundle
from .local_tensors import versions_of
from .plan import PlanBlock, portions
from .ranks.gradients import RankGradients
from .ranks.rank_blocks import RankBlocks
from .replica_settings import ReplicaSettings
from .wire import frames_message

logger = logging.getLogger(__name__)

FIRST_ATTEMPT = 1
TASK_ELEMENTS = 1 << 22
"""Elements that one task of the pool encodes at most, unless a single block is larger."""


class FrameSink(Protocol):
    """Where messages of frames go."""

    def send(self, shard: int, message: bytes) -> None:
        """Sends one more message of the open step."""

    def restart(self) -> None:
        """Forgets the open step's messages: a higher attempt begins."""


@dataclass(frozen=True, kw_only=True)
class StagingSettings:
    """How gradients are encoded and gathered."""

    message_bytes: int
    num_threads: int
    early: bool
    """Encode and send while backward runs."""
    accumulate: int = 1
    """Backward passes that make one step."""
    measure_norm: bool = False
    """Sum the squares of all gradients, for clipping."""

    @classmethod
    def of(cls, settings: ReplicaSettings, message_bytes: int, whole_after_backward: bool) -> "StagingSettings":
        """What a replica's settings ask for; gradients may leave early only if they are whole after backward."""
        return cls(
            message_bytes=message_bytes,
            num_threads=settings.num_encoder_threads,
            early=settings.early and whole_after_backward,
            accumulate=settings.accumulate,
            measure_norm=settings.clip_norm is not None,
        )


@dataclass
class Record:
    """A gradient that is being, or has been, encoded for the open step."""

    gradient: torch.Tensor
    versions: tuple[int, ...]
    tasks: list["Future[None]"] = field(default_factory=list)

    def still_is(self, gradient: torch.Tensor | None) -> bool:
        return gradient is self.gradient and versions_of(gradient) == self.versions


@dataclass(frozen=True)
class _Piece:
    """Some blocks of a gradient, which may be read once `ready` has happened."""

    gradient: torch.Tensor
    blocks: list[PlanBlock]
    ready: "torch.cuda.Event | None"


@dataclass(frozen=True)
class StagedStep:
    """All gradients of a step are sent."""

    attempt: int
    entries: frozenset[int]
    """Plan entries that had a gradient."""
    squares: float
    """Sum of squares of the gradients of this rank's blocks, in float64; 0 unless it was asked for."""


class Stager:
    """Encodes and sends this rank's blocks of the gradients of one step at a time.

    `on_gradient` is called from autograd's threads and only enqueues; everything else from the training thread.
    """

    def __init__(
        self,
        own: RankBlocks,
        gradients: RankGradients,
        encoding: BlockEncoding,
        sink: FrameSink,
        settings: StagingSettings,
    ) -> None:
        self.num_restaged = 0
        """Steps whose early frames were wrong and were sent again."""
        self._own = own
        self._gradients = gradients
        self._encoding = encoding
        self._sink = sink
        self._settings = settings
        self._early = settings.early
        self._accepting = False
        self._early_factor: Callable[[], float] = _one
        self._pool = ThreadPoolExecutor(settings.num_threads, thread_name_prefix="pushpull-encode")
        self._local = threading.local()
        self._bundles: list[tuple[int, Bundle]] = []
        self._lock = threading.Lock()
        self._step = 0
        self._seed = 0
        self._attempt = FIRST_ATTEMPT
        self._factor: float | None = None
        self._records: dict[int, Record] = {}
        self._num_backwards: dict[int, int] = {}
        self._squares = np.zeros(len(own.plan.blocks), np.float64)
        self._checksums: dict[int, int] = {}
        """By block: of what was encoded early in the open step."""

    def scale_early_by(self, factor: Callable[[], float]) -> None:
        """What gradients that are sent early are multiplied by; asked once a step, from the encoder's threads."""
        self._early_factor = factor

    def open(self, step: int, seed: int) -> None:
        """A step begins: gradients may come. Opened a second time, it goes on under a higher attempt."""
        self._attempt = self._attempt + 1 if step == self._step else FIRST_ATTEMPT
        self._records, self._num_backwards, self._checksums = {}, {}, {}
        self._step, self._seed, self._factor = step, seed, None
        self._accepting = self._early

    def suspend(self) -> None:
        """Takes no gradients until the next `open` or `resume`; what was sent of the open step is dropped."""
        self._accepting = False
        self.abandon()

    def resume(self) -> None:
        """Takes gradients of the open step again. Those that came before go out in `finish`."""
        self._accepting = self._early

    def on_gradient(self, entry: int, gradient: torch.Tensor | None) -> None:
        """Autograd has accumulated into this gradient."""
        if not self._accepting or gradient is None or not self._gradients.lies_as_parameter(entry, gradient):
            return
        count = self._num_backwards[entry] = self._num_backwards.get(entry, 0) + 1
        if count == self._settings.accumulate:
            self._records[entry] = self._submit(entry, gradient, None)

    def finish(self, gradients: Mapping[int, torch.Tensor], factor: float, unchanged: bool = True) -> StagedStep:
        """Sends what was not sent early, or everything again where early frames are not these gradients times `factor`.

        `gradients` by plan entry. `unchanged` false says that gradients were changed.

        Raises:
            NonFiniteError: names the parameter; nothing of the step may be committed.
        """
        verified = not self._records or self._verified(gradients, factor, unchanged)
        if not self._gradients.agree(verified):
            self._stop_early(warn=not verified)
            self.abandon()
        self._factor = factor
        for entry, gradient in gradients.items():
            if entry not in self._records:
                self._records[entry] = self._submit(entry, gradient, factor)
        self._collect()
        for shard, bundle in self._bundles:
            self._flush(shard, bundle)
        blocks = [block.id for entry in gradients for block in self._own.blocks_of_entry[entry]]
        squares = float(self._squares[sorted(blocks)].sum()) if self._settings.measure_norm else 0.0
        return StagedStep(self._attempt, frozenset(gradients), squares)

    def abandon(self) -> int:
        """Drops what was sent of the open step; returns the attempt that holds from now on."""
        for record in self._records.values():
            for task in record.tasks:
                task.cancel()
                if not task.cancelled():
                    task.exception()
        if self._records:
            self._records, self._checksums = {}, {}
            self._attempt += 1
            for _, bundle in self._bundles:
                bundle.clear()
            self._sink.restart()
        return self._attempt

    def settled(self) -> None:
        """The open step has an outcome, or never will: forgets its gradients."""
        self._accepting = False
        self._records = {}

    def close(self) -> None:
        """Ends the pool."""
        self._accepting = False
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _verified(self, gradients: Mapping[int, torch.Tensor], factor: float, unchanged: bool) -> bool:
        same = all(record.still_is(gradients.get(entry)) for entry, record in self._records.items())
        return unchanged and same and self._factor_used() == factor and self._memory_is_as_encoded()

    def _memory_is_as_encoded(self) -> bool:
        """Whether the gradients' memory has the bits that were encoded early. Looks as late as can be: in `step()`."""
        for record in self._records.values():
            for task in record.tasks:
                task.exception()
        pieces = [
            _Piece(local, blocks, _written(local))
            for entry, record in self._records.items()
            for local in [self._gradients.local(entry, record.gradient)]
            for blocks in portions(self._own.blocks_of_entry[entry], TASK_ELEMENTS)
        ]
        looks = [self._pool.submit(self._are_as_encoded, batch) for batch in _batches(pieces)]
        return all(look.result() for look in looks)

    def _are_as_encoded(self, pieces: Sequence["_Piece"]) -> bool:
        return all(map(self._is_as_encoded, pieces))

    def _is_as_encoded(self, piece: "_Piece") -> bool:
        with self._encoding.after(piece.ready, piece.gradient):
            # A block without a checksum comes behind one that could not be encoded: that is what `finish` raises.
            return all(
                self._encoding.checksum(values) == self._checksums[block.id]
                for block, values in self._encoding.blocks(piece.gradient, piece.blocks)
                if block.id in self._checksums
            )

    def _stop_early(self, warn: bool) -> None:
        self.num_restaged += 1
        self._early = self._accepting = False
        if not warn:
            return
        logger.warning(
            "gradients changed between backward and optimizer.step(), so they were sent again, and from now on they are sent "
            "in step() only; worker.optimizer(..., clip_norm=..., accumulate=...) and optimizer.attach_scaler(scaler) keep "
            "sending early"
        )

    def _submit(self, entry: int, gradient: torch.Tensor, factor: float | None) -> Record:
        record = Record(gradient, versions_of(gradient))
        local = self._gradients.local(entry, gradient)
        ready = _written(local)
        for blocks in portions(self._own.blocks_of_entry[entry], TASK_ELEMENTS):
            record.tasks.append(self._pool.submit(self._encode, local, blocks, factor, ready))
        return record

    def _encode(
        self,
        gradient: torch.Tensor,
        blocks: list[PlanBlock],
        factor: float | None,
        ready: "torch.cuda.Event | None",
    ) -> None:
        early = factor is None
        factor_used = np.float32(self._factor_used() if factor is None else factor)
        with self._encoding.after(ready, gradient):
            for block, raw in self._encoding.blocks(gradient, blocks):
                if early:
                    # Ahead of encoding: what is written in between then differs from what was noted, and is noticed.
                    self._checksums[block.id] = self._encoding.checksum(raw)
                values = times(raw, factor_used)
                bundle, bound = self._bundle_for(block.shard), self._encoding.bounds[block.id]
                if not bundle.fits(bound):
                    self._flush(block.shard, bundle)
                room = bundle.room()[:bound]
                bundle.add(block.id, self._encoding.encode(block.id, values, room, self._seed))
                if self._settings.measure_norm:
                    self._squares[block.id] = self._encoding.squares(values)

    def _collect(self) -> None:
        """Waits for every task; the first failure by plan order is raised."""
        failed: tuple[int, BaseException] | None = None
        for entry in sorted(self._records):
            for task in self._records[entry].tasks:
                error = task.exception()
                if error is not None and failed is None:
                    failed = entry, error
        if failed is None:
            return
        entry, error = failed
        if isinstance(error, NonFiniteError):
            raise NonFiniteError(
                f"the gradient of parameter {self._own.entries[entry].name} is not finite: {error}; lower the learning rate, "
                "or use torch.amp.GradScaler with fp16"
            ) from error
        raise error

    def _factor_used(self) -> float:
        """The factor of this step's gradients. Frames that go out early and those of `finish` share it."""
        with self._lock:
            if self._factor is None:
                self._factor = self._early_factor()
            return self._factor

    def _bundle_for(self, shard: int) -> Bundle:
        own: dict[int, Bundle] | None = getattr(self._local, "bundles", None)
        if own is None:
            own = self._local.bundles = {}
        if shard not in own:
            largest = max(self._encoding.bounds[block] for block in self._own.blocks_of_shard[shard])
            own[shard] = Bundle(max(self._settings.message_bytes, largest))
            with self._lock:
                self._bundles.append((shard, own[shard]))
        return own[shard]

    def _flush(self, shard: int, bundle: Bundle) -> None:
        if not bundle.empty:
            got = bundle.take()
            self._sink.send(shard, frames_message(self._step, self._attempt, got.blocks, got.lengths, got.payload))


def _batches(pieces: Iterable[_Piece]) -> list[list[_Piece]]:
    """Pieces that are looked at one after the other: a task costs more than looking at a small one."""
    batches: list[list[_Piece]] = []
    room = 0
    for piece in pieces:
        size = sum(block.num_elements for block in piece.blocks)
        if size > room:
            batches.append([])
            room = TASK_ELEMENTS
        batches[-1].append(piece)
        room -= size
    return batches


def _written(gradient: torch.Tensor) -> "torch.cuda.Event | None":
    """Happens when everything that was asked of the gradient's device so far is done."""
    return torch.cuda.current_stream(gradient.device).record_event() if gradient.is_cuda else None


def _one() -> float:
    return 1.0
