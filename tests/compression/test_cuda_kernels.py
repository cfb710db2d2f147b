"""The device kernels without a device: run in Triton's interpreter, compiled for GPUs and read, never launched on one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pushpull.compression.cuda.device_codec import DeviceCodec
from pushpull.compression.spec import parse_codec

triton = pytest.importorskip("triton")

from pushpull.compression.cuda import triton_sections  # noqa: E402 - needs Triton

INTERPRETED = Path(__file__).with_name("interpreted_kernels.py")
COUNT = 70_000
KERNELS = ("encode_integers", "decode_integers", "encode_signs", "decode_signs", "encode_casts", "decode_casts")
TYPES = {
    torch.float32: "*fp32", torch.int32: "*i32", torch.int16: "*i16", torch.int8: "*i8", torch.uint8: "*u8",
    int: "i32", float: "fp32",
}  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", ["test_frames", "test_decoding", "test_a_value"])
def test_kernels_agree_with_the_cpu_in_tritons_interpreter(part) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=280", "-k", part, str(INTERPRETED)]
    ran = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=290, check=False
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert re.search(r"^\d+ passed", ran.stdout, re.MULTILINE)


class Launches:
    """Stands for a kernel: keeps what it would be launched with."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.seen = []

    def __getitem__(self, grid):
        assert all(size > 0 for size in grid)
        return lambda *arguments, **constants: self.seen.append((arguments, constants))


def ptx_of(kernel, arguments, options):
    """The assembly of the very launch, for a GPU of compute capability 9.0."""
    constants = {name: value for name, value in options.items() if name.isupper()}
    settings = {name: value for name, value in options.items() if not name.isupper()}
    names = [name for name in kernel.arg_names if name not in constants]
    numbers = [place for place, value in enumerate(arguments) if isinstance(value, int)]
    assert all(kernel.params[place].do_not_specialize for place in numbers), "compiled again for other counts"
    types = {name: TYPES[getattr(value, "dtype", type(value))] for name, value in zip(names, arguments, strict=True)}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, value in enumerate(arguments)
        if isinstance(value, torch.Tensor) and value.data_ptr() % 16 == 0
    }
    source = triton.compiler.ASTSource(
        kernel, {**types, **dict.fromkeys(constants, "constexpr")}, constexprs=constants, attrs=aligned
    )
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options=settings).asm["ptx"]


@pytest.mark.parametrize(
    "spec", ["fp32", "bf16", "bf16:stochastic", "fp16", "fp16:stochastic", "int8", "int4:stochastic", "int2", "int2:32768",
             "sign:32", "sign:stochastic"],
)  # fmt: skip
def test_the_compiler_keeps_every_rounding(spec, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launches = {name: Launches(getattr(triton_sections, name)) for name in KERNELS}
    for name, stand_in in launches.items():
        monkeypatch.setattr(triton_sections, name, stand_in)
    codec, values = parse_codec(spec), torch.ones(COUNT)
    frame = DeviceCodec(codec, triton_sections.triton_sections).encode(
        values, seed=2**31 + 1, residual=(values, torch.empty(COUNT))
    )
    triton_sections.triton_sections(codec).decode(frame[24:], values, 0.5, True)
    compiled = [ptx_of(launched.kernel, *seen) for launched in launches.values() for seen in launched.seen]
    assert len(compiled) == 2
    for ptx in compiled:
        assert re.search(r"\b(mul|add|sub)\.(rn\.)?f32\b", ptx) or spec in ("fp32", "bf16")
        assert not re.search(r"\bfma\.|\bmad\.[a-z.]*f32|\.ftz|\.approx|div\.full", ptx)
        assert set(re.findall(r"\bdiv\.\S*", ptx)) <= {"div.rn.f32"}
        assert re.search(r"\bld\.global\.v[248]\.", ptx), "loads are not vectors any more"
