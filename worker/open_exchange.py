"""What a worker and one shard are in the middle of. Pure: the stream that carries it may be lost and opened again.

Messages stay here, as the bytes that were sent, until the answer is complete.
"""

from dataclasses import dataclass, field

from ..protos.shard_pb2 import Outcome, PullDone


@dataclass
class OpenStep:
    """One step on one shard. Complete when both its outcome and the end of the values are here."""

    step: int
    frames: list[bytes] = field(default_factory=list)
    """Messages of the current attempt."""
    commit: bytes | None = None
    outcome: Outcome | None = None
    pull_done: PullDone | None = None

    @property
    def done(self) -> bool:
        return self.outcome is not None and self.pull_done is not None

    def restart(self) -> None:
        """A higher attempt begins: what was sent under the lower one is not sent again."""
        assert self.commit is None
        self.frames.clear()

    def messages(self, last_step: int) -> list[bytes]:
        """What to send on a new stream; `last_step` is the newest step whose outcome the shard has recorded."""
        if self.done:
            return []
        commit = [] if self.commit is None else [self.commit]
        settled = self.commit is not None and last_step >= self.step
        return commit if settled else [*self.frames, *commit]

    def take_outcome(self, outcome: Outcome) -> None:
        """The first answer counts; a repetition of it, or of an earlier step's, changes nothing."""
        if outcome.step == self.step and self.outcome is None:
            self.outcome = outcome

    def take_pull_done(self, done: PullDone) -> None:
        """The end of the values behind a step counts only for that step."""
        if done.step == self.step and self.pull_done is None:
            self.pull_done = done


@dataclass
class OpenPull:
    """A pull outside a step."""

    request: int
    message: bytes
    pull_done: PullDone | None = None

    @property
    def done(self) -> bool:
        return self.pull_done is not None

    def messages(self, last_step: int) -> list[bytes]:
        return [] if self.done else [self.message]

    def take_outcome(self, outcome: Outcome) -> None:
        """An outcome told again; it is not what was asked for."""

    def take_pull_done(self, done: PullDone) -> None:
        if done.step == 0 and done.request == self.request and self.pull_done is None:
            self.pull_done = done


@dataclass
class OpenUpload:
    """Initial values of one shard's blocks. The registrar, not the shard, says when they are complete."""

    frames: list[bytes] = field(default_factory=list)
    done: bool = False

    def messages(self, last_step: int) -> list[bytes]:
        return list(self.frames)

    def take_outcome(self, outcome: Outcome) -> None:
        """Nothing was committed."""

    def take_pull_done(self, done: PullDone) -> None:
        """Nothing was pulled."""


OpenExchange = OpenStep | OpenPull | OpenUpload
