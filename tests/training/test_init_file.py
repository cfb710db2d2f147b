"""Servers that take their first values from a file: `--init`."""

import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import torch
from clusters import local_cluster

from pushpull.compression.carried_words import travels_as_words
from pushpull.protos.common_pb2 import Block, Parameter, Plan
from pushpull.protos.errors import BadRequestError, NonFiniteError, PlanMismatchError, SettingError, error_of_call
from pushpull.protos.registrar_pb2 import ShardHello, ShardReport
from pushpull.protos.registrar_pb2_grpc import RegistrarStub
from pushpull.ps_server.config import JobSettings, ServerConfig
from pushpull.ps_server.initial_file import read_initial_file
from pushpull.ps_server.server import Server
from pushpull.worker import connect
from pushpull.worker.model_table import model_table
from pushpull.worker.plan import make_plan


class Model(torch.nn.Module):
    """Tied weights, a frozen parameter, and buffers: infinite ones, and some that are no numbers with a fraction."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(7, 5)
        self.norm = torch.nn.BatchNorm1d(5)
        self.head = torch.nn.Linear(5, 7)
        self.head.weight = self.embed.weight
        self.head.bias.requires_grad_(False)
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("mask", torch.full((3,), float("-inf")))


def saved(
    model: torch.nn.Module, folder: Path, change: Callable[[dict[str, torch.Tensor]], None] | None = None
) -> Path:
    values = dict(model.state_dict())
    if change is not None:
        change(values)
    path = folder / "model.pt"
    torch.save(values, path)
    return path


def as_torch(model: torch.nn.Module, folder: Path) -> Path:
    return saved(model, folder)


def as_compiled(model: torch.nn.Module, folder: Path) -> Path:
    """Names have the prefix of torch.compile."""
    torch.save({f"_orig_mod.{name}": value for name, value in model.state_dict().items()}, path := folder / "c.pt")
    return path


def half(value: torch.Tensor) -> torch.Tensor:
    return value.half() if value.is_floating_point() else value


def as_half_and_more(model: torch.nn.Module, folder: Path) -> Path:
    """Another type, one name of two for tied weights, and tensors that the model does not know."""
    with torch.no_grad():
        model.load_state_dict({name: half(value).to(value.dtype) for name, value in model.state_dict().items()})
    values = {name: half(value) for name, value in model.state_dict().items() if name != "embed.weight"}
    torch.save({**values, "ema": torch.ones(2)}, path := folder / "h.pt")
    return path


def as_safetensors(model: torch.nn.Module, folder: Path) -> Path:
    writer = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    writer.save_model(model, path := folder / "model.safetensors")
    return path


@pytest.mark.parametrize("save", [as_torch, as_compiled, as_half_and_more, as_safetensors])
def test_training_starts_from_the_file_whoever_comes_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, save: Callable[[torch.nn.Module, Path], Path]
) -> None:
    """Over two shards, cut into blocks of four elements, so that every block has to find its place."""
    caplog.set_level(logging.INFO)
    torch.manual_seed(1)
    wanted = Model()
    path = save(wanted, tmp_path)
    with local_cluster(2, init=path, block_elements=4, layouts=("fsdp2",)) as cluster:
        for seed in (2, 3):
            torch.manual_seed(seed)
            model = Model()
            with connect(cluster.addresses) as worker:
                worker.optimizer(model, torch.optim.SGD, lr=0.1)
                assert worker.is_first
            for name, value in wanted.state_dict().items():
                assert torch.equal(model.state_dict()[name], value), name
        origin = cluster.status().origin
    assert origin.incarnation == 0
    assert origin.who.startswith(f"the file {path.name} (SHA-256 ")
    assert caplog.text.count(f"the job starts from the values of the file {path.name}") == 2


def _lacks(values: dict[str, torch.Tensor]) -> None:
    del values["norm.running_mean"]


def _has_another_shape(values: dict[str, torch.Tensor]) -> None:
    values["head.bias"] = torch.zeros(8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_lacks, "the file lacks norm.running_mean"),
        (_has_another_shape, r"head.bias has shape \(8,\) in the file and \(7,\) in the model"),
    ],
)
def test_a_file_of_another_model_is_refused_with_names(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], said: str
) -> None:
    path = saved(Model(), tmp_path, change)
    with local_cluster(1, init=path) as cluster:
        with pytest.raises(PlanMismatchError, match=said), connect(cluster.addresses) as worker:
            worker.optimizer(Model(), torch.optim.SGD, lr=0.1)
        with connect(cluster.addresses) as worker:
            fitting = torch.nn.Module()
            fitting.embed = torch.nn.Embedding(7, 5)
            worker.optimizer(fitting, torch.optim.SGD, lr=0.1)


def _has_no_values(values: dict[str, torch.Tensor]) -> None:
    values["head.bias"] = values["head.bias"].to("meta")


def _is_sparse(values: dict[str, torch.Tensor]) -> None:
    values["embed.weight"] = values["head.weight"] = values["embed.weight"].to_sparse()


def _is_sparse_by_rows(values: dict[str, torch.Tensor]) -> None:
    values["embed.weight"] = values["head.weight"] = values["embed.weight"].to_sparse_csr()


def _is_quantized(values: dict[str, torch.Tensor]) -> None:
    values["norm.running_var"] = torch.quantize_per_tensor(values["norm.running_var"], 0.1, 0, torch.qint8)


def _is_complex(values: dict[str, torch.Tensor]) -> None:
    values["norm.weight"] = torch.complex(values["norm.weight"], torch.ones(5))


def _is_a_complex_buffer(values: dict[str, torch.Tensor]) -> None:
    values["mask"] = torch.complex(torch.zeros(3), torch.ones(3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_has_no_values, "head.bias is on the meta device, without values, in the file"),
        (_is_sparse, "embed.weight is sparse in the file"),
        (_is_sparse_by_rows, "embed.weight is sparse in the file"),
        (_is_quantized, r"norm.running_var is quantized \(qint8\) in the file"),
        (_is_complex, "norm.weight is complex64 in the file"),
        (_is_a_complex_buffer, "mask is complex64 in the file"),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:Sparse CSR", "ignore:torch.quantize_per_tensor", "ignore:TypedStorage is deprecated"
)
def test_what_cannot_be_taken_as_it_is_is_refused_with_its_name(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], said: str
) -> None:
    """The server would end, or drop the imaginary parts without a word. A model that has no such parameter does not care."""
    table = read_initial_file(str(saved(Model(), tmp_path, change))).table
    plan = Plan(
        parameters=[
            Parameter(name=name, shape=value.shape, group=0 if isinstance(value, torch.nn.Parameter) else -1)
            for name, value in Model().state_dict(keep_vars=True).items()
            if name != "head.weight" and not travels_as_words(value)
        ]
    )
    with pytest.raises(PlanMismatchError, match=said):
        table.check(plan)
    table.check(Plan(parameters=[entry for entry in plan.parameters if entry.name == "norm.bias"]))


class Counters(torch.nn.Module):
    """Buffers that travel as words, two each of the same size, and real numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("pair", torch.ones(2))
        self.register_buffer("table", torch.arange(6).view(2, 3))


def _counts_in_float(values: dict[str, torch.Tensor]) -> None:
    values["count"] = torch.tensor([3.0, 0.0])  # as many numbers as the integer has words


def _counts_in_float64(values: dict[str, torch.Tensor]) -> None:
    values["count"] = values["count"].double()


def _pair_is_one_integer(values: dict[str, torch.Tensor]) -> None:
    values["pair"] = torch.tensor(3)


def _pair_of_integers(values: dict[str, torch.Tensor]) -> None:
    values["pair"] = torch.tensor([3, 4])


def _table_on_its_side(values: dict[str, torch.Tensor]) -> None:
    values["table"] = values["table"].t().contiguous()


def _weight_of_truth_values(values: dict[str, torch.Tensor]) -> None:
    values["weight"] = torch.tensor([True, False])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_counts_in_float, r"count is float32 \(2,\) in the file and int64 \(\) in the model"),
        (_counts_in_float64, r"count is float64 \(\) in the file and int64 \(\) in the model"),
        (_pair_is_one_integer, r"pair has shape \(\) in the file and \(2,\) in the model"),
        (_pair_of_integers, "pair is int64 in the file and of real numbers in the model"),
        (_table_on_its_side, r"table is int64 \(3, 2\) in the file and int64 \(2, 3\) in the model"),
        (_weight_of_truth_values, "weight is bool in the file and of real numbers in the model"),
    ],
)
def test_values_of_another_type_do_not_pass_by_their_size(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], said: str
) -> None:
    model = Counters()
    entries = model_table(model, torch.optim.SGD(model.parameters(), lr=0.1).param_groups).entries
    plan = make_plan(entries, 1).to_message()
    read_initial_file(str(saved(model, tmp_path))).table.check(plan)
    with pytest.raises(PlanMismatchError, match=said):
        read_initial_file(str(saved(model, tmp_path, change))).table.check(plan)


def test_a_complex_buffer_starts_from_the_file(tmp_path: Path) -> None:
    """Of the model it is complex, too: then its bytes are what counts."""
    wanted = torch.nn.Linear(2, 2)
    wanted.register_buffer("phases", torch.complex(torch.ones(3), torch.arange(3.0)))
    with local_cluster(1, init=saved(wanted, tmp_path)) as cluster, connect(cluster.addresses) as worker:
        model = torch.nn.Linear(2, 2)
        model.register_buffer("phases", torch.zeros(3, dtype=torch.complex64))
        worker.optimizer(model, torch.optim.SGD, lr=0.1)
        assert torch.equal(model.get_buffer("phases"), wanted.get_buffer("phases"))


@pytest.mark.parametrize(("has_file", "checksum", "said"), [(True, "", "no --init"), (False, "abc", "SHA-256 abc")])
def test_every_server_must_have_the_same(tmp_path: Path, has_file: bool, checksum: str, said: str) -> None:
    init = str(saved(Model(), tmp_path)) if has_file else None
    first = Server(ServerConfig(shard=0, num_shards=2, job=JobSettings(), init=init, metrics_listen=None))
    first.start()
    hello = ShardHello(shard=1, address="elsewhere:1", epoch=7, initial_checksum=checksum)
    try:
        with grpc.insecure_channel(first.address) as channel, pytest.raises(grpc.RpcError) as refused:
            next(RegistrarStub(channel).Link(iter([ShardReport(hello=hello)])))
    finally:
        first.stop(0.1)
    error = error_of_call(refused.value)
    assert isinstance(error, BadRequestError)
    assert said in str(error)
    assert "the same --init FILE" in str(error)


def test_a_parameter_that_is_not_finite_is_named(tmp_path: Path) -> None:
    def spoil(values: dict[str, torch.Tensor]) -> None:
        values["norm.weight"][2] = float("nan")

    file = read_initial_file(str(saved(Model(), tmp_path, spoil)))
    parameter = Parameter(name="norm.weight", shape=[5], trainable=True)
    with pytest.raises(NonFiniteError, match=r"norm\.weight of the file model\.pt"):
        file.values(parameter, Block(offsets=[0], sizes=[5]))
    assert file.values(parameter, Block(offsets=[3], sizes=[2])).tolist() == [1.0, 1.0]


class Dangerous:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file"),
        (b"", "cannot be read"),
        (b"not a checkpoint", "cannot be read"),
        (pickle.dumps(Dangerous()), "cannot be read"),
        ({"model": {"w": torch.ones(2)}, "step": 3}, "no map of names to tensors"),
        ([torch.ones(2)], "no map of names to tensors"),
    ],
    ids=["missing", "empty", "text", "code", "nested", "a list"],
)
def test_what_is_no_state_dict_is_refused_before_the_server_serves(
    tmp_path: Path, content: object, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(SettingError, match=f"--init.*{said}"):
        read_initial_file(str(path))
    assert "executed" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [("folder", "is a folder"), ("pipe", "is a pipe or a device"), ("x" * 300, "cannot be read.*name too long")],
    ids=["folder", "pipe", "a name that is too long"],
)
def test_what_is_no_readable_file_is_refused_as_what_it_is(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingError, match=f"--init.*{said}"):
        read_initial_file(str(tmp_path / name))
