"""The log: one object a line for machines, one line a message for people, no more lines than a disk can bear, and a script's
own logging left alone."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from launches import Launch

from pushpull.deploy.log_settings import LogFormat, LogLevel, LogSettings
from pushpull.deploy.logs import MOST_CHARACTERS, FloodGuard, LogHandler, Speaker
from pushpull.deploy.relayed_lines import relayed_line

TRAINS_AND_FAILS = """
import logging, warnings
import torch
from pushpull.worker import connect

model = torch.nn.Linear(4, 4)
with connect() as worker:
    optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
    print("hello", flush=True)
    for _ in range(3):
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        worker.log(loss=float("nan"))
    logging.getLogger("mine").info("half way", extra={"share": 0.5})
    warnings.warn("odd weather")
    raise RuntimeError("no more data")
"""


def test_every_line_of_a_launched_job_is_one_object_that_says_whose_it_is(launch: Callable[..., Launch]) -> None:
    run = launch(TRAINS_AND_FAILS, "--log-format", "json", workers=1)
    run.wait_for('"worker failed"')
    run.end()
    lines = [json.loads(line) for line in run.said.splitlines()]
    assert all({"timestamp", "level", "event"} <= line.keys() and line["timestamp"].endswith("Z") for line in lines)

    def said(event: str) -> dict[str, Any]:
        return next(line for line in lines if line["event"].startswith(event))

    job = said("worker joined")["job"]
    shards = {line["shard"] for line in lines if line.get("role") == "server" and line.get("job") == job}
    assert shards == {0, 1}
    first = said("the first step is applied")
    assert (first["role"], first["job"], first["worker"], first["rank"], first["step"]) == ("worker", job, 0, 0, 1)
    assert first["incarnation"] == said("worker joined")["incarnation"]
    assert (said("half way")["logger"], said("half way")["share"], said("half way")["step"]) == ("mine", 0.5, 4)
    assert "odd weather" in next(line for line in lines if line.get("logger") == "py.warnings")["event"]
    assert said("hello")["process"] == "worker 0"
    (error,) = said("uncaught exception")["exception"]
    assert (error["exc_type"], error["exc_value"]) == ("RuntimeError", "no more data")
    assert error["frames"][-1]["filename"].endswith("script.py")
    failed = said("worker failed")
    assert (failed["level"], failed["failure"]) == ("warning", "RuntimeError: no more data")


def handler(log_format: LogFormat) -> LogHandler:
    return LogHandler(LogSettings(log_format, LogLevel.INFO), Speaker("server", shard=1))


def record(text: str, *values: object, logger: str = "pushpull.tests", **extra: object) -> logging.LogRecord:
    return logging.getLogger(logger).makeRecord(logger, logging.INFO, "", 0, text, values, None, extra=extra)


def test_what_others_send_stays_on_one_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    handler(LogFormat.TEXT).handle(record("host %s", "a\nforged line\x1b[2J"))
    (line,) = capsys.readouterr().err.splitlines()
    assert r"host a\nforged line\x1b[2J" in line


@pytest.mark.parametrize("log_format", LogFormat)
def test_a_value_takes_only_so_much_room(log_format: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    handler(log_format).handle(record("%s", "x" * 10**6))
    line = capsys.readouterr().err
    assert MOST_CHARACTERS < len(line) < MOST_CHARACTERS + 300
    assert "(1000000 characters)" in line


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), {"deep": float("nan")}, object(), {1: {2}}])
def test_values_that_json_does_not_know_make_strict_json(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    handler(LogFormat.JSON).handle(record("odd", value=value))
    line = json.loads(capsys.readouterr().err, parse_constant=refuse)
    assert (line["event"], line["role"], line["shard"], line["level"]) == ("odd", "server", 1, "info")
    assert line["value"] is not None


@pytest.mark.parametrize("log_format", LogFormat)
def test_a_closed_standard_error_loses_the_line_and_nothing_else(
    log_format: LogFormat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = io.StringIO()
    monkeypatch.setattr("sys.stderr", closed)
    one = handler(log_format)
    closed.close()
    one.handle(record("nobody reads this"))  # neither raises, with standard error still the closed one,
    monkeypatch.undo()
    one.handle(record("nor this"))  # nor tells its trouble to another
    assert capsys.readouterr().err == ""


def test_only_so_many_lines_of_a_kind_pass_and_the_next_says_how_many_are_missing() -> None:
    now = 0.0
    guard = FloodGuard(burst=3, per_second=0.5, clock=lambda: now)
    assert [guard.filter(record("refused %d", number)) for number in range(5)] == [True, True, True, False, False]
    assert guard.filter(record("something else"))
    assert not hasattr(record("refused %d", 5), "suppressed")
    now = 2.0
    late = record("refused %d", 6)
    assert guard.filter(late)
    assert late.suppressed == 2  # type: ignore[attr-defined]
    assert not guard.filter(record("refused %d", 7))


def test_a_scripts_own_lines_are_never_held_back() -> None:
    guard = FloodGuard(burst=1, per_second=0.0)
    assert all(guard.filter(record("mine", logger="my.script")) for _ in range(10))


def test_what_strangers_make_grpc_say_is_held_back_whatever_it_says() -> None:
    guard = FloodGuard(burst=3, per_second=0.0)
    lines = [record(f"Exception deserializing {number}", logger="grpc._server") for number in range(10)]
    assert [guard.filter(line) for line in lines] == [True] * 3 + [False] * 7
    assert len(guard._kinds) == 1


BESIDE_A_SCRIPT = """
import logging
from pushpull.deploy.log_settings import LogSettings
from pushpull.deploy.logs import Speaker, configure_logs

configure_logs(LogSettings(), Speaker("worker"), beside_a_script=True)
ours, theirs = logging.getLogger("pushpull.worker.x"), logging.getLogger("theirs")
theirs.info("unheard")
ours.info("one")
logging.basicConfig(level=logging.DEBUG, format="THEIRS %(message)s")
ours.info("two")
theirs.debug("three")
"""


def test_a_script_that_logs_in_its_own_way_goes_on_so_and_hears_us_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BESIDE_A_SCRIPT], capture_output=True, text=True, check=True, timeout=60
    )
    first, *rest = done.stderr.splitlines()
    assert "one" in first
    assert "pushpull.worker.x" in first
    assert rest == ["THEIRS two", "THEIRS three"]


def test_lines_of_several_processes_stay_parseable() -> None:
    assert relayed_line(LogFormat.TEXT, "worker 1", '{"a": 1}') == '[worker 1] {"a": 1}'
    assert relayed_line(LogFormat.JSON, "worker 1", '{"a": 1}') == '{"a": 1}'
    for line in ("loss 0.5", "{'a': 1}", "", "[1]"):
        wrapped = json.loads(relayed_line(LogFormat.JSON, "worker 1", line))
        assert (wrapped["event"], wrapped["process"]) == (line, "worker 1")
