"""`make test-bare`: the whole suite in a container that has Python and what pip installs, and no other program.

A test that needs a program must skip there and name it; one that fails needs more of a machine than it says. Not collected by
pytest. Arguments are pytest's.
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "containers"))

from images import BUILD_SECONDS, LABEL, REPOSITORY, base_image, pip_configuration  # noqa: E402
from podman import Podman, why_not  # noqa: E402

SOURCES = ("constraints.txt", "pyproject.toml", "deploy/container/requirements.py")
EXTRAS = "bench,dev,examples,monitoring,otel"
"""Those that `make test` installs."""
CONTAINERFILE = """
FROM {base}
COPY constraints.txt pyproject.toml requirements.py /tmp/
RUN cd /tmp && python3 -m venv /venv && python3 requirements.py {extras} > requirements.txt \\
    && /venv/bin/pip install -q -c constraints.txt setuptools torch \\
    && /venv/bin/pip install -q -c constraints.txt -r requirements.txt
RUN {packages}
WORKDIR /checkout
"""
# The shell stays process 1: it buries orphans, of which some tests make many.
RUN = """
/venv/bin/pip install -q --no-deps --no-build-isolation -e . || exit 1
/venv/bin/python -m pytest -p no:cacheprovider -rs "$@"
exit $?
"""
LONGEST_RUN_SECONDS = 3 * 3600.0


def bare_image(podman: Podman, packages: list[str]) -> str:
    """Python, the test dependencies, and these packages of Debian's. Kept until one of its sources changes."""
    base = base_image(podman)
    install = f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {' '.join(packages)}"
    text = CONTAINERFILE.format(base=base, extras=EXTRAS, packages=install if packages else "true")
    digest = hashlib.sha256(text.encode())
    for source in SOURCES:
        digest.update((ROOT / source).read_bytes())
    name = f"{REPOSITORY}/bare:{digest.hexdigest()[:12]}"
    if podman.exists("image", name):
        return name
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        configuration, mounts = pip_configuration()
        (context / "pip.conf").write_text(configuration, encoding="utf-8")
        (context / "Containerfile").write_text(text, encoding="utf-8")
        for source in SOURCES:
            shutil.copy(ROOT / source, context)
        volumes = [f"{path}:{path}:ro" for path in mounts] + [f"{context / 'pip.conf'}:/etc/pip.conf:ro"]
        podman(
            *("build", "--format", "docker", "--network", "host", "--label", f"{LABEL}={ROOT}"),
            *(word for volume in volumes for word in ("--volume", volume)),
            *("-t", name, context),
            timeout_seconds=2 * BUILD_SECONDS,
        )
    return name


def main() -> int:
    """Runs it; returns pytest's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", default="", help="of Debian's, separated by blanks: what the machine has besides")
    parser.add_argument("--privileged", action="store_true", help="root in the container may do what root here may")
    options, words = parser.parse_known_args()
    reason = why_not()
    if reason is not None:
        print(f"make test-bare: {reason}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        podman = Podman(Path(folder))
        image = bare_image(podman, options.packages.split())
        rights = ["--privileged", "--device", "/dev/net/tun"] if options.privileged else []
        try:
            # What the tests write stays in a layer above the checkout, which goes with the container.
            done = podman.ask(
                *("run", "--name", f"{podman.prefix}-bare", "--rm", "--shm-size", "1g", *rights),
                *("-v", f"{ROOT}:/checkout:O", image, "sh", "-c", RUN, "sh", *words),
                timeout_seconds=LONGEST_RUN_SECONDS,
            )
        finally:
            podman.clean()
    print(done.stdout)
    print(done.stderr, file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
