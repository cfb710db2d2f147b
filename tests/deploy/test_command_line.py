"""What every command of `pushpull` has in common."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
import typer
from commands import run_command

from pushpull.benchmarks import convergence, local_updates
from pushpull.deploy.cli import app


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group, however deep."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.mark.parametrize(
    "words", list(commands(typer.main.get_command(app))), ids=lambda words: " ".join(words) or "pushpull"
)
def test_every_command_prints_its_help(words: tuple[str, ...]) -> None:
    run = run_command([*words, "--help"])
    assert run.exit_code == 0
    assert "usage: " in run.output.lower()
    assert " ".join(words) in run.output


@pytest.mark.parametrize("module", [convergence, local_updates])
def test_benchmarks_that_are_no_command_print_theirs_too(module: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])  # type: ignore[attr-defined]
    assert (end.value.code, capsys.readouterr().out[:6]) == (0, "usage:")


def test_the_version_is_the_packages() -> None:
    run = run_command(["--version"])
    assert (run.exit_code, run.output) == (0, f"pushpull {version('pushpull')}\n")


@pytest.mark.parametrize(
    "words",
    [
        ("exchange", "--elements", "0"),
        ("exchange", "--repetitions", "-1"),
        ("exchange", "--steps", "nan"),
        ("codec", "--blocks", "0"),
        ("links", "--target-loss", "nan"),
        ("links", "--limit-seconds", "inf"),
        ("links", "--limit-seconds", "-1"),
        ("links", "--steps", "0"),
        ("links", "--shards", "x"),
    ],
    ids=" ".join,
)
def test_a_number_that_cannot_be_meant_is_a_mistake_in_the_command(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_command(["bench", *words])
    assert run.exit_code == 2
    assert f"argument {words[1]}: invalid positive number value: '{words[2]}'" in run.output
