"""vq: codewords are learned from the block, kept for a while, and never make a vector worse than zero."""

import struct
from itertools import groupby, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pushpull.compression import oracle
from pushpull.compression.frame import parse_frame
from pushpull.compression.header import HEADER_BYTES
from pushpull.compression.spec import parse_codec
from pushpull.protos.errors import CodecError, FrameError, NonFiniteError

DIMS = (2, 4, 8, 16)
SPECS = [f"vq:{dim}x{codewords}" for dim, codewords in product(DIMS, (4, 8, 16, 32, 64, 128, 256))]
LARGEST = np.finfo(np.float32).max
PARAMETER = 7

quick = settings(max_examples=40, deadline=None)


def gaussian(rng, size):
    return rng.standard_normal(size)


def heavy_tailed(rng, size):
    return rng.standard_t(3, size)


def of_equal_norm(rng, size):
    """Nothing but the rounding decides between a codeword and zero."""
    return np.sign(rng.standard_normal(size)) * np.float32(0.1)


def few_levels(rng, size):
    return rng.integers(-1, 2, size)


def of_every_magnitude(rng, size):
    return rng.standard_normal(size) * 10.0 ** rng.uniform(-44, 37, size)


def subnormal(rng, size):
    return rng.standard_normal(size) * 1e-42


def next_to_the_largest_float(rng, size):
    return rng.uniform(-1, 1, size) * LARGEST


MAKERS = [
    gaussian,
    heavy_tailed,
    of_equal_norm,
    few_levels,
    of_every_magnitude,
    subnormal,
    next_to_the_largest_float,
]


def block(make, size, seed=0):
    return make(np.random.default_rng(seed), size).astype(np.float32)


def frame_of(codec, values, memo=None):
    out = np.empty(codec.frame_bound(values.size), np.uint8)
    return out[: codec.encode(values, out, memo=memo)].tobytes()


def codewords_of(codec, frame, size):
    num_codewords = codec.num_codewords(size)
    book = np.frombuffer(frame, np.float32, num_codewords * codec.dim, HEADER_BYTES)
    return book.reshape(num_codewords, codec.dim)


def vectors_of(codec, values):
    return np.pad(values.astype(np.float64), (0, -values.size % codec.dim)).reshape(-1, codec.dim)


def relative_error(values, result):
    exact = values.astype(np.float64)
    return float(((result - exact) ** 2).sum() / max((exact**2).sum(), np.finfo(np.float64).tiny))


class TestQuality:
    @pytest.mark.parametrize(
        ("spec", "make", "most_error"),
        [
            ("vq:4x256", gaussian, 0.106),
            ("vq:2x16", gaussian, 0.124),
            ("vq:4x256", heavy_tailed, 0.15),
            ("vq:2x16", heavy_tailed, 0.23),
        ],
    )
    def test_it_beats_int2_with_fewer_bits(self, spec, make, most_error, encoded, decoded):
        values = block(make, 1 << 20)
        frame, ternary = encoded(parse_codec(spec), values), encoded(parse_codec("int2"), values)
        assert 8 * len(frame) / values.size < 2.04 < 8 * len(ternary) / values.size
        error = relative_error(values, decoded(frame, values.size))
        assert error < most_error
        assert error < 0.65 * relative_error(values, decoded(ternary, values.size))

    @pytest.mark.parametrize("spec", ["vq:2x16", "vq:4x16", "vq:4x256", "vq:16x64"])
    @pytest.mark.parametrize("make", [gaussian, heavy_tailed])
    def test_kernels_learn_as_well_as_the_oracle(self, spec, make, encoded, decoded):
        codec, values = parse_codec(spec), block(make, 1 << 14)
        expected = oracle.decode(oracle.encode(codec, torch.from_numpy(values))[0], values.size).numpy()
        error = relative_error(values, decoded(encoded(codec, values), values.size))
        assert error < 1.05 * relative_error(values, expected)

    @pytest.mark.parametrize("spec", ["vq:2x256", "vq:4x16", "vq:8x256"])
    def test_a_block_of_few_different_vectors_is_exact(self, spec, encoded, decoded):
        codec, rng = parse_codec(spec), np.random.default_rng(1)
        distinct = rng.standard_normal((12, codec.dim)).astype(np.float32)
        values = distinct[rng.integers(0, 12, 4000)].ravel()
        np.testing.assert_allclose(decoded(encoded(codec, values), values.size), values, rtol=1e-6)

    @pytest.mark.parametrize("spec", ["vq:4x256", "vq:2x16"])
    def test_a_codebook_takes_at_most_an_eighth_of_the_elements_bytes(self, spec):
        codec = parse_codec(spec)
        for num_vectors in range(16, 5000):
            size = num_vectors * codec.dim
            assert 4 * codec.num_codewords(size) * codec.dim <= 4 * size / 8


class TestContract:
    @pytest.mark.parametrize("spec", SPECS)
    @pytest.mark.parametrize("make", MAKERS)
    def test_no_vector_is_worse_than_zero_and_the_largest_is_exact(self, spec, make, encoded, decoded):
        codec = parse_codec(spec)
        for size in (1, 17, 300, 4099):
            values = block(make, size, seed=size)
            result = decoded(encoded(codec, values), size)
            # Vectors are made of the elements that are not zero; the others are exact.
            sent = values != 0
            assert not result[~sent].any()
            vectors = vectors_of(codec, values[sent])
            errors = ((vectors_of(codec, result[sent]) - vectors) ** 2).sum(axis=1)
            norms = (vectors**2).sum(axis=1)
            assert (errors <= norms).all()
            assert not sent.any() or errors[norms == norms.max()].min() == 0
            assert errors.sum() <= (1 - codec.contract.delta(size)) * norms.sum() * (1 + 1e-12)

    @pytest.mark.parametrize("dim", DIMS)
    def test_rounding_never_decides_for_a_codeword_that_is_further_away_than_zero(self, dim, encoded, decoded):
        """Vectors half-way between zero and the only other codeword, the largest vector."""
        codec, rng = parse_codec(f"vq:{dim}x4"), np.random.default_rng(dim)
        for _ in range(300):
            largest = rng.standard_normal(dim)
            across = rng.standard_normal((12, dim))
            across -= np.outer(across @ largest, largest) / (largest @ largest)
            across *= 0.8 * np.linalg.norm(largest) / np.linalg.norm(across, axis=1, keepdims=True)
            vectors = np.concatenate([largest[None], largest / 2 + across]).astype(np.float32)
            result = decoded(encoded(codec, vectors.ravel()), vectors.size).reshape(-1, dim)
            exact = vectors.astype(np.float64)
            assert (((result - exact) ** 2).sum(axis=1) <= (exact**2).sum(axis=1)).all()

    @quick
    @given(
        makers=st.lists(st.sampled_from(MAKERS), min_size=2, max_size=6),
        specs=st.lists(st.sampled_from(["vq:4x256", "vq:2x16", "vq:16x4"]), min_size=1, max_size=2),
        size=st.sampled_from([1, 70, 3001]),
    )
    def test_what_an_encoder_remembers_never_breaks_it(self, makers, specs, size):
        memo = {}
        for step, make in enumerate(makers):
            codec, values = parse_codec(specs[step % len(specs)]), block(make, size, step)
            result = np.empty_like(values)
            parse_frame(frame_of(codec, values, memo), size).decode_into(result)
            assert relative_error(values, result) <= (1 - codec.contract.delta(size)) * (1 + 1e-12)

    @pytest.mark.parametrize("spec", ["vq:4x256", "vq:2x16", "vq:8x4"])
    @pytest.mark.parametrize("exponent", [-100, -7, 1, 90])
    def test_a_power_of_two_passes_through(self, spec, exponent, encoded, decoded):
        codec, values = parse_codec(spec), block(heavy_tailed, 5000)
        plain = decoded(encoded(codec, values), values.size)
        scaled = decoded(encoded(codec, np.ldexp(values, exponent)), values.size)
        np.testing.assert_array_equal(scaled, np.ldexp(plain, exponent))

    @pytest.mark.parametrize("spec", SPECS)
    def test_a_single_vector_is_exact(self, spec, encoded, decoded):
        codec = parse_codec(spec)
        for size in range(codec.dim + 1):
            values = block(gaussian, size)
            np.testing.assert_array_equal(decoded(encoded(codec, values), size), values)

    def test_what_is_left_out_stays_finite_next_to_the_largest_float(self, encoded):
        values = np.full(4096, LARGEST, np.float32)
        values[3::4] *= -1
        values[:4] = LARGEST
        pending = np.empty_like(values)
        encoded(parse_codec("vq:4x4"), values, residual=(np.zeros_like(values), pending))
        assert np.isfinite(pending).all()

    def test_selections_refuse_it_because_no_bound_holds_for_all_sizes(self):
        for selection in ("topk:0.01", "threshold:2", "randk:0.01:unscaled"):
            with pytest.raises(CodecError, match="squared error"):
                parse_codec(f"{selection}+vq:4x256")


class TestMemory:
    SIZE = 8192

    def test_the_codebook_is_refreshed_now_and_then(self):
        codec, values, memo = parse_codec("vq:4x256"), block(gaussian, self.SIZE), {}
        frames = [frame_of(codec, values, memo) for _ in range(70)]
        assert [len(list(same)) for _, same in groupby(frames)] == [32, 32, 6]

    def test_between_refreshes_codewords_follow_the_size_of_the_values(self):
        codec, memo = parse_codec("vq:4x16"), {}
        first, second = block(gaussian, self.SIZE, 1), 1000 * block(gaussian, self.SIZE, 2)
        books = [
            codewords_of(codec, frame_of(codec, values, memo), self.SIZE) / np.sqrt(np.mean(values**2))
            for values in (first, second)
        ]
        np.testing.assert_allclose(books[1][2:], books[0][2:], rtol=1e-5)

    def test_refreshing_goes_on_from_the_codewords_before(self, decoded):
        codec, values, memo = parse_codec("vq:4x256"), block(gaussian, 1 << 16), {}
        frames = [frame_of(codec, values, memo) for _ in range(65)]
        errors = [relative_error(values, decoded(frame, values.size)) for frame in frames]
        assert errors[64] < errors[32] < errors[0]

    def test_a_codebook_that_fits_no_more_is_replaced_with_the_next_frame(self):
        codec, memo = parse_codec("vq:4x16"), {}
        centres = block(gaussian, 12 * codec.dim, seed=9)
        for _ in range(3):
            frame_of(codec, np.resize(centres, self.SIZE), memo)
        values = block(heavy_tailed, self.SIZE)
        fresh = frame_of(codec, values)
        assert [frame_of(codec, values, memo) == fresh for _ in range(3)] == [False, True, True]

    def test_codecs_of_different_sizes_do_not_use_each_others_codebooks(self):
        values, memo = block(gaussian, self.SIZE), {}
        for spec in ("vq:4x16", "vq:4x64", "vq:2x16", "vq:4x16"):
            codec = parse_codec(spec)
            assert frame_of(codec, values, memo) == frame_of(codec, values)

    def test_without_a_memory_every_frame_learns_anew(self, encoded):
        codec, values = parse_codec("vq:4x256"), block(gaussian, self.SIZE)
        assert encoded(codec, values) == encoded(codec, values) == frame_of(codec, values, {})

    def test_a_frame_refused_for_its_values_changes_no_memory(self):
        codec, values, memo = parse_codec("vq:4x16"), block(gaussian, self.SIZE), {}
        frame_of(codec, values, memo)
        kept = dict(memo)
        values[77] = np.nan
        with pytest.raises(NonFiniteError):
            frame_of(codec, values, memo)
        assert memo == kept


class TestValidation:
    SIZE = 802

    def changed(self, spec, offset, replacement):
        """A frame with other bytes at that offset."""
        codec = parse_codec(spec)
        frame = bytearray(frame_of(codec, block(gaussian, self.SIZE)))
        frame[offset : offset + len(replacement)] = replacement
        return bytes(frame)

    def codes_at(self, spec):
        codec = parse_codec(spec)
        return HEADER_BYTES + 4 * codec.num_codewords(self.SIZE) * codec.dim

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("place", [0, 5, 15])
    def test_a_codeword_that_is_not_finite_is_refused(self, bad, place):
        frame = self.changed("vq:4x4", HEADER_BYTES + 4 * place, struct.pack("<f", bad))
        with pytest.raises(NonFiniteError, match="vq:4x4 frame has a codeword"):
            parse_frame(frame, self.SIZE)

    @pytest.mark.parametrize(
        ("spec", "offset", "replacement", "message"),
        [
            # 201 vectors of 4: 24 codewords of 256; 401 of 2: all 16; 101 of 8: 12 of 16.
            ("vq:4x256", 0, b"\x18", "code beyond the last"),
            ("vq:4x256", 200, b"\xff", "code beyond the last"),
            ("vq:4x256", 201, b"\x01", "padding"),
            ("vq:8x16", 0, b"\x0c", "code beyond the last"),
            ("vq:8x16", 0, b"\xc0", "code beyond the last"),
            ("vq:8x16", 50, b"\x10", "behind the last vector"),
            ("vq:2x16", 200, b"\x10", "behind the last vector"),
            ("vq:2x16", 201, b"\x01", "padding"),
            ("vq:4x4", 48, b"\x40", "behind the last vector"),
            ("vq:4x4", 50, b"\x40", "behind the last vector"),
            ("vq:4x4", 51, b"\x80", "padding"),
        ],
    )
    def test_a_code_without_a_codeword_or_a_vector_is_refused(self, spec, offset, replacement, message):
        with pytest.raises(FrameError, match=message):
            parse_frame(self.changed(spec, self.codes_at(spec) + offset, replacement), self.SIZE)

    @pytest.mark.parametrize("parameter", [0x00, 0x08, 0x58, 0xF8, 0x21, 0x29, 0x2F])
    def test_sizes_that_do_not_exist_are_refused(self, parameter):
        with pytest.raises(FrameError, match="codewords of 2"):
            parse_frame(self.changed("vq:4x256", PARAMETER, bytes([parameter])), self.SIZE)

    @pytest.mark.parametrize("spec", SPECS)
    def test_every_size_has_its_own_parameter(self, spec):
        codec, values = parse_codec(spec), block(gaussian, self.SIZE)
        assert codec.spec == spec
        frame = frame_of(codec, values)
        for other in SPECS:
            relabelled = frame[:PARAMETER] + bytes([parse_codec(other).parameter]) + frame[PARAMETER + 1 :]
            assert (relabelled == frame) == (other == spec)

    @pytest.mark.parametrize(
        "arguments", ["", ":", ":4", ":4x", ":x16", ":3x16", ":32x16", ":4x2", ":4x512", ":4x16x2", ":4x16:1", ":-4x16"]
    )
    def test_a_specification_that_is_not_a_size_is_refused_with_those_that_are(self, arguments):
        with pytest.raises(CodecError, match=r"2, 4, 8, 16.*4, 8, 16, 32, 64, 128, 256"):
            parse_codec(f"vq{arguments}")
