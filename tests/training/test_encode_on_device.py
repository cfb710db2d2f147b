"""Encoding gradients where they lie gives the same training, bit for bit. On the CPU here: no GPU was to be had."""

import pytest
import torch
from clusters import local_cluster

from pushpull.worker import Worker

STEPS = 5


def train(push_codec: str, encode_on_device: bool, clip_norm: float | None = None) -> dict[str, torch.Tensor]:
    """What worker 0 holds after some steps of two workers."""
    torch.manual_seed(0)
    models = [torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.Tanh(), torch.nn.Linear(96, 8)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())

    def body(worker: Worker) -> dict[str, torch.Tensor]:
        model = models[worker.id]
        optimizer = worker.optimizer(
            model, torch.optim.SGD, lr=0.1, clip_norm=clip_norm, encode_on_device=encode_on_device
        )
        generator = torch.Generator().manual_seed(worker.id)
        for _ in range(STEPS):
            model(torch.randn(16, 64, generator=generator)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return {name: value.detach().clone() for name, value in model.state_dict().items()}

    with local_cluster(expected_workers=2, push_codec=push_codec) as cluster:
        state: dict[str, torch.Tensor] = cluster.train(body, body)[0]
        return state


@pytest.mark.parametrize("push_codec", ["int8", "int4:stochastic", "topk:0.05+int8", "dgc:0.9+topk:0.05+fp16"])
def test_training_is_the_same_wherever_gradients_are_encoded(push_codec: str) -> None:
    host, device = (train(push_codec, on_device) for on_device in (False, True))
    for name, value in host.items():
        assert torch.equal(value, device[name]), name


def test_gradients_are_clipped_alike() -> None:
    """The sum of squares has another order, so only nearly."""
    host, device = (train("fp32", on_device, clip_norm=0.01) for on_device in (False, True))
    for name, value in host.items():
        torch.testing.assert_close(value, device[name])
    unclipped = train("fp32", False)
    assert any((value - unclipped[name]).abs().max() > 1e-4 for name, value in host.items())
