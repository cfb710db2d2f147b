"""The registrar's newest orders, for shards whose link was down for a moment. Not thread-safe: the service's lock guards it."""

from collections import deque
from collections.abc import Iterator

from ..protos.errors import BadRequestError
from ..protos.registrar_pb2 import RegistrarOrder

ORDERS_KEPT = 4096
BYTES_KEPT = 64 << 20
"""With LARS and LAMB every step brings orders of about 20 bytes for each block of the model."""


class OrderLog:
    """Numbers orders, ascending by one, and keeps the last of them: a bounded number, of bounded size together."""

    def __init__(self, orders_kept: int = ORDERS_KEPT, bytes_kept: int = BYTES_KEPT) -> None:
        self._orders_kept = orders_kept
        self._bytes_kept = bytes_kept
        self._sequence = 0
        self._orders: deque[tuple[RegistrarOrder, int]] = deque()
        self._num_bytes = 0

    def add(self, order: RegistrarOrder) -> None:
        """Gives the order its number and keeps it; the newest one is kept whatever its size."""
        self._sequence += 1
        order.sequence = self._sequence
        self._orders.append((order, order.ByteSize()))
        self._num_bytes += self._orders[-1][1]
        while len(self._orders) > 1 and (len(self._orders) > self._orders_kept or self._num_bytes > self._bytes_kept):
            self._num_bytes -= self._orders.popleft()[1]

    def after(self, sequence: int, shard: int) -> Iterator[RegistrarOrder]:
        """What a shard that has all orders up to this number lacks.

        Raises:
            BadRequestError: some of it is forgotten already.
        """
        if self._orders and sequence + 1 < self._orders[0][0].sequence:
            raise BadRequestError(f"shard {shard} was away for too many orders")
        return (order for order, _ in list(self._orders) if order.sequence > sequence)
