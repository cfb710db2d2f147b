"""What every codec promises, checked for every specification by one set of tests."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pushpull.compression import oracle
from pushpull.compression.frame import parse_frame
from pushpull.compression.spec import parse_codec
from pushpull.protos.errors import NonFiniteError

LARGEST = float(np.finfo(np.float32).max)

quick = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors]
)

finite = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-LARGEST, max_value=LARGEST)


def normal(rng, size):
    return rng.standard_normal(size)


def wide(rng, size):
    return rng.standard_normal(size) * 10.0 ** rng.uniform(-44, 37, size)


def tiny(rng, size):
    return rng.standard_normal(size) * 1e-42


def tied(rng, size):
    return rng.integers(-2, 3, size).astype(float)


def mostly_zero(rng, size):
    return rng.standard_normal(size) * (rng.random(size) < 0.02)


def heavy_tailed(rng, size):
    return rng.standard_t(2, size)


def one_large(rng, size):
    values = rng.standard_normal(size) * 0.01
    values[size // 3 : size // 3 + 1] = 1.0
    return values


def all_zero(rng, size):
    return -np.zeros(size)


@st.composite
def vectors(draw):
    if draw(st.booleans()):
        return draw(arrays(np.float32, st.integers(0, 9), elements=finite))
    size = draw(st.one_of(st.sampled_from([0, 1, 255, 256, 257, 4096, 5000]), st.integers(2, 800)))
    make = draw(st.sampled_from([normal, wide, tiny, tied, mostly_zero, heavy_tailed, one_large, all_zero]))
    return np.clip(make(np.random.default_rng(draw(st.integers(0, 99))), size), -LARGEST, LARGEST).astype(np.float32)


def norm(values):
    return float(np.linalg.norm(values.astype(np.float64)))


def block_maxima(codec, values):
    """For each element the largest magnitude of what its quantiser looks at: without a code for zero, that is the others."""
    sizes = np.abs(values).astype(np.float64)
    block = getattr(codec, "block", None)
    if block is None:
        return np.full(values.size, sizes.max(initial=0.0))
    seen = np.ones(values.size, bool) if codec.says_zero else sizes > 0
    largest = np.zeros(values.size)
    padded = np.pad(sizes[seen], (0, -seen.sum() % block)).reshape(-1, block)
    largest[seen] = np.repeat(padded.max(axis=1), block)[: seen.sum()]
    return largest


def spread_values():
    """Above the thresholds of the examples, and rarely on a level of any quantiser."""
    return np.random.default_rng(9).uniform(3, 11, 4096).astype(np.float32)


class TestFrames:
    @quick
    @given(values=vectors(), seed=st.integers(0, 2**64 - 1))
    def test_a_frame_fits_its_bound_and_keeps_later_frames_aligned(self, codec, encoded, values, seed):
        frame = encoded(codec, values, seed)
        assert len(frame) <= codec.frame_bound(values.size)
        assert len(frame) % 4 == 0
        assert codec.frame_bound(values.size) % 4 == 0
        parsed = parse_frame(frame, values.size)
        assert (parsed.num_elements, parsed.num_bytes) == (values.size, len(frame))

    @quick
    @given(values=vectors(), seed=st.integers(0, 2**32))
    def test_the_same_arguments_give_the_same_bytes(self, codec, encoded, values, seed):
        assert encoded(codec, values, seed) == encoded(codec, values.copy(), np.uint64(seed))
        if codec.contract.deterministic:
            assert encoded(codec, values, seed + 1) == encoded(codec, values, seed)

    def test_a_codec_that_draws_gives_other_bytes_for_another_seed(self, codec, encoded):
        values = np.linspace(2, 20, 3000, dtype=np.float32)
        same = encoded(codec, values, 1) == encoded(codec, values, 2)
        assert same == codec.contract.deterministic

    @quick
    @given(values=vectors(), seed=st.integers(0, 99))
    def test_as_many_elements_are_sent_as_the_contract_declares(self, codec, encoded, decoded, values, seed):
        frame = encoded(codec, values, seed)
        sent = parse_frame(frame, values.size).sent_positions()
        least, most = codec.contract.band(values.size)
        assert least <= sent.size <= most
        assert np.unique(sent).size == sent.size
        result = decoded(frame, values.size)
        result[sent] = 0
        assert not result.any()

    @quick
    @given(values=vectors(), seed=st.integers(0, 99), with_residual=st.booleans())
    def test_what_is_zero_stays_zero(self, codec, encoded, decoded, values, seed, with_residual):
        """A row without gradient, and nothing left over from before, does not move."""
        residual = (np.zeros_like(values), np.full_like(values, np.nan)) if with_residual else None
        result = decoded(encoded(codec, values, seed, residual), values.size)
        assert not result[values == 0].any()
        assert residual is None or not residual[1][values == 0].any()

    @pytest.mark.parametrize("spec", ["topk:0.5+sign", "randk:0.5:unscaled+sign", "randk:0.5+sign:stochastic"])
    def test_zeros_that_a_selection_chooses_stay_zero(self, spec, encoded, decoded):
        codec = parse_codec(spec)
        values = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
        values[200:2900] = 0
        for seed in range(4):
            frame = encoded(codec, values, seed)
            assert len(frame) <= codec.frame_bound(values.size)
            least, most = codec.contract.band(values.size)
            assert least <= parse_frame(frame, values.size).sent_positions().size <= most
            result = decoded(frame, values.size)
            assert not result[values == 0].any()
            assert result.any()
            expected, _ = oracle.encode(codec, torch.from_numpy(values), seed)
            assert frame == expected.numpy().tobytes()

    def test_threads_give_the_same_frames_as_one_thread(self, codec, encoded):
        batch = [np.random.default_rng(seed).standard_normal(6000).astype(np.float32) for seed in range(8)]
        with ThreadPoolExecutor(4) as pool:
            frames = list(pool.map(lambda values: encoded(codec, values), batch))
        assert frames == [encoded(codec, values) for values in batch]


class TestErrors:
    @quick
    @given(values=vectors(), seed=st.integers(0, 99))
    def test_the_error_of_each_element_is_within_the_contract(self, codec, encoded, decoded, values, seed):
        frame = encoded(codec, values, seed)
        sent = parse_frame(frame, values.size).sent_positions()
        contract, factor = codec.contract, codec.contract.factor(values.size)
        expected = np.clip(factor * values.astype(np.float64), -LARGEST, LARGEST)
        error = np.abs(decoded(frame, values.size) - expected)
        allowed = np.array([contract.max_error(largest) for largest in block_maxima(codec, expected)])
        # The roundings of n / k and of the product with it.
        slack = 2.0**-23 * np.abs(expected) + 2.0**-149 if factor != 1 else 0.0
        assert (error <= allowed + slack)[sent].all()

    @quick
    @given(values=vectors())
    def test_the_error_of_the_vector_is_within_the_contract(self, codec, encoded, decoded, values):
        contract = codec.contract
        if not contract.deterministic:
            return  # in the mean only: see TestDrawing
        delta = contract.delta(values.size)
        error = norm(decoded(encoded(codec, values), values.size).astype(np.float64) - values)
        underflow = contract.absolute_error * values.size**0.5
        assert error <= (1.0 - delta) ** 0.5 * norm(values) * (1 + 1e-9) + underflow

    @quick
    @given(values=vectors())
    def test_a_lossless_codec_returns_the_same_bits(self, codec, encoded, decoded, values):
        same = decoded(encoded(codec, values), values.size).tobytes() == values.tobytes()
        assert same or not codec.lossless

    def test_finite_values_stay_finite_next_to_the_largest_float(self, codec, encoded, decoded):
        largest = np.float32(LARGEST)
        values = np.resize(np.array([largest, -largest, largest * 0.999, 1.0], np.float32), 600)
        pending = np.empty_like(values)
        result = decoded(encoded(codec, values, residual=(np.zeros_like(values), pending)), values.size)
        assert np.isfinite(result).all()
        assert np.isfinite(pending).all() or not codec.contract.admits_error_feedback

    @pytest.mark.parametrize("spec", ["fp32", "fp16", "bf16"])
    def test_casts_keep_the_sign_of_zero(self, spec, encoded, decoded):
        values = np.array([-0.0, 0.0, -0.0, 1.0], np.float32)
        result = decoded(encoded(parse_codec(spec), values), 4)
        assert np.signbit(result).tolist() == [True, False, True, False]

    def test_fp16_keeps_small_gradients(self, encoded, decoded):
        values = (np.random.default_rng(0).standard_normal(2000) * 1e-9).astype(np.float32)
        result = decoded(encoded(parse_codec("fp16"), values), values.size)
        assert (np.abs(result - values) <= np.abs(values) * 2.0**-11 + 2.0**-40 * np.abs(values).max()).all()


class TestResidual:
    @quick
    @given(values=vectors(), seed=st.integers(0, 99))
    @example(values=np.full(700, 3e-45, np.float32), seed=0)
    def test_pending_is_what_the_frame_leaves_out(self, codec, encoded, decoded, values, seed):
        values = values * np.float32(0.75)  # leaves room for the sum
        committed = np.random.default_rng(seed).permutation(values) * np.float32(0.25)
        before = committed.copy()
        pending = np.full_like(values, np.nan)
        frame = encoded(codec, values, seed, (committed, pending))
        total = values + committed
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(pending, total - decoded(frame, values.size))
        np.testing.assert_array_equal(committed, before)
        assert frame == encoded(codec, total, seed)

    @quick
    @given(size=st.sampled_from([1, 5, 300, 5000]), seed=st.integers(0, 99))
    def test_nothing_is_lost_over_many_frames(self, contracting_codec, encoded, decoded, size, seed):
        codec, rng = contracting_codec, np.random.default_rng(seed)
        committed, pending = np.zeros(size, np.float32), np.empty(size, np.float32)
        given_, received = np.zeros(size), np.zeros(size)
        for step in range(8):
            values = rng.standard_normal(size).astype(np.float32)
            given_ += values
            received += decoded(encoded(codec, values, step, (committed, pending)), size)
            committed, pending = pending, committed
        # Sums of eight in float32: each step rounds once.
        np.testing.assert_allclose(received + committed, given_, rtol=0, atol=8 * 2.0**-22 * 8)

    @quick
    @given(seed=st.integers(0, 9))
    def test_the_residual_stays_bounded(self, contracting_codec, encoded, seed):
        codec, size, rng = contracting_codec, 600, np.random.default_rng(seed)
        committed, pending = np.zeros(size, np.float32), np.empty(size, np.float32)
        delta = codec.contract.delta(size)
        for step in range(60):
            values = rng.standard_normal(size).astype(np.float32)
            encoded(codec, values, step, (committed, pending))
            committed, pending = pending, committed
        # ||r|| <= sqrt(1 - delta) (||r|| + ||x||) settles below ||x|| * 2 / delta; without contraction, by the threshold.
        most = 2.0 / delta * 1.2 * size**0.5 if delta else 60 * size**0.5
        assert norm(committed) < most


class TestOracle:
    @quick
    @given(values=vectors(), seed=st.integers(0, 2**64 - 1), with_residual=st.booleans())
    def test_kernels_and_oracle_agree_by_bits(self, codec, encoded, decoded, values, seed, with_residual):
        if with_residual:
            values = values * np.float32(0.75)  # leaves room for the sum
        committed = values[::-1].copy() * np.float32(0.25) if with_residual else np.zeros_like(values)
        pending = np.empty_like(values)
        with np.errstate(over="ignore"):
            frame = encoded(codec, values, seed, (committed, pending) if with_residual else None)
        told = torch.from_numpy(committed) if with_residual else None
        expected, left = oracle.encode(codec, torch.from_numpy(values), seed, told)
        result = decoded(frame, values.size)
        bytes_of_frame = torch.from_numpy(np.frombuffer(frame, np.uint8).copy())
        assert result.tobytes() == oracle.decode(bytes_of_frame, values.size).numpy().tobytes()
        if not codec.exact_bytes:
            return
        assert frame == expected.numpy().tobytes()
        if with_residual:
            assert pending.tobytes() == left.numpy().tobytes()

    @quick
    @given(values=vectors(), scale=st.floats(1e-3, 1e3))
    def test_products_are_rounded_before_they_are_added(self, codec, encoded, decoded, values, scale):
        values = np.clip(values, -1e30, 1e30)
        frame = encoded(codec, values)
        plain = decoded(frame, values.size)
        scaled, total = np.empty_like(values), np.arange(values.size, dtype=np.float32)
        parsed = parse_frame(frame, values.size)
        parsed.decode_into(scaled, scale)
        parsed.add_to(total, scale)
        np.testing.assert_array_equal(scaled, np.float32(scale) * plain)
        np.testing.assert_array_equal(total, np.arange(values.size, dtype=np.float32) + np.float32(scale) * plain)


class TestDrawing:
    """Codecs that draw: what holds in the mean over seeds, and that draws are independent."""

    NUM_SEEDS = 400

    def results(self, codec, encoded, decoded, values, num_seeds=NUM_SEEDS):
        return np.array([decoded(encoded(codec, values, seed), values.size) for seed in range(num_seeds)], np.float64)

    @pytest.mark.parametrize("make", [normal, heavy_tailed, one_large])
    def test_the_mean_error_of_the_vector_is_within_the_contract(self, drawing_codec, encoded, decoded, make):
        contract, size = drawing_codec.contract, 700
        values = make(np.random.default_rng(5), size).astype(np.float32)
        errors = ((self.results(drawing_codec, encoded, decoded, values) - values) ** 2).sum(axis=1)
        delta, omega = contract.delta(size), contract.omega(size)
        assert (delta is None) != (omega is None)
        allowed = (1.0 - delta if delta is not None else omega) * norm(values) ** 2
        deviation = errors.std() / self.NUM_SEEDS**0.5
        assert errors.mean() - 5 * deviation <= allowed * (1 + 1e-6)

    def test_the_mean_over_seeds_is_the_value(self, drawing_codec, encoded, decoded):
        if not drawing_codec.contract.unbiased:
            return
        values = np.random.default_rng(1).standard_normal(512).astype(np.float32)
        results = self.results(drawing_codec, encoded, decoded, values, num_seeds=2000)
        # Sums over elements, with several weights, because a single element may by chance never be drawn.
        weights = np.stack([values, np.ones(512), *np.random.default_rng(2).choice([-1.0, 1.0], (20, 512))])
        errors = results @ weights.T - weights @ values.astype(np.float64)
        assert (np.abs(errors.mean(axis=0)) <= 5 * errors.std(axis=0) / 2000**0.5).all()

    def test_errors_of_elements_are_independent(self, drawing_codec, encoded, decoded):
        """The variance of a sum over elements is at most the sum of their variances, and about that where every
        element is sent: one draw for all would make it as many times larger as there are elements."""
        results = self.results(drawing_codec, encoded, decoded, spread_values(), 64)
        deviation = results.sum(axis=1).std()
        expected = results.var(axis=0).sum() ** 0.5
        assert 0 < deviation < 1.5 * expected
        if drawing_codec.contract.band(results.shape[1])[0] == results.shape[1]:
            assert deviation > 0.6 * expected

    def test_errors_of_neighbouring_seeds_are_independent(self, drawing_codec, encoded, decoded):
        errors = self.results(drawing_codec, encoded, decoded, spread_values(), 64)
        errors -= errors.mean(axis=0)
        errors = errors[:, errors.std(axis=0) > 0]
        assert errors.shape[1] > 30
        correlations = np.corrcoef(errors)[np.triu_indices(64, 1)]
        assert np.abs(correlations).max() < 6 / errors.shape[1] ** 0.5


class TestRefusals:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
    def test_a_value_that_is_not_finite_is_found_in_every_lane(self, codec, encoded, bad):
        size = 256 + 70
        values, committed = np.ones(size, np.float32), np.full(size, 0.5, np.float32)
        for place in range(size):
            values[place] = bad
            with pytest.raises(NonFiniteError, match=f"value {place} of {size}"):
                encoded(codec, values)
            with pytest.raises(NonFiniteError):
                encoded(codec, values, residual=(committed, np.empty_like(values)))
            values[place] = 1
        assert (committed == 0.5).all()

    def test_a_sum_with_the_residual_that_overflows_is_refused(self, codec, encoded):
        values = np.full(400, 3e38, np.float32)
        with pytest.raises(NonFiniteError, match="residual"):
            encoded(codec, values, residual=(values.copy(), np.empty_like(values)))

    @pytest.mark.parametrize(
        "values",
        [
            np.ones(10, np.float64),
            np.ones((5, 2), np.float32),
            np.ones(20, np.float32)[::2],
            np.frombuffer(bytes(41), np.uint8)[1:].view(np.float32),
        ],
        ids=["float64", "two dimensions", "strided", "misaligned"],
    )
    def test_arrays_that_do_not_fit_are_refused(self, codec, values):
        with pytest.raises(ValueError, match="contiguous one-dimensional float32"):
            codec.encode(values, np.empty(1000, np.uint8))

    def test_a_residual_that_overlaps_is_refused(self, codec, encoded):
        values, other = np.ones(300, np.float32), np.full(300, 0.5, np.float32)
        for residual in ((other, other), (other, values), (values, values)):
            with pytest.raises(ValueError, match="must not overlap"):
                encoded(codec, values, residual=residual)
        assert (other == 0.5).all()
        assert (values == 1).all()

    def test_a_buffer_that_is_too_small_is_refused(self, codec):
        values = np.ones(300, np.float32)
        with pytest.raises(ValueError, match="a frame may take"):
            codec.encode(values, np.empty(codec.frame_bound(300) - 1, np.uint8))

    def test_misaligned_buffers_work(self, codec, encoded, decoded):
        values = np.linspace(-3, 5, 700, dtype=np.float32)
        plain = encoded(codec, values)
        shifted = np.empty(codec.frame_bound(700) + 1, np.uint8)[1:]
        assert shifted[: codec.encode(values, shifted)].tobytes() == plain
        inside = memoryview(b"?" + plain)[1:]
        np.testing.assert_array_equal(decoded(inside, 700), decoded(plain, 700))


class TestValues:
    def test_codecs_are_values(self, codec):
        assert parse_codec(codec.spec) == codec
        assert hash(parse_codec(codec.spec)) == hash(codec)

    def test_the_dense_form_sends_everything(self, codec):
        assert codec.dense().contract.band(1000) == (1000, 1000)
        assert codec.dense().dense() == codec.dense()
