"""What a job file and `--set key=value` say, before anybody looks at what it means: entries, each with its place."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..protos.errors import SettingError
from .yaml_file import read_yaml

REMOVED = object()
"""The value of a pattern that `--set KEY.PATTERN=null` takes out."""


@dataclass(frozen=True)
class Entry:
    """One value and where it was written."""

    value: Any
    where: str


@dataclass(frozen=True)
class PatternMap:
    """A setting with one value for each pattern of parameter names: a map in the job file, `KEY.PATTERN=value` in `--set`.

    Order matters, the first pattern that matches a parameter wins.
    """

    key: str
    value_name: str
    example: str
    read: Callable[[Any], Any]
    """The value that was meant; None for one that cannot be meant."""

    @property
    def prefix(self) -> str:
        return f"{self.key}."

    def expanded(self, entries: Mapping[str, Entry]) -> dict[str, Entry]:
        """Replaces `KEY: {pattern: value}` by entries `KEY.pattern`; nothing behind it is none.

        Raises:
            SettingError: something else than a map is behind it.
        """
        whole = entries.get(self.key)
        if whole is None:
            return dict(entries)
        values = {} if whole.value is None else whole.value
        if not isinstance(values, dict):
            raise SettingError(
                f"{whole.where}: `{self.key}` is {whole.value!r}; write a line `pattern: {self.value_name}` below it for "
                f"each pattern of parameter names, or --set {self.prefix}PATTERN={self.value_name}."
            )
        others = {key: entry for key, entry in entries.items() if key != self.key}
        return others | {f"{self.prefix}{pattern}": Entry(value, whole.where) for pattern, value in values.items()}

    def take(self, entries: dict[str, Entry]) -> dict[str, Entry]:
        """Takes the entries `KEY.pattern` out: what was meant, by pattern.

        Raises:
            SettingError: no pattern, or a value of the wrong kind.
        """
        taken = {}
        for key in [key for key in entries if key.startswith(self.prefix)]:
            entry, pattern = entries.pop(key), key.removeprefix(self.prefix)
            if entry.value is REMOVED:
                continue
            value = self.read(entry.value)
            if value is None:
                raise SettingError(
                    f"{entry.where}: `{key}` is {entry.value!r}; it should be a {self.value_name}, "
                    f"for example {self.example}."
                )
            if not pattern:
                raise SettingError(f"{entry.where}: `{self.prefix}` lacks a pattern of parameter names.")
            taken[pattern] = Entry(value, entry.where)
        return taken

    def assignments(self, values: Sequence[tuple[str, Any]]) -> list[str]:
        """`KEY.pattern=value` for each, as `--set` reads them."""
        return [f"{self.prefix}{pattern}={value}" for pattern, value in values]


def read_file(path: Path) -> dict[str, Entry]:
    """The lines `key: value` of a job file; raises SettingError."""
    content = read_yaml(path, "job file", "--job")
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingError(f"The job file {path} must hold lines `key: value`, not a {type(content).__name__}.")
    return {str(key): Entry(value, str(path)) for key, value in content.items()}


def read_assignments(assignments: Sequence[str], null_of: Callable[[str], Any]) -> dict[str, Entry]:
    """The texts behind `--set`, of one key the last; `null_of(key)` is what `null` stands for. Raises SettingError."""
    entries: dict[str, Entry] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key, text = key.strip(), text.strip()
        if not equals or not key:
            raise SettingError(f"--set {assignment}: write it as --set key=value, for example --set mode=async.")
        entries[key] = Entry(null_of(key) if text == "null" else text, f"--set {assignment}")
    return entries
