"""Images for the tests, made on this machine: no registry of images is needed, only those of packages.

They are kept between runs and made again when what they are made from has changed.
"""

import ast
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from podman import Podman

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "containers"
REPOSITORY = "localhost/pushpull-test"
LABEL = "pushpull.test.checkout"

BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")
BUILD_SECONDS = 570.0


def base_image(podman: Podman) -> str:
    """A Debian of this machine's release, with Python and nothing else."""
    release, mirror = _release(), _mirror()
    name = f"{REPOSITORY}/base:{release}-{_digest([' '.join(BASE_PACKAGES)])}"
    if not podman.exists("image", name):
        KEPT.mkdir(parents=True, exist_ok=True)
        archive = KEPT / f"{name.rpartition(':')[2]}.tar"
        if not archive.exists():
            partial = archive.with_suffix(".part.tar")
            options = ["--variant=minbase", f"--include={','.join(BASE_PACKAGES)}"]
            options += ['--aptopt=Acquire::Check-Valid-Until "false"']
            _run(["mmdebstrap", "--quiet", *options, release, str(partial), mirror])
            partial.rename(archive)
        podman("import", "--change", 'CMD ["/bin/sh"]', archive, name, timeout_seconds=BUILD_SECONDS)
    return name


def product_image(podman: Podman, base: str) -> str:
    """What deploy/container/Containerfile makes of this checkout."""
    KEPT.mkdir(parents=True, exist_ok=True)
    configuration = KEPT / "pip.conf"
    text, mounts = pip_configuration()
    configuration.write_text(text, encoding="utf-8")
    files = (f"{path.relative_to(ROOT)} {_digest([path.read_bytes()])}" for path in context_files())
    stamp = _digest([base, text, *files])
    name = f"{REPOSITORY}/pushpull:{stamp}"
    if not podman.exists("image", name):
        volumes = [f"{path}:{path}:ro" for path in mounts] + [f"{configuration}:/etc/pip.conf:ro"]
        podman(
            *("build", "--format", "docker", "--network", "host", "--label", f"{LABEL}={ROOT}"),
            *(word for volume in volumes for word in ("--volume", volume)),
            *("--build-arg", f"BASE={base}", "--build-arg", "TORCH_INDEX=", "--build-arg", "REVISION=test"),
            *("-f", ROOT / "deploy" / "container" / "Containerfile", "-t", name, ROOT),
            timeout_seconds=BUILD_SECONDS,
        )
        _forget_older(podman, name)
    return name


def prometheus_image(podman: Podman, base: str, folder: Path) -> str:
    """This machine's Prometheus, in place of the official image, which no registry here has."""
    program = Path(shutil.which("prometheus") or "")
    name = f"{REPOSITORY}/prometheus:{_digest([base, program.read_bytes()])}"
    if not podman.exists("image", name):
        shutil.copy(program, folder / "prometheus")
        lines = [
            f"FROM {base}",
            "COPY prometheus /bin/prometheus",
            "RUN mkdir /prometheus && chown 65534 /prometheus",
            "USER 65534",
            "WORKDIR /prometheus",
            'ENTRYPOINT ["/bin/prometheus"]',
        ]
        (folder / "Containerfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
        podman("build", "--format", "docker", "--label", f"{LABEL}={ROOT}", "-t", name, folder, timeout_seconds=300)
    return name


def pip_configuration() -> tuple[str, list[Path]]:
    """What this machine's pip is told, as a file for the build, and the folders and files that it names."""
    listed = _run([sys.executable, "-m", "pip", "config", "list"])
    settings: dict[str, str] = {}
    for line in listed.splitlines():  # the environment comes first in the list, and wins
        name, _, value = line.partition("=")
        settings.setdefault(name.rpartition(".")[2], str(ast.literal_eval(value)))
    lines = [f"{name} = {' '.join(value.split())}" for name, value in sorted(settings.items())]
    words = [word for value in settings.values() for word in value.split()]
    places = {Path(word) for word in words if word.startswith("/")}
    # An index on disk has its files beside it.
    places |= {Path(word.removeprefix("file://")).parent for word in words if word.startswith("file:///")}
    return "\n".join(["[global]", *lines, ""]), sorted(place for place in places if place.exists())


def context_files() -> Iterator[Path]:
    """What .containerignore lets an image be made from."""
    lines = (ROOT / ".containerignore").read_text(encoding="utf-8").splitlines()
    unused = tuple(line for line in lines if line and line[0] not in "#!*")
    for source in [ROOT / line[1:] for line in lines if line.startswith("!")]:
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            relative = str(path.relative_to(ROOT))
            if path.is_file() and not relative.startswith(unused) and "__pycache__" not in relative:
                yield path


def _forget_older(podman: Podman, current: str) -> None:
    """Images of earlier states of this checkout, and the stage that only builds the package."""
    mine = ["--filter", f"label={LABEL}={ROOT}", "--format", "{{.Repository}}:{{.Tag}}"]
    for name in podman("image", "ls", *mine).split():
        if name.startswith(f"{REPOSITORY}/pushpull:") and name != current:
            podman.ask("image", "rm", name)
    podman("image", "prune", "-f", "--filter", "label=pushpull.stage=package")


def _release() -> str:
    """Debian's (or Ubuntu's) name of this machine's release."""
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)["VERSION_CODENAME"].strip('"')


def _mirror() -> str:
    """Where apt of this machine finds its release."""
    lines = _run(["apt-get", "indextargets", "--format", "$(CODENAME) $(SITE)"]).split("\n")
    return next(line.split()[1] for line in lines if line.split()[:1] == [_release()])


def _digest(parts: Iterable[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:12]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
