"""The worker that a training script holds."""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..protos.common_pb2 import JobSpecification, Mode
from ..protos.errors import SettingError
from ..protos.metrics_endpoint import MetricsEndpoint
from . import gpu_readings
from .assembly import GivenModel, Seat, start_replica
from .config import WorkerConfig
from .data_ledger import DataLedger
from .departure import Departure
from .ending import EndOnSigterm, failure_text
from .expectations import check_expectations
from .full_state import SavesFullState, full_state_of
from .gpu_readings import GpuReadings
from .identity import Identity, assume
from .learning_rate import LearningRateFactor, LearningRateScaling
from .local_updates import LocalUpdates, OuterSettings
from .membership import Membership
from .metrics import WorkerMetrics
from .open_workers import HERE
from .optimizer import RemoteOptimizer
from .optimizer_values import check_supported
from .progress_log import ProgressLog
from .ranks.grad_scaler import RankGradScaler
from .ranks.start import layout_mesh, layout_with, open_ranks
from .readings import FAMILIES, WorkerReadings, while_it_lives
from .recorded_steps import OptimizerParts
from .recorder import Recorder
from .registrar_client import RegistrarClient, WantedJob
from .replica_settings import ReplicaSettings, num_usable_encoder_threads
from .shared_data import SharedData, SharedDataSets, Sharing, loader_of
from .tracing import step_tracer
from .training import Training
from .user_numbers import count_of, number_of, positive_number_of

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

logger = logging.getLogger(__name__)

Params = Iterable[torch.Tensor] | Iterable[dict[str, Any]]


class Worker(SavesFullState):
    """One data-parallel replica in a job. Use it in a `with` block: leaving the block leaves the job. SIGTERM does, too,
    at once: it raises SystemExit in the main thread, and the process ends within seconds (see `EndOnSigterm`).

    Of a worker of several ranks every process has one, and all of them make the same calls in the same order.
    """

    def __init__(self, config: WorkerConfig, expected: Mapping[str, object]) -> None:
        self._metrics = WorkerMetrics(config.rank)
        self.servers = config.servers
        """host:port of each, as they were given to `connect()`."""
        listen = config.metrics_listen
        self._endpoint = MetricsEndpoint(listen, self._metrics.shown, "metrics_listen") if listen else None
        self._ledger = DataLedger()
        self._sigterm = EndOnSigterm()
        self._sigterm.install()
        try:
            self._ranks = open_ranks(config)
        except BaseException:
            self._sigterm.remove()
            if self._endpoint is not None:
                self._endpoint.close()
            raise
        self._registrar = RegistrarClient(
            config.servers[0], config.patience_seconds, "patience_seconds", self._ranks.rank
        )
        self._departure = Departure(self._ranks, self._registrar, self._sigterm, self._endpoint)
        identity = Identity(self._registrar)
        assume(identity)
        tracer = step_tracer(identity)
        # Nothing that threads hold may refer to this object: that it is not used any more would go unnoticed.
        progress_log = ProgressLog(identity, lambda: recorder.report())
        recorder = self._recorder = Recorder(self._metrics, tracer, progress_log, begin=tracer.begin)
        try:
            named = "" if config.layout is None else config.layout.spec
            wanted = WantedJob(config.job_name, config.resume)
            self._membership = Membership(
                self._registrar, config.worker_id, self._ranks, named, self._recorder.report, wanted
            )
            self._departure.membership = self._membership
            self._sigterm.leave = self._membership.leave_at_once
            self._training = Training(self._membership, self._ranks, self._ledger)
            identity.job = self._membership.job.job_id
        except BaseException as error:
            self._departure.leave(failure_text(error), orderly=False)
            raise
        try:
            check_expectations(self._membership.job, expected)
            self.layout = config.layout or layout_with(config.num_ranks, self._membership.job.layouts)
            """How the ranks of this worker split the model."""
            self._data_sets = SharedDataSets(self._sharing())
            self._show()
            self._departure.attend(self)
            HERE.add(self)
            logger.info("worker %d has joined the job at %s", self.id, self._registrar.address)
        except BaseException as error:
            self._close(failure_text(error), orderly=False)
            raise

    @property
    def id(self) -> int:
        """A small integer that stays the same over restarts of this worker."""
        return self._membership.worker_id

    @property
    def is_first(self) -> bool:
        """Whether this worker is the one that saves and prints for all. At any moment one at most is; when it ends, another
        one becomes it within a second, or `lease_seconds` after it has vanished. False before `optimizer()`. The ranks of a
        worker agree on it in every step.
        """
        return self._membership.is_first

    @property
    def num_workers(self) -> int:
        """Workers in the job at this moment, as far as this one knows."""
        return max(1, self._membership.num_workers)

    @property
    def rank(self) -> int:
        """This process's number in its worker, from 0."""
        return self._ranks.rank

    @property
    def num_ranks(self) -> int:
        """Processes of this worker."""
        return self._ranks.num_ranks

    @property
    def batch_weight(self) -> float:
        """What the mean loss over this rank's part of the newest batch must be multiplied by.

        Ranks that see different data average their gradients, which is the batch's mean only if their parts are equal. So
        this is 1, but for batches that do not divide evenly.
        """
        return self._ledger.batch_weight

    @cached_property
    def mesh(self) -> "DeviceMesh | None":
        """The ranks as a mesh with the dimensions pp, dp, fsdp and tp; those that the layout does not use have size 1.

        None for a worker of one process. Every rank asks for it together.
        """
        return None if self.num_ranks == 1 else layout_mesh(self.layout)

    @property
    def job(self) -> JobSpecification:
        """The job's settings."""
        return self._membership.job

    @property
    def clock(self) -> int:
        """The job's clock when this worker came in, or came back: what schedulers are advanced to. 0 before `optimizer()`."""
        replica = self._training.replica
        return 0 if replica is None else replica.clock

    @property
    def metrics_address(self) -> str | None:
        """host:port of the Prometheus endpoint, if there is one."""
        return None if self._endpoint is None else self._endpoint.address

    def optimizer(
        self,
        model: torch.nn.Module | Sequence[torch.nn.Module],
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
        *,
        params: Params | None = None,
        whole: torch.nn.Module | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        lr_scaling: LearningRateScaling | None = None,
        encode_on_device: bool = False,
        on_demand: Sequence[str] = (),
        **kwargs: Any,
    ) -> RemoteOptimizer:
        """Replaces `optimizer_class(model.parameters(), **kwargs)`; the servers run it.

        The first worker's model initialises the servers; every model holds the servers' values on return.

        Args:
            model: all workers of a job must build the same one. Ranks that split it pass what they hold of it (several modules
                if they have several pipeline stages), split already.
            optimizer_class: SGD, Adam, AdamW, Adagrad or RMSprop of torch.optim.
            params: parameters or parameter groups, as torch takes them; default: all of the model.
            whole: the model before it was split, for ranks that hold only some of its parameters (pipelines, experts). Its
                values do not matter: it may be on the meta device.
            accumulate: backward passes that make one step.
            clip_norm: largest norm of this worker's gradient over all parameters (of all ranks).
            lr_scaling: makes learning rates follow the size of the joint batch; synchronous mode only.
            encode_on_device: encode gradients where they lie (CUDA: Triton kernels), so that only frames are copied to
                the host. The same bytes; not yet tried on a GPU, so not the default.
            on_demand: patterns of names of parameters whose values do not come after every step, but with `optimizer.fetch()`:
                experts, say. They need not be the same on every worker.
            kwargs: the optimizer's own.

        Raises:
            SettingError: a model or optimizer that cannot be trained this way.
            PlanMismatchError, OptimizerMismatchError: other workers have another; names the first difference.
        """
        if lr_scaling is not None and self.job.mode != Mode.MODE_SYNC:
            raise SettingError(
                "lr_scaling follows the joint batch of a synchronous round; without rounds every worker's batch is an update "
                "of its own, whatever the number of workers: leave it out, or use mode=sync"
            )
        check_supported(optimizer_class)
        # torch's own constructor judges the arguments and fills in the defaults.
        given = GivenModel.of(model, whole)
        template = optimizer_class(given.parameters() if params is None else params, **kwargs)
        settings = ReplicaSettings(
            accumulate=count_of("accumulate", accumulate, 1),
            clip_norm=None if clip_norm is None else positive_number_of("clip_norm", clip_norm),
            num_encoder_threads=num_usable_encoder_threads(),
            encode_on_device=encode_on_device,
            on_demand=tuple(on_demand),
        )
        parts = self._start(given, template, settings)
        factor = None if lr_scaling is None else LearningRateFactor(lr_scaling)
        optimizer = RemoteOptimizer(template.param_groups, template.defaults, parts, factor)
        self._training.optimizer = optimizer
        return optimizer

    def local_updates(
        self,
        model: torch.nn.Module | Sequence[torch.nn.Module],
        optimizer: torch.optim.Optimizer,
        *,
        every: int,
        whole: torch.nn.Module | None = None,
        outer_lr: float = 0.7,
        outer_momentum: float = 0.5,
        encode_on_device: bool = False,
    ) -> LocalUpdates:
        """Local SGD, DiLoCo: `every` steps of a local optimizer, then one push of how far they led.

        The servers take (value last pulled - local value) for the gradient of SGD with Nesterov momentum. Rounds and clocks
        count pushes. The first worker's model initialises the servers; every model holds their values on return.

        Args:
            model: as for `optimizer`, like `whole`.
            optimizer: any torch optimizer over parameters of the model; its state stays on this worker.
            every: local steps between two pushes.
            outer_lr: learning rate of the servers; 1 with outer_momentum=0 averages the workers' values.
            outer_momentum: of the servers; 0: none. DiLoCo's 0.9 is for hundreds of pushes and more (docs/local-updates.md).
            encode_on_device: as for `optimizer`.

        Raises:
            SettingError: a model or settings that cannot be trained this way.
            PlanMismatchError, OptimizerMismatchError: other workers have another; names the first difference.
        """
        settings = OuterSettings(every=every, learning_rate=outer_lr, momentum=outer_momentum)
        outer = settings.optimizer(optimizer)
        replica_settings = ReplicaSettings(
            num_encoder_threads=num_usable_encoder_threads(), early=False, encode_on_device=encode_on_device
        )
        parts = self._start(GivenModel.of(model, whole), outer, replica_settings)
        local_updates = LocalUpdates(optimizer, outer, settings, parts)
        self._training.optimizer = local_updates
        return local_updates

    def grad_scaler(self, device: str = "cuda", **settings: Any) -> torch.amp.GradScaler:
        """A loss scaler for fp16: torch's own, or with several ranks one on whose verdict all of them agree.

        `settings` are those of torch.amp.GradScaler. Every rank makes one, also a pipeline stage that computes no loss.
        """
        if self.num_ranks == 1:
            return torch.amp.GradScaler(device, **settings)
        return RankGradScaler(self._ranks, device, **settings)

    def share(
        self,
        data: "DataLoader[Any] | Dataset[Any]",
        *,
        batch_size: int | None = None,
        shuffle: bool = True,
        name: str | None = None,
        start_epoch: int = 0,
    ) -> SharedData:
        """Data divided between the workers: each loop over what this gives is one epoch of this worker's batches. Make it once
        and loop often, or call this for every epoch: it comes to the same.

        Args:
            data: the same on every worker, like the order in which a script shares several.
            batch_size: per worker, as with DistributedDataParallel; like `shuffle` for data sets: a DataLoader has its own.
            name: for workers that do not share the same data in the same order.
            start_epoch: what a script that resumes begins with.

        Ranks that see different data (fsdp, dp) get their part of the worker's batch, the others all of it. docs/data.md says
        what is divided how, and what counts.

        Raises:
            SettingError: data that cannot be divided exactly; says why, and what to do.
        """
        loader = loader_of(data, batch_size, shuffle)
        if self.num_ranks > 1 and isinstance(loader.dataset, IterableDataset):
            raise SettingError(
                "worker.share() cannot divide an IterableDataset between ranks: it needs one with a length"
            )
        return self._data_sets.share(loader, name, start_epoch)

    def log(self, **metrics: Any) -> None:
        """Reports numbers (or tensors of one element) for the job's display and summary; `loss` also to Prometheus."""
        values = {name: number_of(f"worker.log({name}=...)", value) for name, value in metrics.items()}
        self._recorder.log(values)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Nobody waits for this worker inside the block: for long evaluation or saving. The next step counts again."""
        self._training.stop_counting()
        yield

    def close(self, failure: str = "", *, finished: bool = True) -> None:
        """Leaves the job; `failure` says what went wrong, if anything. The run ends with the last worker that `finished`."""
        self._close(failure, orderly=not failure, finished=finished)

    def _close(self, failure: str, orderly: bool, finished: bool = True) -> None:
        """Not orderly: the other ranks may be in the middle of something, and are not waited for."""
        if self._departure.is_over:
            return
        HERE.discard(self)
        self._training.end()
        self._departure.leave(failure, orderly, finished)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave_block(error)
        except BaseException:
            if not self._sigterm.requested:
                raise
        if self._sigterm.requested:
            self._membership.leave_at_once()  # the process must not end before
            raise SystemExit(self._sigterm.exit_status) from error

    def _leave_block(self, error: BaseException | None) -> None:
        if self._sigterm.requested:
            self._membership.leave_at_once()  # it is under way, by the channel that is closed then
            return self._close(failure="", orderly=False)
        lost = None if error is None else self._ranks.loss_behind(error)
        try:
            if error is None:
                self._training.flush()
        except BaseException as failure:
            error = failure
            raise
        finally:
            self._close(failure_text(lost or error), orderly=error is None)
        if lost is not None:
            raise lost from error
        return None

    # ---- inside ----

    def _start(self, model: GivenModel, template: torch.optim.Optimizer, settings: ReplicaSettings) -> OptimizerParts:
        """Enrols with a model and with what the servers run on it; the servers' values are in the model then."""
        if self._training.replica is not None:
            raise SettingError("this worker has one already; a job has one optimizer (give it all parameter groups)")
        seat = Seat(self._membership, self._ranks, self.layout)
        HERE.let_abandoned_leave()
        table, replica = start_replica(model, template, settings, seat)
        self._training.replica = self._departure.replica = replica
        self._full_state = full_state_of(model, table, template, replica, seat)
        return OptimizerParts(
            table,
            replica,
            self._ledger,
            self._recorder,
            lambda: self._ranks.from_first(lambda: self.num_workers),
        )

    def _sharing(self) -> Sharing:
        return Sharing(
            calls=self._training.data_calls(),
            ledger=self._ledger,
            seed=self.job.seed,
            part=(self.layout.data_rank(self.rank), self.layout.num_data_ranks),
            num_workers=lambda: self.num_workers,
        )

    def _show(self) -> None:
        """What Prometheus is shown of a worker that has joined."""
        self._metrics.identify(self.job.job_id, self.id)
        self._readings = WorkerReadings(self._membership, self._training, self._ledger, self._recorder, self.layout)
        self._metrics.watch(FAMILIES, while_it_lives(self._readings))
        self._metrics.watch(gpu_readings.FAMILIES, GpuReadings().read)
