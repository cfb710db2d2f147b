"""Job settings to and from their message on the wire."""

from collections.abc import Sequence

from ..protos.common_pb2 import CodecOverride, JobSpecification, TensorSplit
from ..protos.status_terms import NAME_OF_MODE
from .config import JobSettings

MODE_OF_NAME = {name: mode for mode, name in NAME_OF_MODE.items()}


def job_message(settings: JobSettings, job_id: str, shard_addresses: Sequence[str]) -> JobSpecification:
    """What workers and other shards are told."""
    return JobSpecification(
        job_id=job_id,
        name=settings.name,
        mode=MODE_OF_NAME[settings.mode],
        staleness_bound=settings.staleness_bound,
        quorum=settings.quorum or 0,
        damping=settings.damping,
        push_codec=settings.push_codec,
        push_overrides=[CodecOverride(pattern=pattern, codec=codec) for pattern, codec in settings.push_overrides],
        pull_codec=settings.pull_codec,
        average_buffers=settings.average_buffers,
        optimizer_state=settings.optimizer_state,
        layouts=settings.layouts,
        tensor_splits=[TensorSplit(pattern=pattern, dimension=axis) for pattern, axis in settings.tensor_splits],
        block_elements=settings.block_elements or 0,
        lease_seconds=settings.lease_seconds,
        num_shards=len(shard_addresses),
        shard_addresses=shard_addresses,
        expected_workers=settings.expected_workers,
        server_patience_seconds=settings.server_patience_seconds,
        seed=settings.seed,
        message_bytes=settings.message_bytes,
    )


def settings_of(job: JobSpecification) -> JobSettings:
    """The settings a shard needs, from the registrar's message; what only the registrar needs keeps its default."""
    return JobSettings(
        name=job.name,
        mode=NAME_OF_MODE[job.mode],
        staleness_bound=job.staleness_bound,
        quorum=job.quorum or None,
        damping=job.damping,
        push_codec=job.push_codec,
        push_overrides=tuple((override.pattern, override.codec) for override in job.push_overrides),
        pull_codec=job.pull_codec,
        average_buffers=job.average_buffers,
        optimizer_state=job.optimizer_state or JobSettings.optimizer_state,
        layouts=tuple(job.layouts),
        tensor_splits=tuple((split.pattern, split.dimension) for split in job.tensor_splits),
        block_elements=job.block_elements or None,
        lease_seconds=job.lease_seconds,
        expected_workers=job.expected_workers,
        server_patience_seconds=job.server_patience_seconds,
        seed=job.seed,
        message_bytes=job.message_bytes,
    )
