"""Kernels are compiled once for all processes, ahead of the first step, and again when any source changes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import numpy as np
import pytest

from pushpull.compression.frame import parse_frame
from pushpull.compression.kernels import CACHE_FOLDER
from pushpull.compression.spec import parse_codec
from pushpull.compression.warm_up import one_at_a_time, warm_up

ROOT = Path(__file__).resolve().parents[2]

COUNT_COMPILED = """
import gc, numba, numpy as np
from pushpull.compression.spec import parse_codec
from pushpull.compression.encoder_spec import parse_encoder
from pushpull.compression.frame import parse_frame

def compiled():
    return sum(len(thing.signatures) for thing in gc.get_objects() if isinstance(thing, numba.core.dispatcher.Dispatcher))

encoder = parse_encoder({spec!r})
encoder.warm_up()
before = compiled()
for size in (1, 40, 300, 5000, 20_000):
    values = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    out = np.empty(encoder.frame_bound(size), np.uint8)
    sender = encoder.build()
    for step in range(3):
        num_bytes = sender.encode(0, values, out, step)
        sender.commit([0])
        frame = parse_frame(out[:num_bytes].tobytes(), size)
        frame.decode_into(values.copy())
        frame.add_to(values.copy())
    sender.residual_norm()
print(compiled() - before)
"""


@pytest.mark.parametrize(
    "spec",
    [
        "fp16:stochastic",
        "int4+zstd",
        "int2",
        "sign",
        "vq:2x16",
        "randk:0.01+fp32",
        "topk:0.01+int8",
        "dgc:0.9:4+topk:0.01+int8",
    ],
)
def test_the_first_step_compiles_nothing(spec):
    done = subprocess.run(
        [sys.executable, "-c", COUNT_COMPILED.format(spec=spec)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "0"


def test_a_change_in_one_file_renews_what_other_files_call(tmp_path):
    """A copy of the package whose `draw_bits` changes: kernels of other files must not go on with the old one."""
    copy = tmp_path / "pushpull"
    for package in ("compression", "protos"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        "import numpy as np\n"
        "from pushpull.compression.spec import parse_codec\n"
        "codec, out = parse_codec('bf16:stochastic'), np.empty(10_000, np.uint8)\n"
        "print(out[:codec.encode(np.linspace(0, 1, 999, dtype=np.float32), out)].tobytes().hex())"
    )

    def run():
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", program]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    before = run()
    assert run() == before
    kernels = copy / "compression" / "kernels.py"
    source = kernels.read_text()
    changed = source.replace("index * GOLDEN) ^ seed", "index * GOLDEN) ^ seed ^ np.uint32(12345)")
    assert changed != source
    kernels.write_text(changed)
    assert run() != before


def test_a_process_waits_while_another_compiles():
    program = (
        "from pushpull.compression.warm_up import one_at_a_time\n"
        "with one_at_a_time():\n"
        "    print('mine', flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline().strip() == "mine"
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(CACHE_FOLDER / "compiling.lock").acquire(timeout=0.05)
        other.communicate("\n", timeout=30)
    with one_at_a_time():
        pass


def test_a_folder_that_cannot_be_locked_does_not_stop_anybody(monkeypatch):
    monkeypatch.setattr("pushpull.compression.warm_up.CACHE_FOLDER", Path("/proc/nowhere"))
    warm_up(parse_codec("int8"))
    values = np.ones(10, np.float32)
    out = np.empty(100, np.uint8)
    num_bytes = parse_codec("int8").encode(values, out)
    assert parse_frame(out[:num_bytes].data, 10).num_elements == 10
