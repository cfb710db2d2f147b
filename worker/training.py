"""What a worker does for its job besides the steps that user code takes: it asks for data, takes part in rounds without any,
comes back after a lost lease, and stops counting."""

import logging

from ..protos.common_pb2 import Mode
from ..protos.errors import ExpiredError, SettingError
from ..protos.registrar_pb2 import DealRequest, DealResponse
from .data_ledger import DataLedger
from .local_updates import LocalUpdates
from .membership import Membership
from .optimizer import RemoteOptimizer
from .ranks.group import Ranks
from .replica import Replica
from .share import DataCalls, EarlyLeaving

logger = logging.getLogger(__name__)


class Training:
    """One worker's training, from before its optimizer is made. Every rank makes the same calls in the same order."""

    def __init__(self, membership: Membership, ranks: Ranks, ledger: DataLedger) -> None:
        self.replica: Replica | None = None
        self.optimizer: RemoteOptimizer | LocalUpdates | None = None
        self._membership = membership
        self._ranks = ranks
        self._ledger = ledger
        self._early = EarlyLeaving(at_once=ranks.num_ranks == 1)
        self._num_deals = 0

    def data_calls(self) -> DataCalls:
        """For `worker.share()`."""
        return DataCalls(
            deal=self._deal,
            skip_step=self._skip_step,
            pause=self.stop_counting,
            out_of_data=self._out_of_data,
            epoch_over=self._epoch_over,
            early=self._early,
        )

    def flush(self) -> None:
        """Pushes local progress that is not pushed yet, if there is any."""
        if self.optimizer is not None:
            self.optimizer.flush()

    def stop_counting(self) -> None:
        """Nobody waits for this worker until its next step. Data that user code does not have yet go back."""
        self._early.catch_up()
        self.flush()
        if self.replica is not None:
            self.replica.suspend()
        held, next_deal = self._ledger.held, self._num_deals + 1
        try:
            self._ranks.from_first(lambda: self._membership.registrar.pause(held, next_deal))
        except ExpiredError:
            logger.info("paused after the lease ran out")
        self._ledger.forget_unused()

    def end(self) -> None:
        """Takes hooks off the model, and ends streams and threads."""
        if self.optimizer is not None:
            self.optimizer.detach()
        if self.replica is not None:
            self.replica.close()

    def _deal(self, request: DealRequest) -> DealResponse:
        """One rank asks, all get the same lots. The number tells a repetition from another request."""
        registrar = self._membership.registrar
        self._num_deals += 1
        request.number = self._num_deals
        try:
            return self._ranks.from_first(lambda: registrar.deal(request))
        except ExpiredError:
            if request.leave_epoch:
                raise
            self._come_back()
            return self._ranks.from_first(lambda: registrar.deal(request))

    def _come_back(self) -> None:
        """The lease ran out while user code was busy: everything dealt before is somebody else's now."""
        if self.optimizer is None:
            self._ledger.forget_dealt()
            self._membership.rejoin()
        else:
            self.optimizer.rejoin()

    def _skip_step(self) -> bool:
        if self.optimizer is None:
            raise SettingError("worker.optimizer(model, ...) must come before the loop over worker.share(...)")
        return self.optimizer.skip_step()

    def _epoch_over(self) -> None:
        """It is over for everybody, whose next round is one of means."""
        self._out_of_data()
        if self._membership.job.average_buffers and self.optimizer is not None:
            self.optimizer.average(always=False)

    def _out_of_data(self) -> None:
        self.flush()
        # Nobody else's round waits for this worker, which takes part in rounds: with bounded staleness its clock would.
        if self._membership.job.mode == Mode.MODE_BOUNDED:
            self.stop_counting()
