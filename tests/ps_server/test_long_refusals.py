"""A refusal arrives with its code however long the names are that it quotes."""

from collections.abc import Iterator

import grpc
import pytest

from pushpull.protos.errors import PushpullError, error_of_call
from pushpull.protos.registrar_pb2 import ROLE_TRAINER, JoinRequest
from pushpull.protos.registrar_pb2_grpc import RegistrarStub
from pushpull.ps_server.config import JobSettings, ServerConfig
from pushpull.ps_server.rpc import MOST_SENTENCE_BYTES, short_enough
from pushpull.ps_server.server import Server


@pytest.fixture(scope="module")
def registrar() -> Iterator[RegistrarStub]:
    server = Server(ServerConfig(shard=0, num_shards=1, job=JobSettings(name="cats"), metrics_listen=None))
    server.start()
    try:
        with grpc.insecure_channel(server.address) as channel:
            yield RegistrarStub(channel)
    finally:
        server.stop(0.1)


@pytest.mark.parametrize("name", ["n" * 60_000, "n" * 10_000, "\N{CAT FACE}" * 5_000, "%" * 9_000, "\n" * 9_000])
def test_a_long_name_does_not_cost_the_code(registrar: RegistrarStub, name: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        registrar.Join(JoinRequest(worker_id=-1, role=ROLE_TRAINER, host="h", job_name=name), timeout=30)
    error = error_of_call(refused.value)
    assert isinstance(error, PushpullError), refused.value
    assert str(error).startswith("this worker means the job ")
    assert str(error).endswith(" ...")


def test_what_fits_is_not_cut() -> None:
    assert short_enough("a" * MOST_SENTENCE_BYTES) == "a" * MOST_SENTENCE_BYTES
    assert short_enough("a" * (MOST_SENTENCE_BYTES + 1)) == "a" * MOST_SENTENCE_BYTES + " ..."
