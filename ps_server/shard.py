"""One shard once its plan is known: the core objects together, and what needs arithmetic outside the lock."""

from collections.abc import Callable, Sequence

from ..compression.frame import Frame, parse_frame
from ..compression.parameter_encoders import parse_parameter_encoders
from ..compression.spec import parse_codec
from ..compression.warm_up import warm_up
from ..protos.common_pb2 import JobSpecification
from ..protos.errors import FrameError, PlanMismatchError, StepError, UnknownBlockError, WrongJobError
from ..protos.registrar_pb2 import Initialise, Initialised, InstallPlan, PlanInstalled, ShardReport
from ..protos.shard_pb2 import Hello, MastersRequest, RecordedRequest, RecordedResponse
from . import message_parts
from .blocks import BlockStore
from .consistency import policy_for
from .frame_bounds import FrameBounds
from .initial_file import InitialFile
from .initialisation import NOBODY
from .job import settings_of
from .layerwise_apply import applier_for
from .norms import norms_for
from .publication import publisher_for
from .replacing import ReplacingApplier
from .session import SessionLimits
from .shard_readings import BlockFigures
from .shard_state import ShardState
from .steps import StagedFrame

BUNDLE_ELEMENTS = 1 << 20


class Shard:
    """Blocks, bookkeeping and publication of one shard, made from the registrar's order to install a plan."""

    def __init__(self, number: int, order: InstallPlan, file: InitialFile | None = None) -> None:
        self._plan = order.plan
        self._file = file
        settings = settings_of(order.job)
        policy = policy_for(settings)
        self.job: JobSpecification = order.job
        self.fingerprint = order.plan.fingerprint
        self.number = number
        self.store = BlockStore(order.plan, order.optimizer, number, BUNDLE_ELEMENTS, settings.optimizer_state)
        self.norms = norms_for(self.store.optimizer, policy, order.plan, number)
        self._bounds = FrameBounds(settings, order.plan, self.store.blocks)
        self.state = ShardState(number, policy, self.store, self.norms, self._bounds.most_value_bytes)
        self.publisher = publisher_for(settings, self.store)
        gradients = applier_for(self.store, policy, self.publisher, self.norms)
        self.applier = ReplacingApplier(gradients, self.store, self.publisher)
        self.initialised: set[int] = set()
        """Blocks that hold the open grant's initial values."""
        pushed = parse_parameter_encoders(settings.push_codec, settings.push_overrides).all
        for codec in {*(encoder.codec for encoder in pushed), *map(parse_codec, ("fp32", settings.pull_codec))}:
            warm_up(codec)
        message_parts.warm_up()

    def figures(self) -> BlockFigures:
        """For Prometheus. The engine's lock is held."""
        return BlockFigures(
            trained=self.state.ready,
            diverged=self.state.diverged is not None,
            round=self.state.round,
            num_blocks=len(self.store.blocks),
            parameter_bytes=self.store.parameter_bytes,
            optimizer_state_bytes=self.store.optimizer_state_bytes,
            staged_bytes=self.state.staged_bytes,
            version_spread=self.store.version_spread,
            num_queued_jobs=self.state.num_queued_jobs,
            duplicates_dropped=self.state.counters.duplicates_dropped,
        )

    def check_is_meant(self, hello: Hello) -> None:
        """Raises WrongJobError or PlanMismatchError if a rank wants to train something else here."""
        self.check_job(hello.job_id)
        if hello.plan_fingerprint != self.fingerprint:
            raise PlanMismatchError(f"worker {hello.worker_id} has another plan than shard {self.number}; enrol again")

    def recorded(self, request: RecordedRequest) -> RecordedResponse:
        """What became of a step. Raises WrongJobError, and StepError for one that cannot be under way."""
        self.check_job(request.job_id)
        return self.state.recorded(request)

    def check_may_be_saved(self, request: MastersRequest) -> None:
        """Raises WrongJobError or NotReadyError."""
        self.check_job(request.job_id)
        self.state.check_ready()

    def reports_again(self, grant: int) -> list[ShardReport]:
        """What the registrar may have missed while the link was down."""
        reports = [ShardReport(plan_installed=PlanInstalled(fingerprint=self.fingerprint))]
        if len(self.initialised) == len(self.store.blocks) and not self.state.ready:
            reports.append(ShardReport(initialised=Initialised(grant=grant)))
        return [*reports, *self.state.reports_again()]

    def check_job(self, job_id: str) -> None:
        """Raises WrongJobError for another one."""
        if job_id != self.job.job_id:
            raise WrongJobError(f"shard {self.number} serves job {self.job.job_id}, not {job_id}")

    @property
    def limits(self) -> SessionLimits:
        """A worker that reads what it asks for stays far inside them."""
        return SessionLimits(num_blocks=len(self.store.blocks), most_queued=64 + 4 * len(self.store.bundles))

    def parse(
        self, blocks: Sequence[int], lengths: Sequence[int], payload: memoryview | bytes
    ) -> dict[int, StagedFrame]:
        """Validates the gradients of one message, none larger than the job's codec makes them.

        Raises:
            FrameError, NonFiniteError, UnknownBlockError: names the block and its parameter.
        """
        return self._parse(blocks, lengths, payload, self._bounds.check_pushed)

    def parse_values(
        self, blocks: Sequence[int], lengths: Sequence[int], payload: memoryview | bytes
    ) -> dict[int, StagedFrame]:
        """As `parse`, for values: initial ones, or such that replace others."""
        return self._parse(blocks, lengths, payload, self._bounds.check_initial)

    def _parse(
        self,
        blocks: Sequence[int],
        lengths: Sequence[int],
        payload: memoryview | bytes,
        check_bytes: Callable[[int, int], None],
    ) -> dict[int, StagedFrame]:
        if len(blocks) != len(lengths) or sum(lengths) != len(payload) or len(set(blocks)) != len(blocks):
            raise FrameError(
                f"a message announces {len(blocks)} blocks and {sum(lengths)} bytes, but holds {len(lengths)} lengths and "
                f"{len(payload)} bytes"
            )
        frames: dict[int, StagedFrame] = {}
        view, start = memoryview(payload), 0
        for block_id, length in zip(blocks, lengths, strict=True):
            data = view[start : start + length]
            frames[block_id] = StagedFrame(self._parse_one(block_id, data, check_bytes), data)
            start += length
        return frames

    def take_initial(self, frames: dict[int, StagedFrame]) -> bool:
        """Stores initial values; True when with these every block has its value."""
        complete = len(self.initialised) == len(self.store.blocks)
        for block_id, staged in frames.items():
            block = self.store.blocks[self.store.position_of[block_id]]
            staged.frame.decode_into(self.store.array(block))
            self.initialised.add(block_id)
        return not complete and len(self.initialised) == len(self.store.blocks)

    def note_grant(self, order: Initialise, before: Initialise) -> None:
        """What is in place counts from now on, if `order` says so; what an earlier grant had brought does not."""
        if order.grant != before.grant:
            self.initialised.clear()
        self.state.ready = self.state.ready or order.done

    def initialises_itself(self, order: Initialise) -> bool:
        """Whether no worker has to send anything, because nothing is needed or it is in the file; then it is in place.

        Raises:
            NonFiniteError: a parameter in the file is not finite.
        """
        if order.done or (self.store.blocks and order.incarnation != NOBODY):
            return False
        for owned in self.store.blocks:
            assert self._file is not None, "the registrar links shards with the same file only"
            block, parameter = self._plan.blocks[owned.block_id], self._plan.parameters[owned.parameter_index]
            self.store.array(owned)[:] = self._file.values(parameter, block)
            self.initialised.add(owned.block_id)
        self.publish_all()
        return True

    def publish_all(self) -> None:
        """Makes the initial values the published ones."""
        for bundle in self.store.bundles:
            with bundle.lock:
                self.publisher.publish_initial(bundle)

    def num_elements(self, blocks: Sequence[int]) -> int:
        """Of these blocks together."""
        return sum(self.store.blocks[self.store.position_of[block]].num_elements for block in blocks)

    def _parse_one(self, block_id: int, data: memoryview, check_bytes: Callable[[int, int], None]) -> Frame:
        position = self.store.position_of.get(block_id)
        if position is None:
            raise UnknownBlockError(f"block {block_id} is not on shard {self.number}")
        block = self.store.blocks[position]
        try:
            check_bytes(block_id, data.nbytes)
            return parse_frame(data, block.num_elements, any_bits=block.group < 0)
        except (FrameError, StepError) as error:
            raise type(error)(f"block {block_id} of {block.parameter}: {error}") from None
