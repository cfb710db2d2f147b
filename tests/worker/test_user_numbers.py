"""Numbers of whatever type torch takes are taken; what is no number is refused by name."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pushpull.protos.errors import SettingError
from pushpull.worker import LAMB, LARS, LearningRateScaling
from pushpull.worker.data_ledger import DataLedger
from pushpull.worker.local_updates import OuterSettings
from pushpull.worker.optimizer_values import group_numbers, known_flags, optimizer_specification
from pushpull.worker.recorded_steps import StepWeights
from pushpull.worker.shared_data import SharedData, SharedDataSets, Sharing, loader_of
from pushpull.worker.user_numbers import count_of, number_of, positive_number_of

HALVES = [0.5, np.float32(0.5), np.float64(0.5), np.float16(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor([0.5])]
HALVES += [Decimal("0.5"), torch.nn.Parameter(torch.tensor(0.5, dtype=torch.bfloat16))]


def sgd(**group: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=1.0, momentum=0.5)
    optimizer.param_groups[0].update(group)
    return optimizer


def numbers(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    (group,) = group_numbers(optimizer.param_groups, optimizer.defaults)
    return dict(group.numbers)


class TestGroups:
    @pytest.mark.parametrize("half", HALVES, ids=lambda value: type(value).__name__)
    def test_take_every_kind_of_number(self, half: Any) -> None:
        assert numbers(sgd(lr=half))["lr"] == 0.5

    @pytest.mark.parametrize("one", [1, True, np.int64(1), np.bool_(True), torch.tensor(1)], ids=repr)
    def test_take_whole_numbers(self, one: Any) -> None:
        assert numbers(sgd(lr=one))["lr"] == 1.0

    @pytest.mark.parametrize(
        "betas",
        [
            (0.5, 0.25),
            [0.5, 0.25],
            (np.float32(0.5), torch.tensor(0.25)),
            torch.tensor([0.5, 0.25]),
            np.array([0.5, 0.25]),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_take_every_kind_of_pair(self, betas: Any) -> None:
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))], lr=torch.tensor(0.5), capturable=True)
        optimizer.param_groups[0]["betas"] = betas
        found = numbers(optimizer)
        assert (found["betas.0"], found["betas.1"], found["lr"]) == (0.5, 0.25, 0.5)

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (float("nan"), "lr is nan; it must be a finite number"),
            (np.float32("inf"), "lr is inf; it must be a finite number"),
            ("0.1", "lr is '0.1' of type str; it must be one number"),
            (1j, "lr is 1j of type complex; it must be one number"),
            (torch.tensor(0.5, device="meta"), "lr is a tensor on the meta device"),
        ],
    )
    def test_refuse_the_rest_by_name(self, value: Any, said: str) -> None:
        with pytest.raises(SettingError, match=f"parameter group 0: {said}"):
            numbers(sgd(lr=value))

    @pytest.mark.parametrize("on", [True, 1, np.bool_(True), torch.tensor(True)], ids=repr)
    def test_flags_are_flags_of_whatever_type(self, on: Any) -> None:
        optimizer = sgd(nesterov=on)
        specification = optimizer_specification(torch.optim.SGD, optimizer.param_groups, optimizer.defaults)
        assert dict(specification.groups[0].flags) == {"nesterov": True, "maximize": False}
        assert "nesterov" not in specification.groups[0].numbers

    def test_flags_of_every_optimizer_are_known(self) -> None:
        assert {"nesterov", "maximize", "amsgrad", "centered", "adapt"} <= known_flags()
        for kind in (LARS, LAMB):
            optimizer = kind([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
            specification = optimizer_specification(kind, optimizer.param_groups, optimizer.defaults)
            bools = {name for name, value in optimizer.defaults.items() if isinstance(value, bool)}
            assert set(specification.groups[0].flags) == bools


class TestOtherNumbers:
    def test_weights(self) -> None:
        assert StepWeights().next(np.int64(3), 7.0) == StepWeights().next(torch.tensor(3), 7.0) == 3.0  # type: ignore[arg-type]
        with pytest.raises(SettingError, match="num_samples"):
            StepWeights().next("many", 1.0)  # type: ignore[arg-type]
        with pytest.raises(SettingError, match="num_samples"):
            StepWeights().next(float("nan"), 1.0)

    @pytest.mark.parametrize(
        ("steps", "weights"),
        [
            pytest.param([(None, 0.0), (None, 0.0)], [1.0, 1.0], id="without data every step weighs 1"),
            pytest.param([(None, 32.0), (None, 16.0)], [32.0, 16.0], id="the samples since the step before"),
            pytest.param([(None, 32.0), (None, 0.0)], [32.0, 32.0], id="two networks in turn on one batch"),
            pytest.param([(5.0, 32.0), (None, 0.0)], [5.0, 5.0], id="what user code says holds for the next one, too"),
            pytest.param([(None, 32.0), (0.0, 8.0), (None, 0.0)], [32.0, 0.0, 32.0], id="a skip is nothing to go by"),
        ],
    )
    def test_a_step_without_new_data_weighs_as_its_predecessor(
        self, steps: list[tuple[float | None, float]], weights: list[float]
    ) -> None:
        step_weights = StepWeights()
        assert [step_weights.next(said, given_out) for said, given_out in steps] == weights

    def test_local_updates(self) -> None:
        settings = OuterSettings(every=np.int64(2), learning_rate=np.float32(0.5), momentum=torch.tensor(0.5))  # type: ignore[arg-type]
        outer = settings.optimizer(sgd())
        assert outer.param_groups[0]["lr"] == outer.param_groups[0]["momentum"] == 0.5
        with pytest.raises(SettingError, match="outer_lr is nan"):
            OuterSettings(every=2, learning_rate=float("nan"), momentum=0.0)

    def test_scaling(self) -> None:
        assert LearningRateScaling(base_samples=np.float32(8)).target(2, 16.0) == 2.0
        with pytest.raises(SettingError, match="warmup_steps"):
            LearningRateScaling(base_workers=1, warmup_steps=0.5)  # type: ignore[arg-type]

    def test_refusals_name_what_was_given(self) -> None:
        with pytest.raises(SettingError, match=r"clip_norm is nan"):
            positive_number_of("clip_norm", float("nan"))
        with pytest.raises(SettingError, match=r"accumulate=1.5 must be a whole number of at least 1"):
            count_of("accumulate", 1.5, 1)
        with pytest.raises(SettingError, match=r"worker.log\(loss=...\) is Tensor of shape \(2,\)"):
            number_of("worker.log(loss=...)", torch.ones(2))
        with pytest.raises(SettingError, match="is None of type NoneType"):
            number_of("loss", None)


def shared(data: DataLoader[Any], start_epoch: Any = 0) -> SharedData:
    """As `worker.share` gives it; nobody asks for data."""
    calls: Any = SimpleNamespace(deal=None)
    sharing = Sharing(calls=calls, ledger=DataLedger(), seed=5, part=(0, 1), num_workers=lambda: 1)
    return SharedDataSets(sharing).share(data, None, start_epoch)


class TestSharedData:
    @pytest.mark.parametrize(
        "eight",
        [8, np.int64(8), np.float32(8), torch.tensor(8), torch.tensor([8])],
        ids=lambda value: type(value).__name__,
    )
    def test_take_every_kind_of_batch_size(self, eight: Any) -> None:
        data = TensorDataset(torch.zeros(20, 1))
        loader = loader_of(data, eight, shuffle=False)
        assert loader.batch_size == 8
        assert [len(batch) for (batch,) in loader] == [8, 8, 4]

    @pytest.mark.parametrize("size", [0, -1, 1.5, "8", float("nan"), np.zeros(2)], ids=repr)
    def test_refuse_others_with_their_name(self, size: Any) -> None:
        with pytest.raises(SettingError, match="batch_size"):
            loader_of(TensorDataset(torch.zeros(20, 1)), size, shuffle=False)

    @pytest.mark.parametrize("two", [2, np.int64(2), torch.tensor(2)], ids=lambda value: type(value).__name__)
    def test_take_every_kind_of_epoch(self, two: Any) -> None:
        data = DataLoader(TensorDataset(torch.zeros(20, 1)), batch_size=4)
        first, later = shared(data, start_epoch=two), shared(data)
        later.set_epoch(two)
        assert [(type(each.epoch), each.epoch) for each in (first, later)] == [(int, 2)] * 2

    @pytest.mark.parametrize("epoch", [-1, 0.5])
    def test_refuse_epochs_that_are_none(self, epoch: float) -> None:
        data = DataLoader(TensorDataset(torch.zeros(20, 1)), batch_size=4)
        with pytest.raises(SettingError, match="start_epoch"):
            shared(data, start_epoch=epoch)
        with pytest.raises(SettingError, match="set_epoch"):
            shared(data).set_epoch(epoch)
