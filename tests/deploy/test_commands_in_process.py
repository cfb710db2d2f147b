"""A test that runs a command in its own process leaves that process's logging as it found it."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import logging_as_before, logging_now, run_command

from pushpull.deploy.log_settings import LogFormat, LogSettings
from pushpull.deploy.logs import Speaker, configure_logs

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("log_format", LogFormat)
@pytest.mark.parametrize(
    "words",
    [
        ("server", "--shard", "0", "--num-shards", "1", "--listen", "nowhere"),
        ("worker", "--servers", "nowhere", "script.py"),
        ("launch", "--timeout-seconds", "nan", __file__),
    ],
    ids=lambda words: words[0],
)
def test_a_command_that_never_gets_to_work_leaves_logging_alone(words: Sequence[str], log_format: LogFormat) -> None:
    before = logging_now()
    run = run_command((words[0], "--log-format", log_format, *words[1:]), catch_exceptions=True)
    assert run.exit_code != 0
    assert logging_now() == before


@pytest.mark.parametrize("log_format", LogFormat)
@pytest.mark.parametrize("beside_a_script", [False, True])
def test_what_others_had_configured_before_is_back(log_format: LogFormat, beside_a_script: bool) -> None:
    theirs = logging.NullHandler()
    with logging_as_before():
        logging.getLogger().addHandler(theirs)
        logging.captureWarnings(True)
        before = logging_now()
        with logging_as_before():
            configure_logs(LogSettings(log_format), Speaker("worker"), beside_a_script=beside_a_script)
            assert logging_now() != before
        assert logging_now() == before
    assert theirs not in logging.getLogger().handlers


def test_no_test_runs_a_command_in_another_way() -> None:
    means = "CliRunner"
    users = {path.name for path in ROOT.rglob("*.py") if means in path.read_text(encoding="utf-8")}
    assert users == {"commands.py", Path(__file__).name}
