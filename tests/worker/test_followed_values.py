"""Pulled values: whole, or as differences that are followed one by one."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pushpull.compression.frame import Frame, parse_frame
from pushpull.compression.spec import parse_codec
from pushpull.protos.errors import BadRequestError
from pushpull.worker.followed_values import FollowedValues, Receiver, receiver_for
from pushpull.worker.plan import TableEntry, make_plan
from pushpull.worker.tensor_memory import TensorMemory

PLAN = make_plan([TableEntry("weight", (20, 30), True, group=0)], 1, 1000)
BLOCK = PLAN.blocks[0]


def frame(values: NDArray[np.float32], codec: str = "fp32") -> Frame:
    encoder = parse_codec(codec)
    out = np.empty(encoder.frame_bound(values.size), np.uint8)
    return parse_frame(out[: encoder.encode(values, out)].tobytes(), values.size)


def random_values() -> NDArray[np.float32]:
    return torch.randn(600).numpy()


def receiver(codec: str, dtype: torch.dtype = torch.float32) -> tuple[Receiver, torch.Tensor]:
    tensor = torch.zeros(20, 30, dtype=dtype)
    memory = TensorMemory([tensor])
    memory.refresh()
    return receiver_for(parse_codec(codec), memory, 1), tensor


def bits(values: NDArray[np.float32]) -> bytes:
    return values.tobytes()


def test_differences_give_the_servers_bits() -> None:
    takes, tensor = receiver("int8")
    published = random_values()
    takes.replace(BLOCK, frame(published))
    for _ in range(5):
        difference = frame(random_values() * np.float32(0.01), "int8")
        difference.add_to(published)
        takes.add(BLOCK, difference, 1)
    assert bits(tensor.numpy()) == bits(published)


def test_differences_build_on_the_published_value_not_on_the_tensor() -> None:
    takes, tensor = receiver("int8", torch.bfloat16)
    first, difference = random_values(), random_values()
    takes.replace(BLOCK, frame(first))
    tensor.zero_()
    takes.add(BLOCK, frame(difference), 1)
    assert torch.equal(tensor.view(-1), torch.from_numpy(first + difference).bfloat16())


def test_a_difference_told_again_is_not_added_again() -> None:
    takes, tensor = receiver("int8")
    values = random_values()
    takes.replace(BLOCK, frame(values))
    takes.add(BLOCK, frame(values), 0)
    assert bits(tensor.numpy()) == bits(values)


@pytest.mark.parametrize("num_versions", [1, 2])
def test_a_difference_to_a_value_that_is_not_held_is_refused(num_versions: int) -> None:
    takes, _ = receiver("int8")
    if num_versions == 2:
        takes.replace(BLOCK, frame(random_values()))
    with pytest.raises(BadRequestError, match="does not hold"):
        takes.add(BLOCK, frame(random_values()), num_versions)


@pytest.mark.parametrize("codec", ["fp32", "fp16", "bf16"])
def test_dense_codecs_bring_whole_values_and_no_copy_is_kept(codec: str) -> None:
    takes, tensor = receiver(codec)
    assert not isinstance(takes, FollowedValues)
    values = random_values()
    takes.replace(BLOCK, frame(values))
    assert bits(tensor.numpy()) == bits(values)
    with pytest.raises(BadRequestError, match="whole values"):
        takes.add(BLOCK, frame(values), 1)
