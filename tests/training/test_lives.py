"""A worker that comes back draws anew: what its first life never sent, its second one does."""

import torch
from clusters import local_cluster

from pushpull.worker import Worker, connect

SHAPE = (100, 100)
NUM_SENT = 1000


def test_another_life_of_a_worker_sends_other_elements() -> None:
    def body(worker: Worker) -> int:
        model = torch.nn.Linear(SHAPE[1], SHAPE[0], bias=False)
        torch.nn.init.zeros_(model.weight)
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=1.0)
        model(torch.ones(1, SHAPE[1])).sum().backward()
        optimizer.step()
        return int(torch.count_nonzero(model.weight))

    with local_cluster(push_codec="randk:0.1:unscaled+fp32") as cluster:
        num_moved = []
        for _ in range(3):
            with connect(cluster.addresses, 0, resume=True) as worker:
                num_moved.append(body(worker))
    assert num_moved[0] == NUM_SENT
    # 10 % of what is left; the same draws again would add nothing.
    assert num_moved[1] > 1.7 * NUM_SENT
    assert num_moved[2] > 2.4 * NUM_SENT
