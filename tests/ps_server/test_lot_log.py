"""What nobody could read is named, once."""

from structlog.testing import capture_logs

from pushpull.protos.registrar_pb2 import DealRequest
from pushpull.ps_server.dealing import DataDealer
from pushpull.ps_server.epochs import MOST_READ_FAILURES
from pushpull.ps_server.lot_log import LotLog


def spoil(dealer: DataDealer, data_set: str) -> None:
    for worker in range(MOST_READ_FAILURES):
        request = DealRequest(worker_id=worker, dataset_size=30, batch_size=10, num_lots=1, data_set=data_set)
        (lot,) = dealer.deal(request, ()).lots
        left = DealRequest(worker_id=worker, data_set=data_set, leave_epoch=True, unreadable=[lot.id])
        dealer.deal(left, ())
        for _ in range(2):  # the others come first, and are read
            for other in dealer.deal(request, ()).lots if worker == 0 else ():
                dealer.done([other.id])


def test_each_lot_that_is_given_up_is_named_once_with_its_data_set_and_positions() -> None:
    dealer, log = DataDealer(in_turns=False), LotLog()
    with capture_logs() as entries:
        log.observe(dealer)
        spoil(dealer, "pictures")
        log.observe(dealer)
        log.observe(dealer)
        spoil(dealer, "sounds")
        log.observe(dealer)
    said = [(entry["event"], entry["data_set"], entry["positions"], entry["could_not_read"]) for entry in entries]
    assert said == [("data given up", name, "0 to 9", MOST_READ_FAILURES) for name in ("pictures", "sounds")]
    assert entries[-1]["samples_given_up"] == 20
