"""Scripts that cannot run are refused before anything is started for them; no other ones are."""

import subprocess
import sys
from pathlib import Path

import pytest
from launches import DEADLINE_SECONDS, pushpull

from pushpull.deploy.script_check import check_script
from pushpull.protos.errors import SettingError


def check(folder: Path, content: str | bytes) -> None:
    script = folder / "train.py"
    script.write_bytes(content if isinstance(content, bytes) else content.encode())
    check_script(str(script))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("import torch\nimport no_such_module\n", r"line 2 imports no_such_module, and .*python"),
        ("'''Trains.'''\nfrom __future__ import annotations\nfrom no.such import module\n", "line 3 imports no,"),
        ("import os, no_such_module as n, sys\n", "line 1 imports no_such_module,"),
        ("x = 1\nprint((x)\n", r"line 2: '\(' was never closed"),
        ("def step():\npass\n", "line 2: expected an indented block"),
        ("return 3\n", "line 1: 'return' outside function"),
        ("await x\n", "line 1: 'await' outside function"),
        (b"name = '\xff'\n", "'utf-8' codec can't decode|Non-UTF-8|unicode error"),
        (b"x = 1\0\n", "null bytes"),
        ("-" * 100_000 + "1", "cannot run: "),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_script_that_cannot_run_is_refused_with_its_line(tmp_path: Path, content: str | bytes, sentence: str) -> None:
    with pytest.raises(SettingError, match=f"train.py cannot run: .*({sentence})|{sentence}") as refusal:
        check(tmp_path, content)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "import torch, yaml\nfrom pushpull.worker import connect\n",
        "try:\n    import no_such_module\nexcept ImportError:\n    no_such_module = None\n",
        "import sys\nsys.path.insert(0, '/opt')\nimport no_such_module\n",
        "import beside\nimport no_such_module\n",
        "from folder import part\nimport no_such_module\n",
        "def late():\n    import no_such_module\n",
        "from . import part\n",
        "# -*- coding: latin-1 -*-\nname = '\xe9'\n".encode("latin-1").decode("latin-1"),
        "x = '\\d'\n",
    ],
)
def test_a_script_that_may_run_is_left_to_python(tmp_path: Path, content: str) -> None:
    (tmp_path / "beside.py").write_text("import sys; sys.path.append('/opt')\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__init__.py").touch()
    check(tmp_path, content)


def test_what_is_no_file_is_no_script(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.py"):
        with pytest.raises(SettingError, match=f"There is no script {path} "):
            check_script(str(path))


@pytest.mark.parametrize("command", [("launch",), ("worker", "--servers", "a:1", "--ranks", "2")], ids=lambda c: c[0])
def test_the_commands_refuse_it_before_they_load_anything_heavy(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import no_such_module\n")
    words = [sys.executable, "-X", "importtime", *pushpull(*command, str(tmp_path / "train.py"))[1:]]
    run = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    said = [line for line in run.stderr.splitlines() if not line.startswith("import time:")]
    assert (run.returncode, len(said)) == (1, 1)
    assert "line 1 imports no_such_module" in said[0]
    if command[0] == "launch":
        assert not {"torch", "numba"} & {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
