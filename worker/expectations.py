"""Settings given to `connect()`: the job owns them, so they are compared with the job's, never set."""

import difflib
from collections.abc import Mapping

from ..compression.encoder_spec import parse_encoder, parse_pull_codec
from ..protos.common_pb2 import JobSpecification
from ..protos.errors import SettingError, UnknownKeyError
from ..protos.status_terms import NAME_OF_MODE


def job_values(job: JobSpecification) -> dict[str, object]:
    """The job's settings by their names in a job file."""
    return {
        "name": job.name or None,
        "mode": NAME_OF_MODE[job.mode],
        "staleness_bound": job.staleness_bound,
        "quorum": job.quorum or None,
        "damping": job.damping,
        "push_codec": job.push_codec,
        "push_overrides": {override.pattern: override.codec for override in job.push_overrides},
        "pull_codec": job.pull_codec,
        "block_elements": job.block_elements or None,
        "lease_seconds": job.lease_seconds,
        "expected_workers": job.expected_workers,
        "server_patience_seconds": job.server_patience_seconds,
        "seed": job.seed,
        "message_bytes": job.message_bytes,
    }


def check_expectations(job: JobSpecification, expected: Mapping[str, object]) -> None:
    """Refuses settings that differ from the job's.

    Raises:
        UnknownKeyError: no such setting; names the nearest.
        SettingError: names the setting and both values.
    """
    actual = job_values(job)
    for name, value in _spelled_out(expected).items():
        if name not in actual:
            near = difflib.get_close_matches(name, actual, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(actual)}"
            raise UnknownKeyError(f"connect() got {name}={value!r}, which is no setting of a job; {hint}")
        if _canonical(name, value) != _canonical(name, actual[name]):
            raise SettingError(
                f"connect() got {name}={value!r}, but the job runs with {name}={actual[name]!r}; settings belong to the "
                f"servers: start them with --set {name}={value}, or leave the argument out"
            )


def _spelled_out(expected: Mapping[str, object]) -> dict[str, object]:
    """`mode="bounded:4"` says two things."""
    settings = dict(expected)
    mode = settings.get("mode")
    if isinstance(mode, str) and mode.startswith("bounded:") and mode.removeprefix("bounded:").isdigit():
        settings |= {"mode": "bounded", "staleness_bound": int(mode.removeprefix("bounded:"))}
    return settings


def _canonical(name: str, value: object) -> object:
    if name == "push_codec" and isinstance(value, str):
        return parse_encoder(value).spec
    if name == "pull_codec" and isinstance(value, str):
        return parse_pull_codec(value).spec
    if name == "push_overrides" and isinstance(value, Mapping):
        # In their order, which decides between patterns that match the same parameter.
        return [(pattern, parse_encoder(codec).spec) for pattern, codec in value.items()]
    return value
