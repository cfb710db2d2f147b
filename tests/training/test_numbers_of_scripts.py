"""Learning rates and other numbers of scripts, the whole way to the servers."""

import numpy as np
import torch
from clusters import local_cluster

from pushpull.worker import Worker


def test_a_rate_of_numpy_trains_as_in_torch() -> None:
    """The whole way: into the constructor, and from a schedule."""
    rates = np.linspace(0.1, 0.01, 4, dtype=np.float32)

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for rate in rates:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            model(torch.ones(2, 4)).mean().backward()
            optimizer.step()

    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Linear(4, 1, bias=False)

    def body(worker: Worker) -> torch.Tensor:
        own = model()
        train(own, worker.optimizer(own, torch.optim.SGD, lr=np.float32(0.5), momentum=np.float64(0.5)))
        worker.log(loss=np.float32(1.0), batch=np.int64(3), both=torch.tensor([2.0]))
        return own.weight.detach()  # type: ignore[union-attr,operator]

    plain = model()
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.5, momentum=0.5))
    with local_cluster(1) as cluster:
        (trained,) = cluster.train(body)
    torch.testing.assert_close(trained, plain.weight)  # type: ignore[arg-type]
