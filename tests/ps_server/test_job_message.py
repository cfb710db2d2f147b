"""The job's settings on the wire, and what overrides of the push codec mean for a server's memory."""

from collections.abc import Sequence

import pytest
from raw_worker import sgd

from pushpull.protos.common_pb2 import Block, Parameter, Plan
from pushpull.protos.errors import CodecError, OverBudgetError
from pushpull.protos.registrar_pb2 import EnrolRequest
from pushpull.ps_server.config import JobSettings, ServerConfig
from pushpull.ps_server.enrolment import check_budget
from pushpull.ps_server.job import job_message, settings_of
from pushpull.ps_server.server import Server


@pytest.mark.parametrize(
    "settings",
    [
        JobSettings(),
        JobSettings(mode="bounded", staleness_bound=2, seed=7, block_elements=64),
        JobSettings(optimizer_state="int8"),
        JobSettings(average_buffers=True),
        JobSettings(push_codec="dgc:0.9+topk:0.01+int8", push_overrides=(("*.bias", "fp32"), ("a*", "int8"))),
    ],
)
def test_settings_survive_the_wire(settings: JobSettings) -> None:
    assert settings_of(job_message(settings, "job", ["a:1"])) == settings


def fits(shape: Sequence[int], settings: dict[str, object]) -> bool:
    """Whether one trainer's frames of one parameter `weight` take at most 2 KiB."""
    plan = Plan(
        num_shards=1,
        parameters=[Parameter(name="weight", shape=shape, trainable=True, group=0, aliases=["tied"])],
        blocks=[Block(parameter=0, offsets=[0] * len(shape), sizes=shape, shard=0)],
    )
    request = EnrolRequest(worker_id=0, plan=plan, optimizer=sgd())
    try:
        check_budget(request, JobSettings(staging_bytes=2048, **settings), 1, 1)  # type: ignore[arg-type]
    except OverBudgetError:
        return False
    return True


@pytest.mark.parametrize(
    ("settings", "matrix", "vector"),
    [
        ({"push_codec": "topk:0.01+int8"}, True, False),
        ({"push_codec": "fp32"}, False, False),
        ({"push_codec": "topk:0.01+int8", "push_overrides": (("*", "fp32"),)}, False, False),
        ({"push_codec": "fp32", "push_overrides": (("*", "topk:0.01+int8"),)}, True, True),
        ({"push_codec": "fp32", "push_overrides": (("tied", "topk:0.01+int8"),)}, True, True),
        ({"push_codec": "topk:0.01+int8", "push_overrides": (("other", "fp32"),)}, True, False),
        ({"push_codec": "dgc:0.9+topk:0.01+int8"}, True, False),
        ({"push_codec": "dgc:0.9:100+topk:0.01+int8"}, False, False),
    ],
)
def test_a_budget_counts_the_largest_frames_of_each_parameter_s_own_encoder(
    settings: dict[str, object], matrix: bool, vector: bool
) -> None:
    assert fits([100, 100], settings) is matrix
    assert fits([10_000], settings) is vector


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"push_codec": "ef+int8:stochastic"}, "`push_codec`.*does not contract"),
        ({"push_overrides": (("*.bias", "int7"),)}, r"`push_overrides\.\*\.bias`"),
        ({"pull_codec": "ef+int8"}, "without a memory"),
    ],
)
def test_a_server_refuses_codecs_that_cannot_work_before_it_starts(settings: dict[str, object], names: str) -> None:
    job = JobSettings(**settings)  # type: ignore[arg-type]
    with pytest.raises(CodecError, match=names):
        Server(ServerConfig(shard=0, num_shards=1, job=job))
