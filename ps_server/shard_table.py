"""Which server process holds which shard, as far as the registrar knows. Pure; the service's lock guards it."""

from dataclasses import dataclass

from ..protos.errors import BadRequestError, NotReadyError, ServerLostError
from ..protos.registrar_pb2 import ShardHello


@dataclass(frozen=True)
class Holder:
    """A server process."""

    address: str
    life: int
    """Random number of the process."""


class ShardTable:
    """The process that linked last for each shard: it alone has the shard's part of the model, once there is one.

    Another process that says it were the shard is believed only if it answers where the shard can be reached.
    """

    def __init__(self, num_shards: int, job_id: str) -> None:
        self._job_id = job_id
        self._holders: list[Holder | None] = [None] * num_shards

    def __len__(self) -> int:
        return len(self._holders)

    def __getitem__(self, shard: int) -> Holder | None:
        return self._holders[shard]

    @property
    def addresses(self) -> list[str]:
        """By shard; empty where none has linked yet."""
        return ["" if holder is None else holder.address for holder in self._holders]

    @property
    def first_missing(self) -> int | None:
        """The first shard that has not linked yet."""
        return next((shard for shard, holder in enumerate(self._holders) if holder is None), None)

    def rival(self, hello: ShardHello) -> Holder | None:
        """The other process that has the shard which this one claims."""
        holder = self._holders[hello.shard] if hello.shard < len(self._holders) else None
        return None if holder is None or holder.life == hello.epoch else holder

    def take(self, hello: ShardHello, linked: bool, agreed: bool, answering: int | None) -> None:
        """Makes a process the shard's holder.

        `linked`: the present holder is; `agreed`: there is a model; `answering`: the life of the process that answers at the
        present holder's address, None if nobody does. All three matter only if there is a `rival`.

        Raises:
            BadRequestError: no such shard, or another process holds it for good.
            NotReadyError: another process held it and may come back.
            ServerLostError: the holder is gone for good, and this process has nothing of the model; or this process has a
                part of another job's model.
        """
        if hello.shard >= len(self._holders):
            raise BadRequestError(f"the job has {len(self._holders)} shards; there is no shard {hello.shard}")
        if hello.has_plan and hello.job_id != self._job_id:
            raise ServerLostError(
                f"shard 0 was started again and serves another job; shard {hello.shard} at {hello.address} holds a part of the "
                "old job's model: start servers and workers again"
            )
        rival = self.rival(hello)
        if rival is not None:
            self._judge(hello, rival, linked, agreed, answering)
        self._holders[hello.shard] = Holder(hello.address, hello.epoch)

    def _judge(self, hello: ShardHello, rival: Holder, linked: bool, agreed: bool, answering: int | None) -> None:
        replaced = answering == hello.epoch
        if answering == rival.life or (linked and not replaced):
            raise BadRequestError(
                f"shard {hello.shard} is held by the server at {rival.address}; stop this one, or give it another --shard"
            )
        if not agreed:
            return
        if replaced:
            raise ServerLostError(f"shard {hello.shard} at {hello.address} came back without its state")
        raise NotReadyError(
            f"shard {hello.shard} is held by the server at {rival.address}, which does not answer but may come back; another "
            "one in its place would have nothing of the model"
        )
