"""`pushpull worker SCRIPT` runs a script as python itself would."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SHOW = """
import json, os, sys
import neighbour
print(json.dumps({
    "argv": sys.argv,
    "name": __name__,
    "path": sys.path[0],
    "neighbour": neighbour.__file__,
    "pushpull": {key: value for key, value in os.environ.items() if key.startswith("PUSHPULL_")},
}))
"""

INTERRUPTED = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
finally:
    print("goodbye")
"""


def run_worker(
    folder: Path, program: str, *words: str, arguments: tuple[str, ...] = (), before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(program, encoding="utf-8")
    (folder / "neighbour.py").write_text("", encoding="utf-8")
    command = [
        *before,
        sys.executable,
        "-m",
        "pushpull.deploy.cli",
        "worker",
        "--servers",
        "a:1,b:2",
        *words,
        str(script),
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_script_is_main_and_finds_its_neighbours_its_arguments_and_the_servers(tmp_path: Path) -> None:
    words = ("--steps", "3", "--servers", "mine", "--help")
    run = run_worker(tmp_path, SHOW, "--id", "7", "--patience-seconds", "9", arguments=words)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert seen["argv"] == [str(tmp_path / "script.py"), *words]
    assert seen["name"] == "__main__"
    assert seen["path"] == str(tmp_path)
    assert seen["neighbour"] == str(tmp_path / "neighbour.py")
    assert seen["pushpull"] == {
        "PUSHPULL_SERVERS": "a:1,b:2",
        "PUSHPULL_WORKER_ID": "7",
        "PUSHPULL_METRICS_LISTEN": "127.0.0.1:0",
        "PUSHPULL_PATIENCE_SECONDS": "9.0",
    }


def test_without_an_id_and_without_metrics_the_script_is_told_neither(tmp_path: Path) -> None:
    run = run_worker(tmp_path, SHOW, "--metrics-listen", "")
    assert json.loads(run.stdout)["pushpull"] == {"PUSHPULL_SERVERS": "a:1,b:2"}


def test_an_exception_of_the_script_is_shown_from_the_scripts_first_line_on(tmp_path: Path) -> None:
    run = run_worker(tmp_path, "def work():\n    raise KeyError('lost')\n\nwork()\n")
    assert run.returncode == 1
    lines = run.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "script.py" in lines[1]
    assert lines[-1] == "KeyError: 'lost'"
    assert "runpy" not in run.stderr


def test_the_scripts_exit_status_is_the_workers(tmp_path: Path) -> None:
    assert run_worker(tmp_path, "raise SystemExit(5)").returncode == 5


def test_an_error_of_pushpull_is_one_sentence(tmp_path: Path) -> None:
    run = run_worker(tmp_path, "from pushpull.protos.errors import WrongJobError\nraise WrongJobError('Not here.')")
    assert (run.returncode, run.stderr) == (1, "pushpull: Not here.\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_script_as_sys_exit_would(number: signal.Signals, tmp_path: Path) -> None:
    run = run_worker(tmp_path, INTERRUPTED.replace("SIGTERM", number.name))
    assert (run.returncode, run.stdout) == (128 + number, "goodbye\n")


def test_a_script_that_is_to_outlive_its_terminal_does(tmp_path: Path) -> None:
    hangs_up = "import os, signal\nos.kill(os.getpid(), signal.SIGHUP)\nprint('still here')\n"
    run = run_worker(tmp_path, hangs_up, before=("nohup",))
    assert (run.returncode, run.stdout) == (0, "still here\n")


CTRL_C = """
import os, signal, time
def interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""


def test_ctrl_c_is_a_keyboard_interrupt_in_the_script(tmp_path: Path) -> None:
    run = run_worker(tmp_path, f"{CTRL_C}\ntry:\n    interrupted()\nexcept KeyboardInterrupt:\n    print('saved')\n")
    assert (run.returncode, run.stdout, run.stderr) == (0, "saved\n", "")


def test_ctrl_c_that_nobody_catches_is_shown_from_the_scripts_first_line_on(tmp_path: Path) -> None:
    run = run_worker(tmp_path, f"{CTRL_C}\ninterrupted()\n")
    lines = run.stderr.splitlines()
    assert (run.returncode, lines[0], lines[-1]) == (130, "Traceback (most recent call last):", "KeyboardInterrupt")
    assert "script.py" in lines[1]
