"""Kernels compiled ahead are found by who may not write; who may write nowhere compiles for itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

READ_ONLY = """
import errno, tempfile
from numba.core import caching

def refuse(*arguments, **options):
    raise OSError(errno.EROFS, "Read-only file system")

tempfile.TemporaryFile = refuse  # how numba finds out whether a folder may be written
caching.IndexDataCacheFile._open_for_write = refuse
"""

ENCODE = """
import gc, numba, numpy as np
from pushpull.compression.spec import parse_codec
codec, out = parse_codec("sign"), np.empty(10_000, np.uint8)
assert codec.encode(np.linspace(-1, 1, 999, dtype=np.float32), out) > 0
kernels = [thing for thing in gc.get_objects() if isinstance(thing, numba.core.dispatcher.Dispatcher)]
print(*(sum(sum(count.values()) for count in counts) for counts in (
    [kernel.stats.cache_hits for kernel in kernels], [kernel.stats.cache_misses for kernel in kernels])))
"""


@pytest.fixture
def installation(tmp_path):
    """A copy of the package without any compiled kernel."""
    for package in ("compression", "protos"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / "pushpull" / package, ignore=ignore)
    return tmp_path


def hits_and_misses(installation, program):
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment["PYTHONPATH"] = str(installation)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=installation, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    hits, misses = map(int, done.stdout.split())
    return hits, misses


def test_kernels_compiled_ahead_are_found_on_a_read_only_file_system(installation):
    assert hits_and_misses(installation, ENCODE)[1] > 0
    hits, misses = hits_and_misses(installation, READ_ONLY + ENCODE)
    assert hits > 0
    assert misses == 0


def test_without_a_place_for_kernels_they_are_compiled_in_memory(installation):
    hits, misses = hits_and_misses(installation, READ_ONLY + ENCODE)
    assert hits == 0
    assert misses > 0
    assert not list(installation.rglob("*.nbc"))


def test_kernels_of_other_sources_are_not_read(installation):
    hits_and_misses(installation, ENCODE)
    with (installation / "pushpull" / "compression" / "values" / "sign.py").open("a") as source:
        source.write("\n# changed\n")
    assert hits_and_misses(installation, READ_ONLY + ENCODE)[0] == 0
