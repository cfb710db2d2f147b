"""The job file: one typed description of a run, read from YAML and `--set key=value`."""

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..compression.encoder_spec import parse_pull_codec
from ..compression.parameter_encoders import parse_parameter_encoders
from ..protos.common_pb2 import JobSpecification
from ..protos.errors import CodecError, SettingError, UnknownKeyError
from ..ps_server.config import LONGEST_NAME, JobSettings
from ..worker.layout import parse_layout
from .job_entries import REMOVED, Entry, PatternMap, read_assignments, read_file

MOST_SECONDS = 1e9
"""About 30 years: what a wait can be told."""
LEAST_LEASE_SECONDS = 0.1
_DIMENSION_DIGITS = 3


def _codec(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _dimension(value: Any) -> int | None:
    text = str(value) if isinstance(value, str | int) else ""
    return int(text) if text.isdecimal() and len(text) <= _DIMENSION_DIGITS else None


OVERRIDES = PatternMap("push_overrides", "codec", "fp16", _codec)
TENSOR_SPLITS = PatternMap("tensor_splits", "dimension", "0", _dimension)
PATTERN_MAPS = (OVERRIDES, TENSOR_SPLITS)


class Job(BaseModel):
    """Every setting of a job. All are optional; the defaults are exact (no compression, no staleness)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        default=JobSettings.name,
        max_length=LONGEST_NAME,
        description="Name of the job, which workers must give when they join (--job-name); default: none.",
    )
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
    average_buffers: bool = Field(
        default=JobSettings.average_buffers,
        description="Running statistics and other buffers become the mean over the workers at the end of an epoch; sync only.",
    )
    optimizer_state: Literal["fp32", "int8"] = Field(
        default="fp32", description="How servers keep the moments of the optimizer: fp32, or int8 for 8 bits each."
    )
    block_elements: int | None = Field(
        default=JobSettings.block_elements,
        ge=1,
        description="Elements of a block at most; null = derived from the model.",
    )
    layouts: tuple[str, ...] = Field(
        default=JobSettings.layouts,
        description="How workers of several ranks may split the model: `[tp2, pp2xtp2]` (`launch` adds its own).",
    )
    tensor_splits: tuple[tuple[str, int], ...] = Field(
        default=JobSettings.tensor_splits,
        description="Dimension that tensor parallelism cuts, by parameter name: `{'*.q.*': 0}`; the first pattern wins.",
    )
    lease_seconds: float = Field(
        default=JobSettings.lease_seconds, gt=0, description="Silence after which a worker no longer counts."
    )
    expected_workers: int = Field(
        default=JobSettings.expected_workers,
        ge=0,
        description="Workers that the first step waits for; 0 = none (`launch` fills in its own).",
    )
    reserved_ids: int = Field(
        default=JobSettings.reserved_ids,
        ge=0,
        description="Worker ids below this are for workers that choose theirs by --id (`launch`: its own number).",
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
        le=8 << 20,
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
        by_pattern = [line for patterns in PATTERN_MAPS for line in patterns.assignments(changed.pop(patterns.key, ()))]
        if layouts := changed.pop("layouts", ()):
            changed["layouts"] = ",".join(layouts)
        return [f"{key}={'null' if value is None else value}" for key, value in changed.items()] + by_pattern

    def declaring(self, layouts: Iterable[str]) -> "Job":
        """The same job, in which workers may have these layouts too."""
        return self.model_copy(update={"layouts": tuple(dict.fromkeys([*self.layouts, *layouts]))})


def load_job(path: Path | None, assignments: Sequence[str], defaults: Mapping[str, Any] | None = None) -> Job:
    """The job of a file and of `--set` assignments, which win over it; `defaults` fill what neither says.

    Raises SettingError naming the key, where it was written and what to change; UnknownKeyError for a key
    that does not exist.
    """
    entries = {key: Entry(value, "the launcher") for key, value in (defaults or {}).items()}
    if path is not None:
        entries |= _expanded(read_file(path))
    assigned = _expanded(read_assignments(assignments, _null_of))
    # What is assigned comes first: of overrides that match the same parameter the first wins.
    entries = assigned | {key: entry for key, entry in entries.items() if key not in assigned}
    taken = {patterns.key: patterns.take(entries) for patterns in PATTERN_MAPS}
    for key, entry in entries.items():
        if key not in Job.model_fields:
            raise UnknownKeyError(_unknown_key(key, entry.where))
    values = {key: entry.value for key, entry in entries.items()}
    for key, by_pattern in taken.items():
        values[key] = tuple((pattern, entry.value) for pattern, entry in by_pattern.items())
    try:
        job = Job.model_validate(values)
    except ValidationError as error:
        raise SettingError(_invalid_values(error, entries)) from None
    _check_codecs(job, entries, taken[OVERRIDES.key])
    _check_ranges(job, entries)
    _check_together(job, entries)
    return job


def _null_of(key: str) -> Any:
    if any(key.startswith(patterns.prefix) for patterns in PATTERN_MAPS):
        return REMOVED
    field = Job.model_fields.get(key)
    return None if field is not None and types.NoneType in get_args(field.annotation) else "null"


def _expanded(entries: dict[str, Entry]) -> dict[str, Entry]:
    """One key for each value: short forms are replaced by the keys that they stand for."""
    for patterns in PATTERN_MAPS:
        entries = patterns.expanded(entries)
    return _expanded_layouts(_expanded_mode(entries))


def _expanded_layouts(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Replaces names of layouts, in a list or joined by commas, by their canonical texts, each once."""
    layouts = entries.get("layouts")
    if layouts is None:
        return entries
    names = layouts.value.split(",") if isinstance(layouts.value, str) else layouts.value
    names = [] if names is None else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SettingError(
            f"{layouts.where}: `layouts` is {layouts.value!r}; it should be a list of layouts, for example [tp2, pp2xtp2]."
        )
    try:
        specs = dict.fromkeys(parse_layout(name.strip()).spec for name in names if name.strip())
    except SettingError as error:
        raise SettingError(f"{layouts.where}: `layouts`: {error}") from None
    return entries | {"layouts": Entry(tuple(specs), layouts.where)}


def _expanded_mode(entries: dict[str, Entry]) -> dict[str, Entry]:
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
    return entries | {"mode": Entry(name, mode.where), "staleness_bound": Entry(bound, mode.where)}


def _unknown_key(key: str, where: str) -> str:
    near = difflib.get_close_matches(key, Job.model_fields, n=1, cutoff=0.0)
    known = ", ".join(Job.model_fields)
    return f"{where}: there is no setting `{key}`; the nearest is `{near[0]}`. All settings: {known}."


def _invalid_values(error: ValidationError, entries: Mapping[str, Entry]) -> str:
    sentences = []
    for problem in error.errors():
        key = str(problem["loc"][0])
        reason = problem["msg"].replace("Input should", "it should")
        sentences.append(f"{entries[key].where}: `{key}` is {entries[key].value!r}; {reason}.")
    return " ".join(sentences)


def _check_codecs(job: Job, entries: Mapping[str, Entry], overrides: Mapping[str, Entry]) -> None:
    where = entries.get("push_codec", Entry(None, "the default"))
    try:
        parse_parameter_encoders(job.push_codec)
        for pattern, codec in job.push_overrides:
            where = overrides[pattern]
            parse_parameter_encoders(job.push_codec, [(pattern, codec)])
    except CodecError as error:
        raise CodecError(f"{where.where}: {error}") from None
    try:
        parse_pull_codec(job.pull_codec)
    except CodecError as error:
        raise CodecError(f"{entries['pull_codec'].where}: `pull_codec`: {error}") from None


def _check_ranges(job: Job, entries: Mapping[str, Entry]) -> None:
    """What the types above let through: more than a wait or the wire can hold, and times too short for any clock."""
    for key, value in job:
        if isinstance(value, float) and value > MOST_SECONDS:
            most = f"{MOST_SECONDS:g}"
        elif isinstance(value, int) and value > _most(key):
            most = str(_most(key))
        else:
            continue
        raise SettingError(f"{entries[key].where}: `{key}` is {value}; it can be {most} at most.")
    if job.lease_seconds < LEAST_LEASE_SECONDS:
        where = entries["lease_seconds"].where
        raise SettingError(
            f"{where}: `lease_seconds` is {job.lease_seconds:g}; it must be at least {LEAST_LEASE_SECONDS:g}."
        )
    if job.memory_bytes is not None and job.memory_bytes < 1:
        raise SettingError(
            f"{entries['memory_bytes'].where}: `memory_bytes` is {job.memory_bytes}; it must be at least 1."
        )


def _most(key: str) -> int:
    field = JobSpecification.DESCRIPTOR.fields_by_name.get(key)
    return (1 << 32 if field is not None and field.cpp_type == field.CPPTYPE_UINT32 else 1 << 63) - 1


def _check_together(job: Job, entries: Mapping[str, Entry]) -> None:
    if job.quorum is not None and job.mode != "sync":
        raise SettingError(
            f"{entries['quorum'].where}: `quorum` closes rounds and needs mode=sync; the mode is {job.mode}. "
            "Remove quorum (--set quorum=null) or change mode."
        )
    if job.average_buffers and job.mode != "sync":
        raise SettingError(
            f"{entries['average_buffers'].where}: `average_buffers` takes the mean in a round and needs mode=sync; the mode is "
            f"{job.mode}. Remove average_buffers or change mode."
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
