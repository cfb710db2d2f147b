"""How the processes that we start write their log: lines for people, or one JSON object a line. For entry points only.

`ps_server/` and `worker/` only emit; a script that calls `connect()` without our command line keeps its own logging.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from .log_settings import LogFormat, LogLevel, LogSettings
from .output import LAST_WORDS_SECONDS
from .talk import talk_of

OURS = "pushpull"
TRANSPORT = "grpc"
FIRST_KEYS = ("timestamp", "level", "event", "job", "role", "shard", "worker", "incarnation", "rank", "step")
"""What every line of JSON begins with, as far as it is known."""
MOST_CHARACTERS = 2000
"""Of one value: much of what is logged comes from the network."""


class Speaker:
    """Who writes the log: keys of every line. What a process learns later, such as its job, is asked for line by line."""

    def __init__(self, role: str, **known: object) -> None:
        self._known = {"role": role, **{key: value for key, value in known.items() if value is not None}}
        self._ask: Callable[[], Mapping[str, object]] = dict

    def follow(self, ask: Callable[[], Mapping[str, object]]) -> None:
        """`ask` gives the keys that may change; called in the thread that logs, whatever locks it holds."""
        self._ask = ask

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return {**self._known, **self._ask(), **event}


class FloodGuard(logging.Filter):
    """Lets only so many lines of one kind through, so that no client can fill a disk. The next one says how many are missing.

    A kind is a logger of ours with a text before its values are put in, or a logger of gRPC, whose texts hold what strangers
    send. Other loggers are the user's business.
    """

    def __init__(self, burst: int = 200, per_second: float = 0.2, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._burst, self._per_second, self._clock = burst, per_second, clock
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        family = record.name.partition(".")[0]
        if family not in (OURS, TRANSPORT):
            return True
        said = record.msg
        text = str(said.get("event")) if isinstance(said, dict) else str(said)
        if family == TRANSPORT:
            text = record.levelname
        now = self._clock()
        with self._lock:
            kind = self._kinds.setdefault((record.name, text), _Kind(float(self._burst), now))
            kind.left = min(float(self._burst), kind.left + (now - kind.seen) * self._per_second)
            kind.seen = now
            if kind.left < 1:
                kind.num_suppressed += 1
                return False
            kind.left -= 1
            num_suppressed, kind.num_suppressed = kind.num_suppressed, 0
        if num_suppressed and isinstance(said, dict):
            said["suppressed"] = num_suppressed
        elif num_suppressed:
            record.suppressed = num_suppressed
        return True


@dataclass
class _Kind:
    left: float
    seen: float
    num_suppressed: int = 0


class LogHandler(logging.StreamHandler[Any]):
    """Writes to standard error. Keeps still while `silent` says so."""

    def __init__(self, settings: LogSettings, speaker: Speaker, silent: Callable[[], bool] = lambda: False) -> None:
        super().__init__(sys.stderr)
        self.settings = settings
        self._silent = silent
        self.addFilter(FloodGuard())
        as_json = settings.format is LogFormat.JSON
        self.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=_common(with_extra=as_json),
                processors=[
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.TimeStamper(fmt="iso", utc=True),
                    *(_json_chain(speaker) if as_json else _text_chain()),
                ],
            )
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits for who reads, where standard error is that of one of our commands: `Talk` writes it.

        A script may close its standard error. Then a line is lost; it ends none of our threads, and fills nobody else's stream.
        """
        if self._silent():
            return
        try:
            self.stream.write(self.format(record) + self.terminator)
        except Exception:
            if not self.stream.closed:
                self.handleError(record)

    def flush(self) -> None:
        super().flush()
        talk = talk_of(self.stream)
        if talk is not None:
            talk.drain(LAST_WORDS_SECONDS)


def configure_logs(settings: LogSettings, speaker: Speaker, *, beside_a_script: bool = False) -> None:
    """Sends everything that this process logs to standard error; once for each process, before anything is logged.

    `beside_a_script`: the process runs a user's script, whose own way of logging for people is left alone. As soon as it has
    one, it gets our lines too. JSON lines are for machines: there everything goes one way, also warnings and exceptions.
    """
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_common(with_extra=False),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    root, ours = logging.getLogger(), logging.getLogger(OURS)
    ours.setLevel(level)
    if beside_a_script and settings.format is LogFormat.TEXT:
        ours.addHandler(LogHandler(settings, speaker, silent=lambda: bool(root.handlers)))
        return
    root.addHandler(LogHandler(settings, speaker))
    root.setLevel(max(level, logging.INFO))
    logging.captureWarnings(True)
    if settings.format is LogFormat.JSON:
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_end_of_thread


def writes_json() -> bool:
    """Whether this process was told to log JSON."""
    handlers = [*logging.getLogger().handlers, *logging.getLogger(OURS).handlers]
    return any(isinstance(each, LogHandler) and each.settings.format is LogFormat.JSON for each in handlers)


def say(sentence: str, level: LogLevel = LogLevel.INFO) -> None:
    """What a command itself has to say, on standard error."""
    if writes_json():
        getattr(structlog.get_logger(OURS), level)(sentence)
    else:
        print(f"pushpull: {sentence}", file=sys.stderr, flush=True)


def worker_fields() -> Mapping[str, object]:
    """What the worker of this process says of itself, once the script has imported what it needs for that."""
    identity = sys.modules.get("pushpull.worker.identity")
    return {} if identity is None else identity.fields_here()


def _common(with_extra: bool) -> list[Processor]:
    extra: list[Processor] = [structlog.stdlib.ExtraAdder()] if with_extra else [_add_suppressed]
    return [structlog.stdlib.add_logger_name, structlog.stdlib.add_log_level, *extra]


def _text_chain() -> list[Processor]:
    return [
        _one_line_each,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
        ),
    ]


def _json_chain(speaker: Speaker) -> list[Processor]:
    transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=30)
    return [
        speaker,
        structlog.processors.ExceptionRenderer(transformer),
        _short,
        _in_order,
        structlog.processors.JSONRenderer(serializer=_dump),
    ]


def _add_suppressed(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """People see of the extra keys of standard logging only how many lines are missing."""
    num_suppressed = getattr(event.get("_record"), "suppressed", 0)
    return {**event, "suppressed": num_suppressed} if num_suppressed else event


def _short(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return {key: _cut(value) if isinstance(value, str) else value for key, value in event.items()}


def _one_line_each(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Nobody who sends us a name writes lines, or colours, of their own into the log."""
    return {key: _printable(_cut(value)) if isinstance(value, str) else value for key, value in event.items()}


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}... ({len(text)} characters)"


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _in_order(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    first = {key: event[key] for key in FIRST_KEYS if key in event}
    return {**first, **{key: value for key, value in event.items() if key not in first}}


def _dump(event: Mapping[str, object], **settings: Any) -> str:
    """Strict JSON, which knows neither NaN nor infinity: where there is one, or a strange key, every value becomes text."""
    try:
        return json.dumps(event, allow_nan=False, default=str)
    except (ValueError, TypeError):
        return json.dumps({str(key): _plain_value(value) for key, value in event.items()})


def _plain_value(value: object) -> object:
    return value if isinstance(value, str | int | bool | None) else str(value)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    structlog.get_logger(OURS).critical("uncaught exception", exc_info=(kind, error, trace))


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_type is SystemExit or ended.exc_value is None:
        return
    name = None if ended.thread is None else ended.thread.name
    structlog.get_logger(OURS).error(
        "a thread ended by an exception",
        thread=name,
        exc_info=(ended.exc_type, ended.exc_value, ended.exc_traceback),
    )
