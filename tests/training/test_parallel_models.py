"""The example's GPT gives the same gradients however it is divided. No servers here: what differs is PyTorch's, or ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from parallel_bodies import Group, windows_of
from parallel_gpt_layouts import Options, TrainingStep, build_parts
from parallel_gpt_model import GPT, GPTShape
from rank_groups import rank_groups
from second_device import SECOND_DEVICE

from pushpull.worker.layout import Layout, parse_layout

NUM_WINDOWS = 8
SMALL = {"width": 32, "num_layers": 4, "num_heads": 4, "context": 16, "vocabulary": 101}
TIED = {**SMALL, "tied": True}

Case = tuple[str, dict[str, Any], dict[str, Any]]
"""Layout, shape, options."""

OF_ONE_RANK: dict[str, Case] = {
    "layers on two devices": ("plain", SMALL, {"devices": ["cpu", SECOND_DEVICE]}),
    "layers on two devices, tied": ("plain", TIED, {"devices": ["cpu", SECOND_DEVICE]}),
}
OF_TWO_RANKS: dict[str, Case] = {
    "tp2": ("tp2", SMALL, {}),
    "tp2 sequence parallel, checkpointed": ("tp2", SMALL, {"sequence_parallel": True, "checkpoint": True}),
    "tp2 tied": ("tp2", TIED, {}),
    "fsdp2": ("fsdp2", SMALL, {}),
    "fsdp2 tied, checkpointed": ("fsdp2", TIED, {"checkpoint": True}),
    "dp2": ("dp2", SMALL, {}),
    "pp2 GPipe": ("pp2", SMALL, {"schedule": "gpipe"}),
    "pp2 1F1B": ("pp2", SMALL, {"schedule": "1f1b"}),
    "pp2 interleaved": ("pp2", SMALL, {"schedule": "interleaved"}),
    "pp2 tied": ("pp2", TIED, {}),
    "tp2 fp16": ("tp2", SMALL, {"autocast": "fp16"}),
    "pp2 bf16": ("pp2", SMALL, {"autocast": "bf16"}),
}
OF_FOUR_RANKS: dict[str, Case] = {
    "tp4": ("tp4", SMALL, {}),
    "pp2xtp2": ("pp2xtp2", SMALL, {}),
    "pp2xtp2 sequence parallel": ("pp2xtp2", SMALL, {"sequence_parallel": True}),
    "fsdp2xtp2": ("fsdp2xtp2", SMALL, {}),
    "pp2xfsdp2": ("pp2xfsdp2", SMALL, {"num_microbatches": 2}),
    "pp2xtp2 bf16": ("pp2xtp2", SMALL, {"autocast": "bf16"}),
    "fsdp2xtp2 bf16": ("fsdp2xtp2", SMALL, {"autocast": "bf16"}),
}
BY_SIZE = {"plain": OF_ONE_RANK, "tp2": OF_TWO_RANKS, "tp4": OF_FOUR_RANKS}
CASES = OF_ONE_RANK | OF_TWO_RANKS | OF_FOUR_RANKS
ROUNDED = [case for case, (_, _, options) in CASES.items() if "autocast" in options]
EXACT = [case for case in CASES if case not in ROUNDED]


def whole_model(shape: GPTShape) -> GPT:
    """With gradients of one step, in this process."""
    ranks = Group(Layout(), 0, None)
    (model,) = build_parts(shape, ranks, Options())
    TrainingStep([model], ranks, Options())(windows_of(0, NUM_WINDOWS, shape))
    return model


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each rank returned, by case. One group of processes for all cases of the same size."""
    found: dict[str, list[Any]] = {}
    for layout, cases in BY_SIZE.items():
        with rank_groups(Path(tmp_path_factory.mktemp("ranks"))) as start:
            arguments = [
                {"layout": name, "shape": shape, "options": options} for name, shape, options in cases.values()
            ]
            body = "gradients_on_two_devices" if layout == "plain" else "gradients"
            by_rank = start(layout, f"parallel_bodies:{body}", cases=arguments, num_windows=NUM_WINDOWS).results()
        found |= {case: [results[number] for results in by_rank] for number, case in enumerate(cases)}
    return found


def both(results: dict[str, list[Any]], case: str) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, gradient and that of the whole model, for every parameter."""
    layout, sizes, _ = CASES[case]
    model = whole_model(GPTShape(**sizes))
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    found = joined([rank["gradients"] for rank in results[case]], parse_layout(layout), tied=model.shape.tied)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    return ((name, found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("case", EXACT)
def test_gradients_equal_those_of_the_whole_model(results: dict[str, list[Any]], case: str) -> None:
    for name, found, expected in both(results, case):
        if not name.endswith("k.bias"):  # exactly zero but for rounding: softmax does not see a shift
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), name


@pytest.mark.parametrize("case", ROUNDED)
def test_autocast_changes_gradients_by_its_rounding_only(results: dict[str, list[Any]], case: str) -> None:
    error = sum(float((found - expected).square().sum()) for _, found, expected in both(results, case))
    total = sum(float(expected.square().sum()) for _, _, expected in both(results, case))
    assert 0 < error <= 0.01**2 * total


def joined(by_rank: list[dict[str, torch.Tensor]], layout: Layout, tied: bool) -> dict[str, torch.Tensor]:
    """Gradients of all stages. The two ends of a tied tensor on two stages each have a part of its gradient."""
    whole: dict[str, torch.Tensor] = {}
    for gradients in by_rank[:: layout.num_ranks // layout.pp]:
        whole |= gradients
    if tied and layout.pp > 1:
        whole["wte.weight"] = whole["wte.weight"] + whole.pop("head.weight")
    return whole


@pytest.mark.parametrize("case", EXACT)
def test_every_rank_knows_the_loss_of_the_whole_batch(results: dict[str, list[Any]], case: str) -> None:
    _, sizes, _ = CASES[case]
    ranks = Group(Layout(), 0, None)
    shape = GPTShape(**sizes)
    expected = TrainingStep(build_parts(shape, ranks, Options()), ranks, Options())(windows_of(0, NUM_WINDOWS, shape))
    for rank in results[case]:
        assert rank["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", ["tp2", "fsdp2", "pp2 1F1B", "tp4", "pp2xtp2"])
def test_no_rank_holds_more_than_its_share(results: dict[str, list[Any]], case: str) -> None:
    layout, sizes, _ = CASES[case]
    num_elements = sum(parameter.numel() for parameter in GPT(GPTShape(**sizes)).parameters())
    for rank in results[case]:
        assert rank["held"] <= 1.1 * num_elements / parse_layout(layout).num_ranks
