"""Rows without gradient stay where they are, whatever the codec: padding, and tokens that never occur."""

import pytest
import torch
from clusters import local_cluster

from pushpull.worker import Worker

CODECS = ("sign", "sign:stochastic", "topk:0.2+sign", "vq:2x16", "int2", "randk:0.3:unscaled+sign")
WITH_OPTIMIZERS = [(codec, kind) for codec in CODECS for kind in (torch.optim.SGD, torch.optim.Adam)]


def embed(worker: Worker, optimizer_class: type[torch.optim.Optimizer]) -> tuple[torch.Tensor, torch.Tensor]:
    """How far each row of an embedding moved, and of how many of its rows every step had a gradient."""
    torch.manual_seed(0)
    table = torch.nn.Embedding(60, 20, padding_idx=0)
    before = table.weight.detach().clone()
    optimizer = worker.optimizer(table, optimizer_class, lr=0.05)
    for step in range(12):
        tokens = torch.tensor([0, 3, 7 + step % 2, 31])
        optimizer.zero_grad()
        table(tokens).square().mean().backward()
        optimizer.step()
    moved = (table.weight.detach() - before).abs().amax(1)
    return moved, torch.tensor([3, 7, 8, 31])


@pytest.mark.parametrize(
    ("push_codec", "optimizer_class"), [*WITH_OPTIMIZERS, ("dgc:0.9+topk:0.1+int8", torch.optim.SGD)]
)
def test_rows_without_gradient_do_not_move(push_codec: str, optimizer_class: type[torch.optim.Optimizer]) -> None:
    with local_cluster(2, push_codec=push_codec) as cluster:
        ((moved, seen),) = cluster.train(lambda worker: embed(worker, optimizer_class))
    assert moved[seen].min() > 0
    moved[seen] = 0
    assert moved.max() == 0
