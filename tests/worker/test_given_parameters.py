"""A model whose parameters are no longer those that the worker was given: noticed, and named."""

import gc
import logging
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pushpull.protos.errors import SettingError
from pushpull.worker.given_parameters import GivenParameters
from pushpull.worker.live_tensors import live_tensors
from pushpull.worker.model_table import model_table


class Net(nn.Module):
    """`probe` is frozen, and in no group."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.body = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
        self.head = nn.Linear(3, 5, bias=False)
        self.probe = nn.Linear(3, 1).requires_grad_(False)


def given(model: nn.Module) -> GivenParameters:
    params = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return GivenParameters(model_table(model, torch.optim.SGD(params, lr=0.1).param_groups), [model])


def new_head(model: Net) -> None:
    model.head = nn.Linear(3, 5, bias=False)


def new_parameter(model: Net) -> None:
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())


def loaded_by_assignment(model: Net) -> None:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)


def tied_afterwards(model: Net) -> None:
    model.head.weight = model.embedding.weight


def head_of_two_layers(model: Net) -> None:
    model.head = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 5))  # type: ignore[assignment]


def wrapped(model: Net) -> None:
    """Adapters, say: the same parameter has another name."""
    model.head = nn.Sequential(model.head)  # type: ignore[assignment]


def weight_norm(model: Net) -> None:
    nn.utils.parametrizations.weight_norm(model.head)


def weight_norm_of_old(model: Net) -> None:
    nn.utils.weight_norm(model.head)


def spectral_norm(model: Net) -> None:
    nn.utils.parametrizations.spectral_norm(model.head)


def converted_into_new_parameters(model: Net) -> None:
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model.head.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (new_head, "head.weight:"),
        (new_parameter, "head.weight:"),
        (loaded_by_assignment, "embedding.weight, body.0.weight, body.0.bias and 3 more:"),
        (tied_afterwards, "head.weight:"),
        (head_of_two_layers, r"head.weight \(now head.0.weight, head.0.bias, head.1.weight, head.1.bias\):"),
        (wrapped, r"head.weight \(now head.0.weight\):"),
        (weight_norm, r"head.weight \(now head.parametrizations.weight.original0, .*original1\):"),
        (weight_norm_of_old, r"head.weight \(now head.weight_g, head.weight_v\):"),
        (spectral_norm, r"head.weight \(now head.parametrizations.weight.original\):"),
        (converted_into_new_parameters, "head.weight:"),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_a_trained_parameter_that_was_replaced_is_named(change: Callable[[Net], None], named: str) -> None:
    model = Net()
    parameters = given(model)
    parameters.check()
    change(model)
    for _ in range(2):
        with pytest.raises(SettingError, match=f"^{named} not the parameters .*before worker.optimizer"):
            parameters.check()


def test_weights_that_are_untied_are_named() -> None:
    model = Net()
    model.head.weight = model.embedding.weight
    parameters = given(model)
    new_parameter(model)
    with pytest.raises(SettingError, match=r"^head\.weight: not the parameters"):
        parameters.check()


def test_putting_it_back_is_enough() -> None:
    model = Net()
    parameters, head = given(model), model.head
    new_head(model)
    assert parameters.fault()
    model.head = head
    assert not parameters.fault()


def test_what_is_gone_and_what_is_new_are_worth_one_warning_each(caplog: pytest.LogCaptureFixture) -> None:
    """Plain torch trains the rest, too."""
    model = Net()
    parameters = given(model)
    del model.head
    parameters.check()
    model.late = nn.Linear(3, 3)
    model.frozen_too = nn.Linear(3, 3).requires_grad_(False)
    for _ in range(2):
        parameters.check()
    gone, new = (record.getMessage() for record in caplog.records)
    assert gone.startswith("head.weight: gone from the model")
    assert new.startswith("late.weight, late.bias: in the model, but not when it was given to worker.optimizer()")


def test_a_name_of_several_may_go(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = Net()
    model.head.weight = model.embedding.weight
    parameters = given(model)
    del model.head
    parameters.check()
    assert not caplog.records


def in_place(model: Net) -> None:
    model.load_state_dict(model.state_dict())


def other_type(model: Net) -> None:
    """Seen as changed values, with their names; the parameters are the same."""
    model.bfloat16()


def untrained_probe(model: Net) -> None:
    model.probe = nn.Linear(3, 1).requires_grad_(False)


def frozen_layers(model: Net) -> None:
    model.body.requires_grad_(False)


def moved_layers(model: Net) -> None:
    """The order of modules, and modules without parameters, are the script's own."""
    model.body[1] = nn.ReLU()
    model.dropout = nn.Dropout()


@pytest.mark.parametrize("change", [in_place, other_type, untrained_probe, frozen_layers, moved_layers])
def test_what_trains_on_is_left_alone(change: Callable[[Net], None], caplog: pytest.LogCaptureFixture) -> None:
    model = Net()
    parameters = given(model)
    change(model)
    parameters.check()
    assert not caplog.records


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on its first import of the compiler
def test_wrappers_are_no_change() -> None:
    model = Net()
    parameters = given(torch.compile(model))  # type: ignore[arg-type]
    parameters.check()
    new_head(model)
    assert parameters.fault().startswith("head.weight:")


def test_a_model_is_not_kept_by_what_looks_at_it(caplog: pytest.LogCaptureFixture) -> None:
    """Threads hold that: a model that holds its worker would keep the worker in the job."""
    model = Net()
    table = model_table(model, torch.optim.SGD(model.head.parameters(), lr=0.1).param_groups)
    parameters, live = GivenParameters(table, [model]), live_tensors(table, [model])
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert not parameters.fault()
    assert all(tensor() is table.tensors[entry] for entry, tensor in live.items())
    assert not caplog.records
