"""Plans: layouts, shares of ranks, memory, times, and refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run_command
from torch import nn

from pushpull.compression.encoder_spec import MEMORIES, parse_encoder
from pushpull.compression.spec import example_specs, parse_codec
from pushpull.deploy.planning.cluster import Cluster, load_cluster
from pushpull.deploy.planning.planner import Forecast, plan_job
from pushpull.deploy.planning.profile import ModelProfile
from pushpull.deploy.planning.report import plan_object
from pushpull.deploy.planning.timing import Load, free_times, round_time
from pushpull.protos.errors import DoesNotFitError, SettingError
from pushpull.ps_server.blocks import BlockStore
from pushpull.ps_server.config import JobSettings
from pushpull.ps_server.publication import DensePublisher
from pushpull.ps_server.shard import BUNDLE_ELEMENTS
from pushpull.worker.model_table import described_model, model_table

PLANNED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1000, 64)
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)) for _ in range(4)))
        self.head = nn.Linear(64, 1000, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.layers(self.embedding(x)))

def loss(model, batch_size):
    x = torch.zeros(batch_size, 16, dtype=torch.long)
    return nn.functional.cross_entropy(model(x).flatten(0, 1), x.flatten())

def broken(model, batch_size):
    return loss(model, batch_size).item()
"""
ELEMENTS = 1000 * 64 + 4 * (2 * 64 * 256 + 256 + 64)
SPLITS = (("layers.*.0.*", 0), ("layers.*.2.weight", 1), ("embedding.*", 0))


def description(devices: int = 1, memory: str = "24GiB", server_memory: str = "4GiB", **worker: Any) -> Cluster:
    return Cluster.model_validate(
        {
            "model": "planned.py:Net",
            "loss": "planned.py:loss",
            "batch_size": 8,
            "servers": [{"memory": server_memory, "bandwidth": "10Gbit/s", "count": 2}],
            "workers": [
                {
                    "name": "box",
                    "devices": [{"memory": memory, "tflops": 10, "count": devices}],
                    "bandwidth": "1Gbit/s",
                    "interconnect": "10GB/s",
                    **worker,
                }
            ],
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "planned.py").write_text(PLANNED, encoding="utf-8")
    return tmp_path


def plan(folder: Path, cluster: Cluster, **settings: Any) -> Forecast:
    return plan_job(JobSettings(tensor_splits=SPLITS, **settings), cluster, folder)


class TestProfile:
    def test_work_and_memory_are_measured_without_values(self, folder: Path) -> None:
        profile = ModelProfile(description(), folder)
        cost = profile.step(8)
        # forward and twice as much backward: 2 operations per weight and position; the embedding is used once, as the head
        assert cost.flops == 3 * 2 * 8 * 16 * (1000 * 64 + 4 * 2 * 64 * 256)
        assert profile.trainable_elements == ELEMENTS
        assert cost.peak_bytes >= cost.saved_bytes > 4 * 8 * 16 * 1000
        assert profile.step(16).saved_bytes == pytest.approx(2 * cost.saved_bytes, rel=0.01)

    def test_what_lives_is_what_the_tensors_of_a_real_step_take(self, folder: Path) -> None:
        """Kept for backward: the inputs of both linear layers, one of which is what ReLU gave, and the loss."""
        script = "import torch\nfrom torch import nn\n"
        script += "def make(): return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))\n"
        script += "def loss(model, batch_size): return model(torch.zeros(batch_size, 32)).sum()\n"
        (folder / "tiny.py").write_text(script, encoding="utf-8")
        cluster = description().model_copy(update={"model": "tiny.py:make", "loss": "tiny.py:loss"})
        cost = ModelProfile(cluster, folder).step(10)
        assert cost.saved_bytes == 4 * (10 * 32 + 10 * 64 + 1)
        assert cost.peak_bytes >= 4 * (32 * 64 + 64 + 64 + 1)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"loss": "planned.py:broken"}, r"broken failed on the meta device.*no .item\(\)"),
            ({"model": "planned.py:nothing"}, "no function 'nothing'"),
            ({"model": "nowhere.py:make"}, "no file"),
            ({"model": None}, "--model"),
            ({"optimizer": "Magic"}, "cannot run 'Magic'; use one of SGD"),
        ],
    )
    def test_what_cannot_be_planned_is_refused(self, folder: Path, changes: dict[str, Any], said: str) -> None:
        cluster = description().model_copy(update=changes)
        with pytest.raises(SettingError, match=said):
            ModelProfile(cluster, folder).step(1)


class TestShares:
    @pytest.mark.parametrize("layout", ["plain", "tp2", "tp4", "pp2", "fsdp2", "pp2xtp2", "fsdp2xtp2", "dp2", "pp4"])
    def test_every_block_is_pushed_by_exactly_one_rank(self, folder: Path, layout: str) -> None:
        forecast = plan(folder, description(4, layout=layout))
        worker, blocks = forecast.workers[0].forecast, forecast.scene.plan.blocks
        owned = [block for share in worker.shares for block in share.owned]
        assert sorted(owned) == [block.id for block in blocks]
        assert sum(rank.owned_bytes for rank in worker.ranks) == 4 * ELEMENTS

    def test_ranks_hold_their_part_of_what_the_layout_cuts(self, folder: Path) -> None:
        for layout, held in (("tp2", 4 * ELEMENTS / 2), ("fsdp2", 4 * ELEMENTS / 2), ("dp2", 4 * ELEMENTS)):
            ranks = plan(folder, description(4, layout=layout)).workers[0].forecast.ranks
            for rank in ranks:
                assert rank.held_bytes == pytest.approx(held, rel=0.01)

    def test_a_split_worker_moves_what_a_plain_one_moves(self, folder: Path) -> None:
        plain, split = (plan(folder, description(4, layout=layout)).workers[0].forecast for layout in ("plain", "tp2"))
        assert split.pushed.most == pytest.approx(plain.pushed.most, rel=0.01)
        assert split.pulled.most == pytest.approx(plain.pulled.most, rel=0.01)


class TestPublishedCopy:
    """Of a model that lies in one bundle of several blocks."""

    @pytest.mark.parametrize("pull_codec", ["fp32", "bf16"])
    def test_may_be_a_quarter_larger_where_steps_change_only_some_blocks(self, folder: Path, pull_codec: str) -> None:
        for shard in plan(folder, description(), pull_codec=pull_codec).shards:
            assert shard.num_blocks > 1
            assert shard.replaced_bytes == pytest.approx(0.25 * shard.memory.parts["published copy"], rel=0.001)

    def test_is_never_larger_where_differences_are_published(self, folder: Path) -> None:
        assert [shard.replaced_bytes for shard in plan(folder, description(), pull_codec="int8").shards] == [0, 0]

    @pytest.mark.parametrize("pull_codec", ["fp32", "bf16"])
    def test_is_what_a_shard_keeps_whatever_steps_change(self, folder: Path, pull_codec: str) -> None:
        forecast = plan(folder, description(), pull_codec=pull_codec)
        scene = forecast.scene
        for shard in forecast.shards:
            store = BlockStore(scene.plan.to_message(), scene.task.profile.optimizer, shard.shard, BUNDLE_ELEMENTS)
            publisher = DensePublisher(parse_codec(pull_codec), store)
            (bundle,) = store.bundles
            publisher.publish_initial(bundle)
            kept = {publisher.kept_bytes}
            random = np.random.default_rng(0)
            for _ in range(60):
                changed = sorted(int(place) for place in random.permutation(len(store.blocks))[: random.integers(1, 5)])
                store.versions[changed] += 1
                publisher.publish(bundle, changed)
                kept.add(publisher.kept_bytes)
            published = shard.memory.parts["published copy"]
            assert min(kept) == pytest.approx(published, rel=0.001)
            assert 1.01 * published < max(kept) < 1.001 * (published + shard.replaced_bytes)

    def test_holds_what_no_optimizer_touches_in_full_precision_and_steps_do_not_pull_it(self, folder: Path) -> None:
        plain = plan(folder, description(), pull_codec="bf16")
        buffer = "self.register_buffer('fixed', torch.zeros(50_000))\n        self.head.weight ="
        (folder / "planned.py").write_text(PLANNED.replace("self.head.weight =", buffer), encoding="utf-8")
        buffered = plan(folder, description(), pull_codec="bf16")
        copies = [sum(shard.memory.parts["published copy"] for shard in each.shards) for each in (plain, buffered)]
        assert copies[1] - copies[0] == pytest.approx(4 * 50_000, rel=0.001)
        pulled = [each.workers[0].forecast.pulled.most for each in (plain, buffered)]
        assert pulled[1] == pytest.approx(pulled[0], rel=0.01)


class TestChoice:
    def test_one_device_that_has_room_is_not_split(self, folder: Path) -> None:
        assert plan(folder, description()).workers[0].forecast.layout.spec == "plain"

    def test_a_layout_that_the_job_does_not_declare_is_not_chosen(self, folder: Path) -> None:
        forecast = plan(folder, description(4), layouts=("tp2",))
        assert {c.layout.spec for c in forecast.workers[0].candidates} == {"plain", "tp2"}

    def test_what_fits_on_no_single_device_is_split(self, folder: Path) -> None:
        whole = plan(folder, description(2, layout="plain")).workers[0].forecast.tightest.memory.where_it_computes.total
        chosen = plan(folder, description(2, memory=str(whole - 1))).workers[0]
        assert chosen.forecast.layout.num_ranks == 2
        assert chosen.forecast.misfit is None
        assert next(c for c in chosen.candidates if c.layout.spec == "plain").misfit is not None


class TestRefusals:
    def test_devices_that_are_too_small_are_named_with_what_would_fit(self, folder: Path) -> None:
        whole = plan(folder, description()).workers[0].forecast.tightest.memory.where_it_computes.total
        with pytest.raises(
            DoesNotFitError, match=r"box cannot train.*What would fit: devices with .*batch_size: [1-4]"
        ):
            plan(folder, description(memory=str(whole - 10)))

    def test_servers_that_are_too_small_are_named_with_what_would_fit(self, folder: Path) -> None:
        need = plan(folder, description()).shards[0].memory.total
        with pytest.raises(DoesNotFitError, match=r"Server [01] needs .*; or 3 servers"):
            plan(folder, description(server_memory=str(need - 10_000)))

    def test_optimizer_state_in_eight_bits_is_offered_where_it_is_enough(self, folder: Path) -> None:
        wide, narrow = (plan(folder, description(), optimizer_state=state) for state in ("fp32", "int8"))
        room = max(shard.memory.total for shard in narrow.shards)
        assert room < wide.shards[0].memory.total - wide.shards[0].parameter_bytes
        with pytest.raises(DoesNotFitError, match="optimizer_state: int8"):
            plan(folder, description(server_memory=str(room)))

    def test_what_the_servers_would_refuse_at_the_start_is_refused_now(self, folder: Path) -> None:
        with pytest.raises(DoesNotFitError, match="memory_bytes"):
            plan(folder, description(), memory_bytes=1000)


class TestTimes:
    def loads(self, **changes: Any) -> list[Load]:
        plain = {"bandwidth": 1e9, "compute_seconds": 1.0, "inner_seconds": 0.0, "pushed": [10**9], "pulled": [10**9]}
        return [Load(name="slow", **{**plain, **changes}), Load(name="fast", **{**plain, "compute_seconds": 0.1})]

    def servers(self, gbits: float = 1000) -> Any:
        return Cluster.model_validate(
            {
                "servers": [{"memory": "1GB", "bandwidth": f"{gbits}Gbit/s"}],
                "workers": [{"devices": [{"memory": 1, "tflops": 1}], "bandwidth": "1Gbit/s"}],
            }
        ).server_machines

    def test_a_round_waits_for_the_slowest_and_hides_pushes_behind_backward(self) -> None:
        time = round_time(self.loads(compute_seconds=3.0), self.servers(), [0])
        assert time.seconds == pytest.approx(3.0 + 0 + 1.0)
        assert time.limited_by == "computing of slow"

    def test_a_servers_link_that_all_workers_share_may_be_the_limit(self) -> None:
        time = round_time(self.loads(), self.servers(gbits=4), [0])
        assert time.limited_by == "pulls over the link of server 0"
        assert time.phases[time.limited_by] == pytest.approx(4.0)

    def test_free_workers_go_at_their_own_pace_until_the_servers_are_busy(self) -> None:
        slow, fast = free_times(self.loads(compute_seconds=5.0), self.servers(), [0])
        assert slow.seconds > 2 * fast.seconds
        held_up = free_times(self.loads(), self.servers(gbits=4), [0])
        assert {time.limited_by for time in held_up} == {"the link of server 0"}


def test_the_least_frame_of_every_codec_is_no_larger_than_any_of_its_frames() -> None:
    torch.manual_seed(0)
    for spec in [*example_specs(), *(family.example for family in MEMORIES)]:
        encoder = parse_encoder(spec)
        for size in (1, 129, 5000):
            values, out = torch.randn(size).numpy(), bytearray(encoder.frame_bound(size))
            frame = parse_codec(encoder.codec.spec).encode(values, torch.frombuffer(out, dtype=torch.uint8).numpy())
            assert encoder.frame_least(size) <= frame <= encoder.frame_bound(size), spec


def test_the_command_prints_one_object_or_a_page(folder: Path) -> None:
    cluster = folder / "cluster.yaml"
    cluster.write_text(
        "model: planned.py:Net\nloss: planned.py:loss\nbatch_size: 8\n"
        "servers: [{memory: 4GiB, bandwidth: 10Gbit/s}]\n"
        "workers: [{devices: [{memory: 4GiB, tflops: 10}], bandwidth: 1Gbit/s, count: 2}]\n",
        encoding="utf-8",
    )
    job = folder / "job.yaml"
    job.write_text("push_codec: int8\n", encoding="utf-8")
    printed = run_command(["plan", str(job), "--json"]).stdout
    answer = json.loads(printed)
    assert [worker["layout"] for worker in answer["workers"]] == ["plain", "plain"]
    assert answer == plan_object(plan_job(JobSettings(push_codec="int8"), load_cluster(cluster), folder))
    page = run_command(["plan", str(job)]).stdout
    assert "server 0:" in page
    assert "Limited by" in page


def test_a_model_on_the_meta_device_is_planned_as_one_with_values(folder: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    with torch.device("meta"):
        planned = make()
    real = make()
    groups = [[{"params": list(model.parameters())}] for model in (planned, real)]
    assert described_model(planned, groups[0]).entries == model_table(real, groups[1]).entries
    with pytest.raises(SettingError, match="meta device"):
        model_table(planned, groups[0])
