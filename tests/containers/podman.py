"""Podman from tests: a configuration of its own, names of its own, and nothing left behind."""

import json
import os
import re
import resource
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

PROGRAMS = {"podman": "podman", "buildah": "buildah", "runc": "runc", "mmdebstrap": "mmdebstrap"}
"""What must be installed, and the Debian packages that have it."""

MOST_PROCESSES = 32768
NOISE = re.compile(r"unable to get systemd connection|failed to connect to syslog|Error validating CNI config")
"""What podman complains of where systemd does not run; nothing of it matters here."""


def why_not() -> str | None:
    """Why tests with containers cannot run on this machine; None if they can."""
    if os.geteuid() != 0:
        return "containers with CPU limits and a network need root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not installed: make test-containers installs what it needs"
    return None


class PodmanError(AssertionError):
    """A podman command failed."""


class Podman:
    """Runs podman. What it makes under `prefix` is removed by `clean`."""

    def __init__(self, folder: Path) -> None:
        """Writes its configuration into `folder`."""
        self.prefix = f"pushpull-test-{secrets.token_hex(3)}"
        path = folder / "containers.conf"
        path.write_text(_configuration(), encoding="utf-8")
        self.environment = os.environ | {"CONTAINERS_CONF": str(path)}

    def __call__(self, *words: str | Path, timeout_seconds: float = 60.0) -> str:
        """Standard output of `podman WORDS`; raises PodmanError with what it wrote to standard error."""
        done = self.ask(*words, timeout_seconds=timeout_seconds)
        if done.returncode != 0:
            raise PodmanError(
                f"podman {' '.join(map(str, words))}: status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout.strip()

    def ask(self, *words: str | Path, timeout_seconds: float = 60.0) -> "subprocess.CompletedProcess[str]":
        """The same, for commands that may fail."""
        done = subprocess.run(
            ["podman", *map(str, words)], env=self.environment, capture_output=True, text=True, timeout=timeout_seconds
        )
        done.stderr = "\n".join(line for line in done.stderr.splitlines() if not NOISE.search(line))
        return done

    def exists(self, kind: str, name: str) -> bool:
        """Whether there is an `image`, a `container`, ... of this name."""
        return self.ask(kind, "exists", name).returncode == 0

    def inspect(self, name: str) -> dict[str, Any]:
        """All that podman knows of a container."""
        (found,) = json.loads(self("container", "inspect", name))
        return dict(found)

    def logs(self, name: str) -> str:
        """What a container has written so far, both streams."""
        done = self.ask("logs", name)
        return done.stdout + done.stderr

    def exit_status(self, name: str) -> int:
        """Waits for the end of a container."""
        return int(self("wait", name, timeout_seconds=120))

    def clean(self) -> None:
        """Removes containers, networks and volumes whose names begin with `prefix`."""
        # By labels too: podman-compose names networks and volumes after its project.
        for name in self._named("ps", "-a", "--format", "{{.Names}}"):
            self.ask("rm", "-f", "-v", "-t", "0", name)
        for kind in ("network", "volume"):
            for name in self._named(kind, "ls", "--format", "{{.Name}}"):
                self.ask(kind, "rm", "-f", name)

    def _named(self, *words: str) -> list[str]:
        return [name for name in self(*words).split() if name.startswith(self.prefix)]


def _configuration() -> str:
    """A root that may not raise its own limits cannot start containers with podman's default ones."""
    files, processes = (resource.getrlimit(each)[1] for each in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    files = files if files != resource.RLIM_INFINITY else 1 << 20
    processes = min(MOST_PROCESSES, processes) if processes != resource.RLIM_INFINITY else MOST_PROCESSES
    return "\n".join(
        [
            "[containers]",
            f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]',
            "[network]",
            'network_backend = "netavark"',
            "[engine]",
            'runtime = "runc"',
            'cgroup_manager = "cgroupfs"',
            'events_logger = "file"',
            "",
        ]
    )
