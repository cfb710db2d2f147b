"""What the servers' values are written into: dense tensors, each in memory of its own."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from pushpull.compression.carried_words import put_words, words_of
from pushpull.protos.errors import SettingError
from pushpull.worker.model_table import model_table
from pushpull.worker.writable_memory import NamedTensor, check_writable

pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse CSR", "ignore:torch.quantize_per_tensor", "ignore:TypedStorage", "ignore:The PyTorch API of nested"
)


def with_parameter(tensor: torch.Tensor, requires_grad: bool = True) -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_parameter("extra", nn.Parameter(tensor, requires_grad=requires_grad))
    return model


def with_buffer(tensor: torch.Tensor, persistent: bool = True) -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_buffer("extra", tensor, persistent=persistent)
    return model


def check(model: nn.Module, params: list[nn.Parameter] | None = None) -> None:
    groups = torch.optim.SGD(model.parameters() if params is None else params, lr=0.1).param_groups
    model_table(model, groups)


def expanded() -> torch.Tensor:
    return torch.zeros(1, 3).expand(4, 3)


def sliding_windows() -> torch.Tensor:
    return torch.arange(6.0).unfold(0, 3, 1)


def interleaved_with_itself() -> torch.Tensor:
    """No stride is 0, and dimensions run past one another: 0, 2, 4 and 4, 6, 8."""
    return torch.arange(9.0).as_strided((2, 3), (4, 2))


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (expanded, r"share their memory.*\.clone\("),
        (sliding_windows, r"share their memory.*\.clone\("),
        (interleaved_with_itself, r"share their memory.*\.clone\("),
        (lambda: torch.eye(3).to_sparse(), r"sparse_coo.*to_dense"),
        (lambda: torch.eye(3).to_sparse_csr(), r"sparse_csr.*to_dense"),
        (lambda: torch.ones(3, device="meta"), "meta device"),
        (quantised, "quantised.*dequantize"),
    ],
)
def test_a_tensor_that_cannot_hold_values_of_its_own_is_refused_by_name(
    tensor: Callable[[], torch.Tensor], said: str
) -> None:
    """Buffers, too: who joins later gets their values; one that is not saved is the script's own."""
    with pytest.raises(SettingError, match=f"parameter extra .*{said}"):
        check(with_parameter(tensor(), requires_grad=False))
    with pytest.raises(SettingError, match=f"buffer extra .*{said}.*persistent=False"):
        check(with_buffer(tensor()))
    check(with_buffer(tensor(), persistent=False))


def test_nested_and_lazy_tensors_are_refused_by_name() -> None:
    with pytest.raises(SettingError, match="extra is a nested tensor"):
        check(with_parameter(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])))
    with pytest.raises(SettingError, match="weight has no shape yet; run one forward pass"):
        check(nn.LazyLinear(2))
    with pytest.raises(SettingError, match=r"running_mean has no shape yet; run one forward pass"):
        check(nn.LazyBatchNorm1d(affine=False), [nn.Parameter(torch.ones(1))])


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_a_parameter_that_is_no_real_number_is_refused_by_name(dtype: torch.dtype) -> None:
    with pytest.raises(SettingError, match=f"parameter extra has type {dtype}.*register_buffer"):
        check(with_parameter(torch.ones(3, dtype=dtype), requires_grad=False))


def test_a_trained_parameter_of_inference_mode_is_refused_by_name() -> None:
    """Autograd would never give it a gradient. A frozen one, and a buffer, can be used under no_grad."""
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    with pytest.raises(SettingError, match=r"parameter weight was made inside torch.inference_mode\(\)"):
        check(model)
    both = nn.Sequential(model, nn.Linear(2, 2))
    check(both, list(both[1].parameters()))


@pytest.mark.parametrize(
    "tensor",
    [
        lambda: torch.arange(12.0)[::2],
        lambda: torch.arange(6.0).view(2, 3).t(),
        lambda: torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
        lambda: torch.arange(8.0).as_strided((2, 3), (3, 2)),  # 0, 2, 4 and 3, 5, 7: out of order, all different
        lambda: torch.ones(1).expand(1),
        lambda: torch.ones(0, 3).expand(0, 3),
        lambda: torch.tensor(2.0),
    ],
    ids=["strided", "transposed", "channels last", "out of order", "expanded by nothing", "empty", "scalar"],
)
def test_whatever_has_a_place_for_each_element_is_taken(tensor: Callable[[], torch.Tensor]) -> None:
    check(with_parameter(tensor()))
    check(with_buffer(tensor()))


# ---- two tensors in one memory ----


def pair(first: torch.Tensor, second: torch.Tensor) -> nn.Module:
    model = nn.Module()
    model.first, model.second = nn.Parameter(first), nn.Parameter(second)
    return model


def by_data() -> nn.Module:
    """What people take for tied weights."""
    weight = torch.zeros(3, 3)
    return pair(weight, weight)


def by_parts_of_one_vector() -> nn.Module:
    flat = torch.zeros(10)
    return pair(flat[:6], flat[5:])


def by_columns() -> nn.Module:
    matrix = torch.zeros(4, 4)
    return pair(matrix[:, :3], matrix[:, 2:])


def by_a_transposed_view() -> nn.Module:
    matrix = torch.zeros(3, 4)
    return pair(matrix, matrix.t())


def by_numpy() -> nn.Module:
    """Two storages of torch's, one memory."""
    array = np.zeros(8, np.float32)
    return pair(torch.from_numpy(array), torch.from_numpy(array[4:]))


@pytest.mark.parametrize("model", [by_data, by_parts_of_one_vector, by_columns, by_a_transposed_view, by_numpy])
def test_two_parameters_in_one_memory_are_refused_with_both_names(model: Callable[[], nn.Module]) -> None:
    with pytest.raises(SettingError, match="parameter first and parameter second are two tensors in the same memory"):
        check(model())


def test_a_buffer_that_is_a_view_of_a_trained_parameter_is_refused_with_both_names() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("row", model.weight.detach()[1])
    with pytest.raises(SettingError, match="parameter weight and buffer row are two tensors in the same memory"):
        check(model)


def test_tensors_side_by_side_in_one_memory_are_taken() -> None:
    """Flat buffers of parameters, columns of one matrix, real and imaginary parts; frozen ones may share what they like."""
    flat, matrix = torch.zeros(12), torch.zeros(4, 4)
    check(pair(flat[:6], flat[6:]))
    check(pair(flat[::2], flat[1::2]))
    check(pair(matrix[:, :2], matrix[:, 2:]))
    parts = torch.view_as_real(torch.zeros(3, dtype=torch.complex64))
    check(pair(parts[..., 0], parts[..., 1]))
    shared = by_data()
    shared.third = nn.Parameter(torch.ones(1))
    check(shared, [shared.third])


def test_tied_parameters_are_one_and_taken() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    check(model)


def test_a_buffer_whose_conjugate_torch_has_put_off_travels_as_what_it_shows() -> None:
    values = torch.complex(torch.ones(2), torch.arange(2.0))
    for late in (values.conj(), values.conj().imag.double()):
        assert words_of(late).tolist() == words_of(late.clone().resolve_conj().resolve_neg()).tolist()
    taken = torch.zeros(2, dtype=torch.complex64).conj()
    put_words(taken, words_of(values.conj()))
    assert torch.equal(taken, values.conj())


class WithoutAddress(torch.Tensor):
    """Its values are elsewhere, as those of many devices and wrappers."""

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "WithoutAddress":
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype, requires_grad=True)

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
        return cls(torch.empty(3)) if function is torch.ops.aten.detach.default else NotImplemented


def test_tensors_that_tell_no_address_do_not_share_one() -> None:
    tensors = [WithoutAddress(torch.zeros(3)) for _ in range(2)]
    assert tensors[0].data_ptr() == tensors[1].data_ptr()
    check_writable([NamedTensor(f"w{n}", tensor, True, True) for n, tensor in enumerate(tensors)])
