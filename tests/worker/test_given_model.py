"""What user code must say of its model before ranks can agree on it."""

import pytest
import torch

from pushpull.protos.errors import SettingError
from pushpull.worker.assembly import GivenModel
from pushpull.worker.layout import parse_layout


@pytest.mark.parametrize("layout", ["pp2", "pp2xtp2"])
def test_stages_of_a_pipeline_need_the_whole_model(layout: str) -> None:
    stage = torch.nn.Sequential(torch.nn.Linear(4, 4))  # another one may look just like it
    with pytest.raises(SettingError, match=f"layout is {layout}.*whole="):
        GivenModel.of(stage).check_told(parse_layout(layout))
    GivenModel.of(stage, torch.nn.Sequential(torch.nn.Linear(4, 4))).check_told(parse_layout(layout))


@pytest.mark.parametrize("layout", ["plain", "tp2", "dp2xfsdp2"])
def test_a_model_that_every_rank_builds_alike_tells_itself(layout: str) -> None:
    GivenModel.of(torch.nn.Linear(4, 4)).check_told(parse_layout(layout))
