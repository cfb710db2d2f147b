"""The image: who runs in it, what it needs, how it ends, and that nothing is compiled when a job starts."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_job import HARDENED
from podman import Podman

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

COUNT_COMPILED = """
import gc, numba
from pushpull.deploy.precompile import compile_all
compile_all()
kernels = [thing for thing in gc.get_objects() if type(thing).__name__ == "CPUDispatcher"]
for counts in ([kernel.stats.cache_hits for kernel in kernels], [kernel.stats.cache_misses for kernel in kernels]):
    print(sum(sum(count.values()) for count in counts))
"""
WHERE = "import pushpull.worker as w, os; print(w.__file__, os.getuid(), os.getgid())"
NOTHING_TO_WRITE = ("--read-only", "--read-only-tmpfs=false", "--network", "none")
SERVER = ("server", "--servers", "localhost:7077", "--shard", "0")


@pytest.fixture(autouse=True)
def _tidy(podman: Podman) -> Iterator[None]:
    yield
    podman.clean()


def test_the_image_says_who_runs_and_how_it_is_stopped_and_asked(podman: Podman, image: str) -> None:
    (found,) = json.loads(podman("image", "inspect", image))
    config = found["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["tini", "--", "pushpull"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["WorkingDir"] == "/work"
    assert found["HealthCheck" if "HealthCheck" in found else "Healthcheck"]["Test"] == ["CMD", "pushpull", "health"]
    assert config["Labels"]["org.opencontainers.image.title"] == "pushpull"
    print(f"size: {found['Size'] / 1e9:.2f} GB")


def test_the_package_is_installed_as_a_wheel_for_a_user_without_rights(podman: Podman, image: str) -> None:
    place, user, group = podman("run", "--rm", *NOTHING_TO_WRITE, "--entrypoint", "python", image, "-c", WHERE).split()
    assert "/site-packages/pushpull/" in place
    assert (user, group) == ("10001", "10001")


def test_no_kernel_is_compiled_at_run_time_even_where_nothing_may_be_written(
    podman: Podman, image: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    script = tmp_path / "count.py"
    script.write_text(COUNT_COMPILED, encoding="utf-8")
    mount = ("--volume", f"{script}:/work/count.py:ro")
    said = podman("run", "--rm", *NOTHING_TO_WRITE, *mount, "--entrypoint", "python", image, "count.py")
    hits, misses = map(int, said.split()[-2:])
    assert hits > 50
    assert misses == 0


def test_a_whole_cluster_trains_an_example_inside_one_container(podman: Podman, image: str) -> None:
    name = f"{podman.prefix}-launch"
    words = ("launch", "--servers", "2", "--workers", "2", "/opt/pushpull/examples/digits.py", "--steps", "60")
    started = time.monotonic()
    podman("run", "--name", name, *HARDENED, "--network", "none", image, *words, timeout_seconds=240)
    print(f"two servers and two workers, start to end: {time.monotonic() - started:.1f} s")
    assert podman.exit_status(name) == 0


def test_a_server_becomes_healthy_and_ends_well_on_sigterm(podman: Podman, image: str) -> None:
    name = f"{podman.prefix}-server"
    started = time.monotonic()
    podman(
        "run",
        "-d",
        "--name",
        name,
        *HARDENED,
        "--network",
        "none",
        image,
        "server",
        "--servers",
        "localhost:7077",
        "--shard",
        "0",
    )
    while podman.ask("healthcheck", "run", name).returncode != 0:
        assert time.monotonic() < started + 100, podman.logs(name)
    print(f"start to healthy: {time.monotonic() - started:.1f} s")
    podman("stop", "-t", "30", name)
    assert podman.exit_status(name) == 0, podman.logs(name)


@pytest.mark.parametrize("command", [SERVER, ("--help",)])
def test_sigterm_ends_a_container_that_has_only_just_started(
    podman: Podman, image: str, command: tuple[str, ...]
) -> None:
    """A process 1 without handlers would ignore it until it is killed."""
    name = f"{podman.prefix}-young"
    podman("run", "-d", "--name", name, "--network", "none", image, *command)
    podman("stop", "-t", "60", name, timeout_seconds=90)
    assert podman.exit_status(name) in (0, 143)
