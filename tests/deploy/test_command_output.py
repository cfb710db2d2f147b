"""Commands whose standard input, output or error is closed, full or read by nobody."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from launches import DEADLINE_SECONDS, pushpull, wait_until

CLOSED = {"closed input": "<&-", "closed errors": "2>&-", "all closed": "<&- >&- 2>&-"}
UNWRITABLE = {"closed": "it is closed", "full": "No space left on device", "read by nobody": "Broken pipe"}
SENTENCE = "Standard output cannot be written: "


def with_descriptors(redirections: str, *words: str) -> list[str]:
    """The words that run a command of ours with its descriptors as a shell makes them."""
    return ["sh", "-c", f'exec "$@" {redirections}', "sh", *pushpull(*words)]


def run_unwritable(how: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command whose standard output cannot be written."""
    if how != "read by nobody":
        command = with_descriptors(">&-" if how == "closed" else ">/dev/full", *words)
        return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_SECONDS, check=False)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run(
            pushpull(*words), stdout=writing, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_SECONDS, check=False
        )
    finally:
        os.close(writing)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that was started without any of the three."""
    port = tmp_path_factory.mktemp("server") / "address.txt"
    command = with_descriptors(f"<&- >&- 2>&- 7>{port}", "server", "--shard", "0", "--num-shards", "1")
    process = subprocess.Popen([*command, "--metrics-listen", "", "--announce-fd", "7"])
    try:
        wait_until(lambda: port.exists() and port.read_text().endswith("\n"), "the server serves")
        yield json.loads(port.read_text())["address"]
    finally:
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 0


def commands(server: str) -> dict[str, tuple[str, ...]]:
    return {
        "health": ("health", server),
        "status": ("status", "--servers", server),
        "status --json": ("status", "--servers", server, "--json"),
        "--help": ("--help",),
        "bench --help": ("bench", "codec", "--help"),
    }


@pytest.mark.parametrize("how", UNWRITABLE)
@pytest.mark.parametrize("name", commands(""))
def test_an_answer_that_cannot_be_written_is_a_sentence_and_status_1(name: str, how: str, server: str) -> None:
    run = run_unwritable(how, *commands(server)[name])
    assert (run.returncode, len(run.stderr.splitlines())) == (1, 1), run.stderr
    assert f"{SENTENCE}{UNWRITABLE[how]}" in run.stderr


@pytest.mark.parametrize("closed", CLOSED)
def test_what_is_closed_is_no_place_for_a_socket(closed: str, server: str) -> None:
    """The server of this test was started so, too: it would have written into a connection."""
    run = subprocess.run(
        with_descriptors(CLOSED[closed], "health", server), capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    answered = closed != "all closed"
    assert (run.returncode, run.stdout) == ((0, "SERVING\n") if answered else (1, ""))


def test_a_server_that_cannot_say_where_it_serves_ends() -> None:
    run = run_unwritable("full", "server", "--shard", "0", "--num-shards", "1", "--metrics-listen", "")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith(f"pushpull: {SENTENCE}No space left on device")


def test_a_launch_that_nobody_could_hear_of_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("")
    run = run_unwritable("closed", "launch", "--json", str(tmp_path / "script.py"))
    assert run.returncode == 1
    assert run.stderr.startswith(f"pushpull: {SENTENCE}it is closed")


def test_the_summary_is_shown_to_people_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("print('trained')")
    run = run_unwritable("full", "launch", str(tmp_path / "script.py"))
    assert run.returncode == 1
    assert "[worker 0] trained" in run.stderr
    assert re.search(r"^Done after \d", run.stderr, re.MULTILINE)
    assert run.stderr.splitlines()[-1].startswith(f"pushpull: {SENTENCE}No space left on device")


CHATTY = "for number in range(3000):\n    print('line', number, 'x' * 100, flush=True)\n"


def test_training_does_not_depend_on_its_progress_display(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(CHATTY)
    command = with_descriptors("<&- 2>&-", "launch", "--json", str(tmp_path / "script.py"))
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=DEADLINE_SECONDS, check=False)
    (line,) = run.stdout.splitlines()
    assert (run.returncode, json.loads(line)["success"]) == (0, True)


def test_ranks_go_on_when_nobody_gets_their_lines(tmp_path: Path) -> None:
    """And the command says so, because the lines were its output."""
    (tmp_path / "script.py").write_text(
        f"{CHATTY}open(f'ended-{{__import__(\"os\").environ[\"RANK\"]}}', 'w').close()\n"
    )
    command = ("worker", "--servers", "a:1", "--ranks", "2", str(tmp_path / "script.py"))
    words = with_descriptors(">/dev/full", *command)
    run = subprocess.run(words, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_SECONDS, check=False, cwd=tmp_path)
    assert {path.name for path in tmp_path.glob("ended-*")} == {"ended-0", "ended-1"}
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith(f"pushpull: {SENTENCE}No space left on device")
