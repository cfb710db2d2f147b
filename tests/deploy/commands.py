"""Commands of `pushpull` that run inside the process of a test, which stays as it was."""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from typer.testing import CliRunner

from pushpull.deploy.cli import app
from pushpull.deploy.logs import OURS


def run_command(words: Sequence[str], catch_exceptions: bool = False) -> Any:
    """What a command line answers and how it ends; with `catch_exceptions`, also by which error."""
    with logging_as_before():
        return CliRunner().invoke(app, list(words), catch_exceptions=catch_exceptions)


@contextmanager
def logging_as_before() -> Iterator[None]:
    """A command decides how its process logs, for good, and its standard error here is one that is closed behind it."""
    loggers = [logging.getLogger(), logging.getLogger(OURS)]
    handlers, levels = [list(each.handlers) for each in loggers], [each.level for each in loggers]
    hooks, shown_by = (sys.excepthook, threading.excepthook), warnings.showwarning
    was_configured, configuration = structlog.is_configured(), structlog.get_config()
    try:
        yield
    finally:
        if warnings.showwarning is not shown_by:
            logging.captureWarnings(False)
            warnings.showwarning = shown_by
        sys.excepthook, threading.excepthook = hooks
        for logger, kept, level in zip(loggers, handlers, levels, strict=True):
            logger.handlers[:] = kept
            logger.setLevel(level)
        structlog.reset_defaults()
        if was_configured:
            structlog.configure(**configuration)


def logging_now() -> list[Any]:
    """Everything that a command may change in how its process logs."""
    loggers = [logging.getLogger(), logging.getLogger(OURS)]
    return [
        *([each.level, list(each.handlers)] for each in loggers),
        *(sys.excepthook, threading.excepthook, warnings.showwarning),
        *(structlog.is_configured(), structlog.get_config()),
    ]
