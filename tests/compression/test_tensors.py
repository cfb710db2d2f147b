"""Tensors in and out of frames, and encoding on a device, which here is the CPU with the devices' own code."""

import numpy as np
import pytest
import torch

from pushpull.compression.cuda.device_codec import DeviceCodec, device_codec, reference_codec, sections_for
from pushpull.compression.cuda.device_frame import parse_on_device
from pushpull.compression.cuda.device_memory import DeviceErrorFeedback, device_encoder
from pushpull.compression.cuda.device_sections import ReferenceSections
from pushpull.compression.cuda.streams import frame_to_host
from pushpull.compression.cuda.warm_up import warm_up_on_device
from pushpull.compression.encoder_spec import parse_encoder
from pushpull.compression.error_feedback import ErrorFeedback
from pushpull.compression.frame import parse_frame
from pushpull.compression.spec import example_specs, parse_codec
from pushpull.compression.tensors import compress, decompress
from pushpull.protos.errors import CodecError, FrameError, NonFiniteError

CPU = torch.device("cpu")
SPARSE_SPECS = ("topk:0.01+fp16", "topk:0.2+int8", "topk:1+int4", "threshold:1.5+int8", "randk:0.03:unscaled+int8")


def normal(size, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size).astype(np.float32))


def on_host(codec, values, seed=0, residual=None):
    out = np.empty(codec.frame_bound(values.numel()), np.uint8)
    rows = None if residual is None else (residual[0].numpy(), residual[1].numpy())
    return out[: codec.encode(values.numpy(), out, seed=seed, residual=rows)].tobytes()


class TestCompress:
    @pytest.mark.parametrize("spec", example_specs())
    def test_a_frame_is_that_of_the_codec(self, spec):
        values = normal(3001)
        frame = compress(spec, values.view(3001, 1), seed=9)
        assert (frame.dtype, frame.ndim) == (torch.uint8, 1)
        assert frame.numpy().tobytes() == on_host(parse_codec(spec), values, 9)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (7, 1, 5), (300,)], ids=str)
    def test_every_shape_and_type_of_floats_comes_back(self, dtype, shape):
        tensor = normal(shape).to(dtype) if shape else torch.tensor(-2.5, dtype=dtype)
        result = decompress(compress("fp32", tensor), tensor.shape, dtype=dtype)
        assert (result.shape, result.dtype) == (tensor.shape, dtype)
        assert torch.equal(result, tensor.to(torch.float32).to(dtype))

    def test_elements_are_taken_in_the_order_of_their_indices(self):
        tensor = normal((6, 10, 4)).transpose(0, 2)[::2]
        assert not tensor.is_contiguous()
        assert torch.equal(decompress(compress("fp32", tensor), tensor.shape), tensor)

    def test_subnormal_half_precision_is_widened_exactly(self):
        smallest = torch.tensor([2.0**-24, -(2.0**-24), 2.0**-14], dtype=torch.float16)
        assert torch.equal(decompress(compress("fp32", smallest), 3, dtype=torch.float16), smallest)

    def test_a_tensor_that_autograd_follows_is_only_read(self):
        tensor = normal(40).requires_grad_()
        compress("int8", tensor)
        assert tensor.grad is None

    def test_pending_is_what_the_frame_leaves_out(self):
        tensor, committed, pending = normal((20, 30)).half(), normal((20, 30), 1), torch.empty(20, 30)
        before = committed.clone()
        frame = compress("int4", tensor, residual=(committed, pending))
        assert torch.equal(pending, tensor.float() + committed - decompress(frame, (20, 30)))
        assert torch.equal(committed, before)

    @pytest.mark.parametrize("spec", ["int8", "topk:0.1+fp16"])
    def test_what_is_not_finite_is_refused_and_leaves_the_residual(self, spec):
        tensor, committed = torch.ones(10, dtype=torch.float16), torch.full((10,), 0.5)
        tensor[3] = torch.inf
        with pytest.raises(NonFiniteError, match="value 3 of 10"):
            compress(spec, tensor, residual=(committed, torch.empty(10)))
        assert torch.equal(committed, torch.full((10,), 0.5))

    def test_a_double_too_large_for_a_float_is_refused(self):
        with pytest.raises(NonFiniteError, match="value 0 of 1"):
            compress("fp32", torch.tensor([1e300], dtype=torch.float64))

    @pytest.mark.parametrize(
        "tensor", [torch.ones(3, dtype=torch.int32), torch.ones(3, dtype=torch.complex64), torch.eye(3).to_sparse()],
        ids=["int32", "complex64", "sparse"],
    )  # fmt: skip
    def test_other_tensors_are_refused_by_name(self, tensor):
        with pytest.raises(ValueError, match="floating-point type, not torch"):
            compress("fp32", tensor)

    @pytest.mark.parametrize("row", [torch.ones(4), torch.ones(3).double(), torch.ones(6)[::2]])
    def test_a_residual_that_does_not_fit_is_refused(self, row):
        with pytest.raises(ValueError, match="the pending residual must be"):
            compress("int8", torch.ones(3), residual=(torch.ones(3), row))

    def test_a_wrong_specification_is_refused(self):
        with pytest.raises(CodecError, match="did you mean 'int8'"):
            compress("int9", torch.ones(3))


class TestDecompress:
    def test_bytes_and_tensors_are_the_same(self):
        frame = compress("int8", normal(50))
        assert torch.equal(decompress(frame, 50), decompress(frame.numpy().tobytes(), (50,)))

    def test_a_frame_of_another_size_is_refused(self):
        with pytest.raises(FrameError, match="holds 50 elements"):
            decompress(compress("int8", normal(50)), (5, 11))

    @pytest.mark.parametrize("bad", [torch.ones(30), torch.ones(2, 30, dtype=torch.uint8)], ids=["float", "2-d"])
    def test_a_frame_is_a_row_of_bytes(self, bad):
        with pytest.raises(ValueError, match="one-dimensional uint8"):
            decompress(bad, 3)

    def test_integers_are_no_results(self):
        with pytest.raises(ValueError, match=r"not torch\.int8"):
            decompress(compress("int8", normal(5)), 5, dtype=torch.int8)


class TestDeviceCodec:
    @pytest.mark.parametrize("size", [0, 1, 700, 9000])
    @pytest.mark.parametrize("spec", sorted({*example_specs(), *SPARSE_SPECS}))
    def test_frames_and_residuals_equal_those_of_the_host(self, spec, size):
        codec, values = parse_codec(spec), normal(size) * (normal(size, 1).abs() < 0.6)
        residual = host = None
        if codec.contract.admits_error_feedback:
            residual = normal(size, 2), torch.full((size,), torch.nan)
            host = residual[0], torch.full((size,), torch.nan)
        frame = reference_codec(codec).encode(values, seed=5, residual=residual).numpy().tobytes()
        expected = on_host(codec, values, 5, host)
        if codec.exact_bytes or not spec.startswith("vq"):
            assert frame == expected
            assert residual is None or residual[1].numpy().tobytes() == host[1].numpy().tobytes()
        else:
            assert torch.equal(residual[1], values + residual[0] - decompress(frame, size))

    @pytest.mark.parametrize("spec", sorted({*example_specs(), *SPARSE_SPECS}))
    def test_frames_decode_to_the_same_bits(self, spec):
        frame, total = on_host(parse_codec(spec), normal(9000)), torch.ones(9000)
        out, expected, sum_ = torch.empty(9000), np.empty(9000, np.float32), np.ones(9000, np.float32)
        parse_on_device(frame, 9000, CPU).decode_into(out, 0.7)
        parse_on_device(frame, 9000, CPU).add_to(total, 0.7)
        parse_frame(frame, 9000).decode_into(expected, 0.7)
        parse_frame(frame, 9000).add_to(sum_, 0.7)
        assert out.numpy().tobytes() == expected.tobytes()
        assert total.numpy().tobytes() == sum_.tobytes()

    @pytest.mark.parametrize("density", ["0.0001", "0.003", "0.05", "0.9"])
    def test_top_k_is_exact_where_magnitudes_tie(self, density):
        codec = parse_codec(f"topk:{density}+int8")
        for scale in (0.3, 2.0, 50.0):  # few, some and many different magnitudes
            values = (normal(60_000) * scale).round()
            assert reference_codec(codec).encode(values).numpy().tobytes() == on_host(codec, values)

    def test_the_index_takes_the_shorter_form(self):
        for positions in ([0], [69_999], range(100), range(0, 70_000, 500), [*range(129), 69_999]):
            values = torch.zeros(70_000)
            values[list(positions)] = 3.0
            codec = parse_codec("threshold:1+fp32")
            assert reference_codec(codec).encode(values).numpy().tobytes() == on_host(codec, values)

    @pytest.mark.parametrize("spec", ["int8", "vq:4x256", "topk:0.1+fp16", "int4+zstd"])
    def test_what_is_not_finite_is_named(self, spec):
        values = torch.ones(500)
        values[77] = torch.nan
        with pytest.raises(NonFiniteError, match="value 77 of 500 is nan; nothing was encoded"):
            reference_codec(parse_codec(spec)).encode(values)

    def test_a_sum_that_overflows_is_blamed_on_the_residual(self):
        values = torch.full((300,), 3e38)
        with pytest.raises(NonFiniteError, match="value 0 of 300 is inf once the residual is added"):
            reference_codec(parse_codec("int8")).encode(values, residual=(values.clone(), torch.empty(300)))

    @pytest.mark.parametrize("values", [torch.ones(3).double(), torch.ones(2, 3), torch.ones(6)[::2]])
    def test_tensors_that_do_not_fit_are_refused(self, values):
        with pytest.raises(ValueError, match="contiguous one-dimensional float32"):
            reference_codec(parse_codec("int8")).encode(values)

    def test_without_kernels_for_a_device_the_reference_codes_its_values(self):
        assert sections_for(CPU) is ReferenceSections
        assert isinstance(device_codec(parse_codec("int8"), CPU), DeviceCodec)


class TestDeviceErrorFeedback:
    @pytest.mark.parametrize("spec", ["int4", "topk:0.05+int8", "sign"])
    def test_frames_and_memory_are_those_of_the_host_over_many_steps(self, spec):
        codec = parse_codec(spec)
        host, device = ErrorFeedback(codec), DeviceErrorFeedback(codec)
        out = np.empty(codec.frame_bound(600), np.uint8)
        for step in range(12):
            for key in (3, 8):
                values = normal(600, 100 * key + step)
                num_bytes = host.encode(key, values.numpy(), out, step)
                assert device.encode_on_device(key, values, step).numpy().tobytes() == out[:num_bytes].tobytes()
            if step % 4 == 1:
                host.discard([3])
                device.discard([3])
            host.commit([3, 8, 99])
            device.commit([3, 8, 99])
        assert_same_state(device.state_dict(), host.state_dict())
        assert device.residual_norm() == pytest.approx(host.residual_norm(), rel=1e-12)

    def test_what_is_not_finite_leaves_the_committed_memory(self):
        encoder = DeviceErrorFeedback(parse_codec("int8"))
        encoder.encode_on_device(0, normal(50), 1)
        encoder.commit([0])
        before = encoder.state_dict()
        with pytest.raises(NonFiniteError):
            encoder.encode_on_device(0, torch.full((50,), torch.nan), 2)
        encoder.commit([0])
        assert_same_state(encoder.state_dict(), before)

    def test_host_and_device_load_each_others_state(self):
        codec, values = parse_codec("int4"), normal(300)
        host, device = ErrorFeedback(codec), DeviceErrorFeedback(codec)
        host.encode(7, values.numpy(), np.empty(codec.frame_bound(300), np.uint8), 1)
        host.commit([7])
        device.load_state_dict(host.state_dict())
        assert_same_state(device.state_dict(), host.state_dict())
        again = ErrorFeedback(codec)
        again.load_state_dict(device.state_dict())
        assert_same_state(again.state_dict(), host.state_dict())

    def test_a_block_of_another_plan_is_refused(self):
        encoder = DeviceErrorFeedback(parse_codec("int8"))
        encoder.encode_on_device(0, normal(50), 1)
        with pytest.raises(ValueError, match="another plan"):
            encoder.encode_on_device(0, normal(51), 1)

    def test_a_codec_that_does_not_contract_is_refused(self):
        with pytest.raises(CodecError, match="does not contract"):
            DeviceErrorFeedback(parse_codec("randk:0.1+fp32"))

    @pytest.mark.parametrize("spec", ["int8", "none+int8", "randk:0.1+fp32", "fp32"])
    def test_specifications_without_momentum_are_encoded_on_the_device(self, spec):
        encoder = device_encoder(parse_encoder(spec))
        values = normal(400)
        out = np.empty(parse_encoder(spec).frame_bound(400), np.uint8)
        num_bytes = parse_encoder(spec).build().encode(5, values.numpy(), out, 3)
        assert encoder.encode_on_device(5, values, 3).numpy().tobytes() == out[:num_bytes].tobytes()

    def test_momentum_is_left_to_the_host(self):
        assert device_encoder(parse_encoder("dgc:0.9+topk:0.01+fp16")) is None


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    for key, state in expected.items():
        assert found[key].keys() == state.keys()
        for name, tensor in state.items():
            assert torch.equal(found[key][name], tensor)


def test_a_frame_of_a_device_fills_the_start_of_a_buffer_of_the_host():
    frame, out = compress("int8", normal(50)), np.full(200, 7, np.uint8)
    num_bytes = frame_to_host(frame, out)
    assert out[:num_bytes].tobytes() == frame.numpy().tobytes()
    assert (out[num_bytes:] == 7).all()


@pytest.mark.parametrize("spec", ["fp32", "vq:4x256", "randk:0.1+fp32", "topk:0.1+int4+zstd"])
def test_every_codec_can_be_warmed_up(spec):
    warm_up_on_device(parse_codec(spec), CPU)
