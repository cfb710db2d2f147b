"""Device kernels against the CPU's, bit for bit, in Triton's interpreter; run by test_cuda_kernels.py, which sets
TRITON_INTERPRET before anything imports Triton."""

import os

import numpy as np
import pytest
import torch

from pushpull.compression.codec import DenseCodec
from pushpull.compression.cuda.device_codec import DeviceCodec
from pushpull.compression.cuda.device_frame import DeviceFrame
from pushpull.compression.cuda.triton_sections import TritonSections, triton_sections
from pushpull.compression.frame import parse_frame
from pushpull.compression.spec import example_specs, parse_codec
from pushpull.protos.errors import NonFiniteError

assert os.environ["TRITON_INTERPRET"] == "1"

CPU = torch.device("cpu")
LARGEST = np.finfo(np.float32).max
SIZES = (0, 1, 257, 2307)
"""Nothing, a tail alone, one element more than a block, and nine blocks, more than a program takes, with a tail."""

# Overflow and NaN are part of what the kernels do; the interpreter does it with numpy, which warns.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def is_with_kernels(spec):
    codec = parse_codec(spec)
    return isinstance(codec, DenseCodec) and isinstance(triton_sections(codec), TritonSections)


DENSE = sorted({*filter(is_with_kernels, example_specs()), "int4:32", "int8:stochastic:4096", "int2:32", "sign:32"})
SPARSE = ("topk:0.05+int4", "topk:0.004+fp16", "threshold:0.5+int8", "randk:0.05+int8:stochastic", "int4+zstd")

KINDS = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "wide": lambda rng, size: rng.standard_normal(size) * 10.0 ** rng.uniform(-44, 37, size),
    "tiny": lambda rng, size: rng.standard_normal(size) * 1e-42,
    "tied": lambda rng, size: rng.integers(-2, 3, size).astype(float),
    "mostly zero": lambda rng, size: rng.standard_normal(size) * (rng.random(size) < 0.02),
    "minus zero": lambda rng, size: -np.zeros(size),
    "largest": lambda rng, size: rng.choice([LARGEST, -LARGEST, LARGEST * 0.999, 1.0], size),
}


def vector(kind, size):
    values = KINDS[kind](np.random.default_rng(size), size)
    return np.clip(values, -LARGEST, LARGEST).astype(np.float32)


def on_cpu(codec, values, seed, committed=None):
    out, pending = np.empty(codec.frame_bound(values.size), np.uint8), np.full_like(values, np.nan)
    residual = None if committed is None else (committed, pending)
    return out[: codec.encode(values, out, seed=seed, residual=residual)].tobytes(), pending


def on_device(codec, values, seed, committed=None):
    pending = torch.full((values.size,), torch.nan)
    residual = None if committed is None else (torch.from_numpy(committed), pending)
    frame = DeviceCodec(codec, triton_sections).encode(torch.from_numpy(values), seed=seed, residual=residual)
    return frame.numpy().tobytes(), pending.numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", [*DENSE, *SPARSE])
def test_frames_and_residuals_have_the_bits_of_the_cpu_kernels(spec, kind):
    codec = parse_codec(spec)
    for size in SIZES if kind == "normal" else SIZES[-1:]:
        values = vector(kind, size)
        with_residual = spec in DENSE or codec.contract.admits_error_feedback
        if kind == "normal" or not with_residual:
            assert on_device(codec, values, 2**40 + size)[0] == on_cpu(codec, values, 2**40 + size)[0]
        if with_residual:
            part, committed = values * np.float32(0.75), values[::-1].copy() * np.float32(0.25)
            frame, pending = on_device(codec, part, size, committed)
            expected, left = on_cpu(codec, part, size, committed)
            assert frame == expected
            assert pending.tobytes() == left.tobytes()


@pytest.mark.parametrize("kind", ["normal", "wide", "tiny"])
@pytest.mark.parametrize("spec", [*DENSE, *SPARSE])
def test_decoding_and_adding_have_the_bits_of_the_cpu_kernels(spec, kind):
    codec = parse_codec(spec)
    for size in SIZES if kind == "normal" else SIZES[-1:]:
        frame, _ = on_cpu(codec, vector(kind, size), 3)
        expected, total = parse_frame(frame, size), np.arange(size, dtype=np.float32)
        found, sum_ = DeviceFrame(frame, size, CPU, triton_sections), torch.arange(size, dtype=torch.float32)
        decoded, out = np.empty(size, np.float32), torch.full((size,), torch.nan)
        expected.decode_into(decoded, 0.3)
        found.decode_into(out, 0.3)
        assert out.numpy().tobytes() == decoded.tobytes()
        expected.add_to(total, 0.3)
        found.add_to(sum_, 0.3)
        assert sum_.numpy().tobytes() == total.tobytes()


@pytest.mark.parametrize("bad", [np.nan, -np.inf], ids=str)
@pytest.mark.parametrize("spec", DENSE)
def test_a_value_that_is_not_finite_is_found_in_whole_blocks_and_in_the_tail(spec, bad):
    codec = parse_codec(spec)
    committed = np.full(2307, 0.5, np.float32)
    for place in (0, 2200, 2306):
        values = np.ones(2307, np.float32)
        values[place] = bad
        with pytest.raises(NonFiniteError, match=f"value {place} of 2307"):
            on_device(codec, values, 0, committed)
    assert (committed == 0.5).all()
