"""What the registrar keeps for shards whose link was down."""

import pytest

from pushpull.protos.errors import BadRequestError
from pushpull.protos.registrar_pb2 import BlockNorms, RegistrarOrder
from pushpull.ps_server.order_log import OrderLog

KILOBYTE = 1 << 10


def filled(num_orders: int, num_bytes: int = 0, **kept: int) -> OrderLog:
    log = OrderLog(**kept)
    for _ in range(num_orders):
        log.add(RegistrarOrder(norms=BlockNorms(weight_squares=[1.0] * (num_bytes // 8))))
    return log


def missed(log: OrderLog, last_sequence: int) -> list[int]:
    return [order.sequence for order in log.after(last_sequence, shard=1)]


def test_a_shard_gets_every_order_that_it_lacks_in_order() -> None:
    log = filled(5)
    assert missed(log, 0) == [1, 2, 3, 4, 5]
    assert missed(log, 3) == [4, 5]
    assert missed(log, 5) == []
    assert missed(filled(0), 0) == []


@pytest.mark.parametrize(
    ("num_bytes", "kept"), [(0, {"orders_kept": 4}), (KILOBYTE, {"bytes_kept": 5 * KILOBYTE})], ids=["number", "bytes"]
)
def test_old_orders_are_forgotten_and_who_needs_them_is_refused(num_bytes: int, kept: dict[str, int]) -> None:
    log = filled(100, num_bytes, **kept)
    assert missed(log, 96) == [97, 98, 99, 100]
    with pytest.raises(BadRequestError, match="shard 1 was away for too many orders"):
        log.after(95, shard=1)


def test_the_newest_order_is_kept_whatever_its_size() -> None:
    assert missed(filled(3, KILOBYTE, bytes_kept=10), 2) == [3]
