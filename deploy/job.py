"""The job file: one typed description of a run, read from YAML and `--set key=value`."""

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..compression.encoder_spec import parse_pull_codec
from ..compression.parameter_encoders import parse_parameter_encoders
from ..protos.errors import CodecError, SettingError, UnknownKeyError
from ..ps_server.config import JobSettings

OVERRIDES = "push_overrides"
_OVERRIDE_PREFIX = f"{OVERRIDES}."
_REMOVED = object()
"""The value of an override that `--set push_overrides.PATTERN=null` takes out."""


class Job(BaseModel):
    """Every setting of a job. All are optional; the defaults are exact (no compression, no staleness)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["sync", "bounded", "async"] = Field(
        default="sync", description="When steps are applied: sync, bounded (or bounded:4) or async."
    )
    staleness_bound: int = Field(
        default=JobSettings.staleness_bound,
        ge=0,
        description="Clocks a worker may be ahead of the slowest; bounded only.",
    )
    quorum: int | None = Field(
        default=JobSettings.quorum, ge=1, description="Workers that close a round; null = every member; sync only."
    )
    damping: Literal["none", "inverse", "sqrt"] = Field(
        default="inverse", description="How version staleness lowers the learning rate; async only."
    )
    push_codec: str = Field(
        default=JobSettings.push_codec,
        description="How gradients travel: fp32, fp16, bf16, int8, topk:0.01+fp16, dgc:0.9+topk:0.001+fp16, ...",
    )
    push_overrides: tuple[tuple[str, str], ...] = Field(
        default=JobSettings.push_overrides,
        description='Other push codecs for parameters by name: `{"*.bias": fp32}`; the first pattern that matches wins.',
    )
    pull_codec: str = Field(default=JobSettings.pull_codec, description="How parameters travel: fp32, bf16, ...")
    optimizer_state: Literal["fp32", "int8"] = Field(
        default="fp32", description="How servers keep the moments of the optimizer: fp32, or int8 for 8 bits each."
    )
    block_elements: int | None = Field(
        default=JobSettings.block_elements,
        ge=1,
        description="Elements of a block at most; null = derived from the model.",
    )
    lease_seconds: float = Field(
        default=JobSettings.lease_seconds, gt=0, description="Silence after which a worker no longer counts."
    )
    expected_workers: int = Field(
        default=JobSettings.expected_workers,
        ge=0,
        description="Workers that the first step waits for; 0 = none (`launch` fills in its own).",
    )
    start_timeout_seconds: float = Field(
        default=JobSettings.start_timeout_seconds, gt=0, description="Longest wait for the expected workers."
    )
    progress_timeout_seconds: float = Field(
        default=JobSettings.progress_timeout_seconds,
        ge=0,
        description="How long others wait for a live worker that ends no step; 0 = for ever.",
    )
    server_patience_seconds: float = Field(
        default=JobSettings.server_patience_seconds,
        gt=0,
        description="How long a worker retries a silent server (20 under `launch`).",
    )
    seed: int = Field(
        default=JobSettings.seed, ge=0, lt=2**63, description="Of the data order and of stochastic rounding."
    )
    message_bytes: int = Field(
        default=JobSettings.message_bytes,
        ge=1 << 12,
        le=32 << 20,
        description="Target size of one message of frames.",
    )
    staging_bytes: int = Field(
        default=JobSettings.staging_bytes,
        ge=1 << 20,
        description="Memory of one server for steps that are not applied yet.",
    )
    memory_bytes: int | None = Field(
        default=JobSettings.memory_bytes,
        description="memory of a server for parameters and optimizer state; default: what shard 0's machine has",
    )

    def settings(self) -> JobSettings:
        """The same values as the servers take them."""
        return JobSettings(**self.model_dump())

    def assignments(self) -> list[str]:
        """`key=value` for each field that differs from its default, as `--set` reads them."""
        changed = self.model_dump(exclude_defaults=True)
        overrides = changed.pop(OVERRIDES, ())
        assignments = [f"{key}={'null' if value is None else value}" for key, value in changed.items()]
        return assignments + [f"{_OVERRIDE_PREFIX}{pattern}={codec}" for pattern, codec in overrides]


@dataclass(frozen=True)
class _Entry:
    """One value and where it was written."""

    value: Any
    where: str


def load_job(path: Path | None, assignments: Sequence[str], defaults: Mapping[str, Any] | None = None) -> Job:
    """The job of a file and of `--set` assignments, which win over it; `defaults` fill what neither says.

    Raises SettingError naming the key, where it was written and what to change; UnknownKeyError for a key
    that does not exist.
    """
    entries = {key: _Entry(value, "the launcher") for key, value in (defaults or {}).items()}
    if path is not None:
        entries |= _expanded(_read_file(path))
    assigned = _expanded(_read_assignments(assignments))
    # What is assigned comes first: of overrides that match the same parameter the first wins.
    entries = assigned | {key: entry for key, entry in entries.items() if key not in assigned}
    overrides = _taken_overrides(entries)
    for key, entry in entries.items():
        if key not in Job.model_fields:
            raise UnknownKeyError(_unknown_key(key, entry.where))
    values = {key: entry.value for key, entry in entries.items()}
    values[OVERRIDES] = tuple((pattern, entry.value) for pattern, entry in overrides.items())
    try:
        job = Job.model_validate(values)
    except ValidationError as error:
        raise SettingError(_invalid_values(error, entries)) from None
    _check_codecs(job, entries, overrides)
    _check_together(job, entries)
    return job


def _read_file(path: Path) -> dict[str, _Entry]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"The job file {path} cannot be read: {error.strerror}. Change --job.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"The job file {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingError(f"The job file {path} must hold lines `key: value`, not a {type(content).__name__}.")
    return {str(key): _Entry(value, str(path)) for key, value in content.items()}


def _read_assignments(assignments: Sequence[str]) -> dict[str, _Entry]:
    entries = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not key:
            raise SettingError(f"--set {assignment}: write it as --set key=value, for example --set mode=async.")
        entries[key] = _Entry(_assigned(key, text.strip()), f"--set {assignment}")
    return entries


def _assigned(key: str, text: str) -> Any:
    if text != "null":
        return text
    if key.startswith(_OVERRIDE_PREFIX):
        return _REMOVED
    field = Job.model_fields.get(key)
    return None if field is not None and types.NoneType in get_args(field.annotation) else text


def _expanded(entries: dict[str, _Entry]) -> dict[str, _Entry]:
    """One key for each value: short forms are replaced by the keys that they stand for."""
    return _expanded_overrides(_expanded_mode(entries))


def _expanded_overrides(entries: dict[str, _Entry]) -> dict[str, _Entry]:
    """Replaces `push_overrides: {pattern: codec}` by keys `push_overrides.pattern`; nothing behind it is none."""
    whole = entries.get(OVERRIDES)
    if whole is None:
        return entries
    patterns = {} if whole.value is None else whole.value
    if not isinstance(patterns, dict):
        raise SettingError(
            f"{whole.where}: `{OVERRIDES}` is {whole.value!r}; write a line `pattern: codec` below it for each pattern of "
            f"parameter names, or --set {_OVERRIDE_PREFIX}PATTERN=codec."
        )
    others = {key: entry for key, entry in entries.items() if key != OVERRIDES}
    return others | {f"{_OVERRIDE_PREFIX}{key}": _Entry(codec, whole.where) for key, codec in patterns.items()}


def _taken_overrides(entries: dict[str, _Entry]) -> dict[str, _Entry]:
    """Takes keys `push_overrides.pattern` out of the entries: codecs by pattern."""
    overrides = {}
    for key in [key for key in entries if key.startswith(_OVERRIDE_PREFIX)]:
        entry = entries.pop(key)
        if entry.value is _REMOVED:
            continue
        if not isinstance(entry.value, str):
            raise SettingError(f"{entry.where}: `{key}` is {entry.value!r}; it should be a codec, for example fp16.")
        overrides[key.removeprefix(_OVERRIDE_PREFIX)] = entry
    return overrides


def _expanded_mode(entries: dict[str, _Entry]) -> dict[str, _Entry]:
    """Replaces the short form `mode: bounded:4` by the two keys that it stands for."""
    mode = entries.get("mode")
    if mode is None or not isinstance(mode.value, str) or ":" not in mode.value:
        return entries
    name, _, bound = mode.value.partition(":")
    if name != "bounded":
        raise SettingError(f"{mode.where}: only `bounded` takes a number behind a colon, as in mode=bounded:4.")
    other = entries.get("staleness_bound")
    if other is not None and str(other.value) != bound:
        raise SettingError(
            f"{mode.where}: the bound {bound} contradicts staleness_bound={other.value} ({other.where}). "
            "Keep one of them."
        )
    return entries | {"mode": _Entry(name, mode.where), "staleness_bound": _Entry(bound, mode.where)}


def _unknown_key(key: str, where: str) -> str:
    near = difflib.get_close_matches(key, Job.model_fields, n=1, cutoff=0.0)
    known = ", ".join(Job.model_fields)
    return f"{where}: there is no setting `{key}`; the nearest is `{near[0]}`. All settings: {known}."


def _invalid_values(error: ValidationError, entries: Mapping[str, _Entry]) -> str:
    sentences = []
    for problem in error.errors():
        key = str(problem["loc"][0])
        reason = problem["msg"].replace("Input should", "it should")
        sentences.append(f"{entries[key].where}: `{key}` is {entries[key].value!r}; {reason}.")
    return " ".join(sentences)


def _check_codecs(job: Job, entries: Mapping[str, _Entry], overrides: Mapping[str, _Entry]) -> None:
    where = entries.get("push_codec", _Entry(None, "the default"))
    try:
        parse_parameter_encoders(job.push_codec)
        for pattern, codec in job.push_overrides:
            where = overrides[pattern]
            if not pattern:
                raise SettingError(f"{where.where}: `{_OVERRIDE_PREFIX}` lacks a pattern of parameter names.")
            parse_parameter_encoders(job.push_codec, [(pattern, codec)])
    except CodecError as error:
        raise CodecError(f"{where.where}: {error}") from None
    try:
        parse_pull_codec(job.pull_codec)
    except CodecError as error:
        raise CodecError(f"{entries['pull_codec'].where}: `pull_codec`: {error}") from None


def _check_together(job: Job, entries: Mapping[str, _Entry]) -> None:
    if job.quorum is not None and job.mode != "sync":
        raise SettingError(
            f"{entries['quorum'].where}: `quorum` closes rounds and needs mode=sync; the mode is {job.mode}. "
            "Remove quorum (--set quorum=null) or change mode."
        )
    if job.quorum is not None and job.quorum > job.expected_workers > 0:
        raise SettingError(
            f"{entries['quorum'].where}: `quorum` is {job.quorum}, but only {job.expected_workers} workers "
            "are expected. Lower quorum or start more workers."
        )
    if 0 < job.progress_timeout_seconds < job.lease_seconds:
        raise SettingError(
            f"`progress_timeout_seconds` ({job.progress_timeout_seconds:g}) is shorter than `lease_seconds` "
            f"({job.lease_seconds:g}); make it longer."
        )
