"""Who may give a shard its first values. Pure."""

from ..protos.errors import ExpiredError, NotReadyError
from ..protos.registrar_pb2 import Initialise
from ..protos.shard_pb2 import InitialValues
from .keys import StreamKey


def takes_values(shard: int, order: Initialise, ready: bool, key: StreamKey, message: InitialValues) -> bool:
    """Whether initial values are to be taken, by the newest order; False for those that are here already.

    Raises:
        ExpiredError: another worker holds the grant now.
        NotReadyError: the grant is newer than what this shard has heard.
    """
    if (ready or order.done) and key.incarnation == order.incarnation:
        return False  # sent again after a lost connection
    if message.grant > order.grant:
        raise NotReadyError(f"shard {shard} has not heard of grant {message.grant} yet")
    if message.grant != order.grant or key.incarnation != order.incarnation:
        raise ExpiredError("another worker has been given the right to initialise")
    return True
