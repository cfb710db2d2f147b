"""The example's GPT gives the same gradients however it is divided. No servers here: what differs is PyTorch's, or ours."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
import torch
import yaml
from parallel_bodies import Group, windows_of
from parallel_gpt_layouts import Options, TrainingStep, build_parts
from parallel_gpt_model import GPT, TENSOR_SPLITS, GPTShape
from rank_groups import ROOT, rank_groups
from second_device import SECOND_DEVICE

from pushpull.worker.layout import Layout, parse_layout

SMALL = {"width": 32, "num_layers": 4, "num_heads": 4, "context": 16, "vocabulary": 101}
TIED = {**SMALL, "tied": True}


@dataclass(frozen=True)
class Case:
    """One way to divide a model."""

    layout: str
    shape: dict[str, Any] = field(default_factory=lambda: SMALL)
    options: dict[str, Any] = field(default_factory=dict)
    num_windows: int = 8


OF_ONE_RANK = {
    "two devices": Case("plain", options={"devices": ["cpu", SECOND_DEVICE]}),
    "two devices, tied": Case("plain", TIED, {"devices": ["cpu", SECOND_DEVICE]}),
}
OF_TWO_RANKS = {
    "TP 2": Case("tp2"),
    "TP 2, sequence parallel, checkpointed": Case("tp2", options={"sequence_parallel": True, "checkpoint": True}),
    "TP 2, tied": Case("tp2", TIED),
    "TP 2, fp16": Case("tp2", options={"autocast": "fp16"}),
    "FSDP 2": Case("fsdp2"),
    "FSDP 2, tied, checkpointed, uneven batch": Case("fsdp2", TIED, {"checkpoint": True}, num_windows=7),
    "DP 2": Case("dp2"),
    "PP 2, GPipe": Case("pp2", options={"schedule": "gpipe"}),
    "PP 2, 1F1B": Case("pp2", options={"schedule": "1f1b"}),
    "PP 2, interleaved": Case("pp2", options={"schedule": "interleaved"}),
    "PP 2, tied": Case("pp2", TIED),
    "PP 2, bf16": Case("pp2", options={"autocast": "bf16"}),
}
OF_FOUR_RANKS = {
    "TP 4": Case("tp4"),
    "PP 2 x TP 2": Case("pp2xtp2"),
    "PP 2 x TP 2, sequence parallel": Case("pp2xtp2", options={"sequence_parallel": True}),
    "PP 2 x TP 2, bf16": Case("pp2xtp2", options={"autocast": "bf16"}),
    "FSDP 2 x TP 2": Case("fsdp2xtp2"),
    "FSDP 2 x TP 2, bf16": Case("fsdp2xtp2", options={"autocast": "bf16"}),
    "PP 2 x FSDP 2": Case("pp2xfsdp2", options={"num_microbatches": 2}),
}
CASES = OF_ONE_RANK | OF_TWO_RANKS | OF_FOUR_RANKS
ROUNDED = [name for name, case in CASES.items() if "autocast" in case.options]
EXACT = [name for name in CASES if name not in ROUNDED]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each rank returned, by case. One group of processes for all cases of the same size."""
    found: dict[str, list[Any]] = {}
    for layout, body, cases in (
        ("plain", "gradients_on_two_devices", OF_ONE_RANK),
        ("tp2", "gradients", OF_TWO_RANKS),
        ("tp4", "gradients", OF_FOUR_RANKS),
    ):
        with rank_groups(tmp_path_factory.mktemp("ranks")) as start:
            group = start(layout, f"parallel_bodies:{body}", cases=[asdict(case) for case in cases.values()])
            by_rank = group.results()
        found |= {name: [results[number] for results in by_rank] for number, name in enumerate(cases)}
    return found


def whole_step(case: Case) -> tuple[GPT, float]:
    """The model with the gradients of one step, undivided in this process; and the loss."""
    alone = Group(Layout(), 0)
    (model,) = build_parts(GPTShape(**case.shape), alone, Options())
    return model, TrainingStep([model], alone, Options())(windows_of(0, case.num_windows, model.shape))


def both_gradients(results: dict[str, list[Any]], name: str) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, gradient and that of the whole model, for every parameter."""
    model, _ = whole_step(CASES[name])
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    layout = parse_layout(CASES[name].layout)
    found = joined([rank["gradients"] for rank in results[name]], layout, tied=model.shape.tied)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    return ((name, found[name], expected[name]) for name in expected)


def joined(by_rank: list[dict[str, torch.Tensor]], layout: Layout, tied: bool) -> dict[str, torch.Tensor]:
    """Gradients of all stages. The two ends of a tied tensor on two stages each have a part of its gradient."""
    whole: dict[str, torch.Tensor] = {}
    for gradients in by_rank[:: layout.num_ranks // layout.pp]:
        whole |= gradients
    if tied and layout.pp > 1:
        whole["wte.weight"] = whole["wte.weight"] + whole.pop("head.weight")
    return whole


@pytest.mark.parametrize("name", EXACT)
def test_gradients_equal_those_of_the_whole_model(results: dict[str, list[Any]], name: str) -> None:
    for parameter, found, expected in both_gradients(results, name):
        if not parameter.endswith("k.bias"):  # exactly zero but for rounding: softmax does not see a shift
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), parameter


@pytest.mark.parametrize("name", ROUNDED)
def test_autocast_changes_gradients_by_its_rounding_only(results: dict[str, list[Any]], name: str) -> None:
    gradients = list(both_gradients(results, name))
    error = sum(float((found - expected).square().sum()) for _, found, expected in gradients)
    assert 0 < error <= 0.01**2 * sum(float(expected.square().sum()) for _, _, expected in gradients)


@pytest.mark.parametrize("name", EXACT)
def test_every_rank_knows_the_loss_of_the_whole_batch(results: dict[str, list[Any]], name: str) -> None:
    _, expected = whole_step(CASES[name])
    assert [rank["loss"] for rank in results[name]] == pytest.approx([expected] * len(results[name]), rel=1e-6)


@pytest.mark.parametrize("name", ["TP 2", "FSDP 2", "PP 2, 1F1B", "TP 4", "PP 2 x TP 2", "FSDP 2 x TP 2"])
def test_no_rank_holds_more_than_its_share(results: dict[str, list[Any]], name: str) -> None:
    num_elements = sum(parameter.numel() for parameter in GPT(GPTShape(**SMALL)).parameters())
    for rank in results[name]:
        assert rank["num_held"] <= 1.1 * num_elements / len(results[name])


def test_the_job_file_says_of_tensor_splits_what_the_model_says() -> None:
    job = yaml.safe_load((ROOT / "examples" / "parallel_gpt.yaml").read_text())
    assert job["tensor_splits"] == TENSOR_SPLITS
    assert list(job["tensor_splits"]) == list(TENSOR_SPLITS)  # the first match wins
