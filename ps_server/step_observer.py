"""Where somebody outside may learn how far each step has come on a shard: tracing. The shard itself needs none of it."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .effects import Job
    from .keys import StreamKey


class StepObserver(Protocol):
    """Called from many threads, mostly while the shard's lock is held: it must be quick, and never raise."""

    def frames_came(self, key: "StreamKey", step: int) -> None:
        """A message of frames of this step was admitted."""

    def committed(self, key: "StreamKey", step: int, traceparent: bytes) -> None:
        """A rank's commit came; `traceparent` is what the client sent, unchecked like all of it."""

    def job_began(self, job: "Job") -> None:
        """The steps that this job settles are being applied."""

    def job_ended(self, job: "Job") -> None:
        """They are applied."""

    def publishing(self, key: "StreamKey", step: int) -> None:
        """Values are queued for this rank; may be said several times."""

    def published(self, key: "StreamKey", step: int) -> None:
        """The end of the values behind this step was handed to the transport."""


class NoObserver:
    """Nobody wants to know."""

    def frames_came(self, key: "StreamKey", step: int) -> None: ...

    def committed(self, key: "StreamKey", step: int, traceparent: bytes) -> None: ...

    def job_began(self, job: "Job") -> None: ...

    def job_ended(self, job: "Job") -> None: ...

    def publishing(self, key: "StreamKey", step: int) -> None: ...

    def published(self, key: "StreamKey", step: int) -> None: ...
