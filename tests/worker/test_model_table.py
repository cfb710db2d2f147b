"""The parameter table read from a torch model."""

import pytest
import torch
from torch import nn

from pushpull.protos.errors import SettingError
from pushpull.protos.parameter_names import plain_name
from pushpull.worker.model_table import ModelTable, model_table


def table_of(model: nn.Module, params: object = None) -> ModelTable:
    groups = torch.optim.SGD(model.parameters() if params is None else params, lr=0.1).param_groups  # type: ignore[arg-type]
    return model_table(model, groups)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_tied_weights_are_one_entry_with_an_alias() -> None:
    (entry,) = table_of(Tied()).entries
    assert (entry.name, entry.aliases) == ("embedding.weight", ("head.weight",))


def test_what_is_in_a_group_is_trained_although_it_is_frozen_now() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    assert table_of(model).entries == table_of(nn.Linear(2, 2)).entries
    assert [(entry.trainable, entry.group) for entry in table_of(model).entries] == [(True, 0), (True, 0)]


def test_parameter_groups_are_numbered_as_given() -> None:
    model = nn.Linear(2, 2)
    entries = table_of(model, [{"params": [model.bias]}, {"params": [model.weight]}]).entries
    assert [(entry.name, entry.group) for entry in entries] == [("weight", 1), ("bias", 0)]


def test_parameters_in_no_group_are_not_optimised() -> None:
    model = nn.Linear(2, 2)
    assert [entry.group for entry in table_of(model, [model.weight]).entries] == [0, -1]


def test_buffers_follow_the_parameters_those_that_are_no_real_numbers_as_words_of_32_bits() -> None:
    model = nn.BatchNorm1d(4)
    model.register_buffer("mask", torch.zeros(3, 3, dtype=torch.bool))
    table = table_of(model)
    names = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked", "mask"]
    assert [entry.name for entry in table.entries] == names
    assert [entry.shape for entry in table.entries[2:]] == [(4,), (4,), (2,), (3,)]
    assert table.num_parameters == 2
    assert table.words == {4, 5}
    assert [entry.carries for entry in table.entries[2:]] == ["", "", "int64 ()", "bool (3, 3)"]
    assert [entry.group for entry in table.entries] == [0, 0, -1, -1, -1, -1]


def test_buffers_that_are_not_saved_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("cache", torch.ones(3), persistent=False)
    assert len(table_of(model).entries) == 2


@pytest.mark.parametrize("name", ["_orig_mod.a.weight", "a._checkpoint_wrapped_module.weight", "a.weight"])
def test_wrappers_leave_no_trace_in_names(name: str) -> None:
    assert plain_name(name) == "a.weight"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on its first import of the compiler
def test_compiled_and_data_parallel_models_have_the_same_table() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    plain = table_of(model).entries
    assert table_of(torch.compile(model)).entries == plain  # type: ignore[arg-type]
    assert table_of(nn.DataParallel(model)).entries == plain


def test_types_are_no_part_of_the_table() -> None:
    assert table_of(nn.Linear(2, 2).bfloat16()).entries == table_of(nn.Linear(2, 2)).entries


def test_a_parameter_without_a_shape_is_refused_by_name() -> None:
    first = nn.Linear(2, 2)
    model = nn.Sequential(first, nn.LazyLinear(3))
    with pytest.raises(SettingError, match=r"1\.weight has no shape"):
        model_table(model, torch.optim.SGD([first.weight], lr=0.1).param_groups)


def test_a_parameter_of_another_model_is_refused() -> None:
    with pytest.raises(SettingError, match="not parameters of the model"):
        table_of(nn.Linear(2, 2), nn.Linear(2, 2).parameters())
