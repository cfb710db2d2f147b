"""How a process is told to log. Apart from `logs`, which takes its time to import."""

from dataclasses import dataclass
from enum import StrEnum


class LogFormat(StrEnum):
    """What a line of the log is."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class LogSettings:
    """What is logged, and how."""

    format: LogFormat = LogFormat.TEXT
    level: LogLevel = LogLevel.INFO

    def beside_a_display(self) -> "LogSettings":
        """For a worker whose progress people see elsewhere: of its lines only those that need attention."""
        quieter = self.format is LogFormat.TEXT and self.level is LogLevel.INFO
        return LogSettings(self.format, LogLevel.WARNING) if quieter else self

    def options(self) -> list[str]:
        """Words that make a command of ours log like this."""
        return ["--log-format", self.format, "--log-level", self.level]


DEFAULT_LOGS = LogSettings()
