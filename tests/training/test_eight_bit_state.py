"""Training with moments in 8 bits ends where training with FP32 moments ends."""

from typing import Any

import pytest
import torch
from clusters import local_cluster
from sklearn.datasets import load_digits

from pushpull.worker import LAMB, Worker

NUM_STEPS = 120
NUM_TEST_IMAGES = 450
Kind = type[torch.optim.Optimizer]


def train(kind: Kind, kwargs: dict[str, Any], state: str) -> tuple[float, float, torch.Tensor]:
    """Held-out loss and accuracy, and the parameters, of one worker against two servers."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, training = order[:NUM_TEST_IMAGES], order[NUM_TEST_IMAGES:]
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    batches = training.repeat(8)[: NUM_STEPS * 64].split(64)

    def body(worker: Worker) -> None:
        optimizer = worker.optimizer(model, kind, **kwargs)
        for chosen in batches:
            torch.nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step(num_samples=64)
            optimizer.zero_grad()

    with local_cluster(optimizer_state=state, expected_workers=1) as cluster:
        cluster.train(body)
    with torch.no_grad():
        logits = model(images[test])
    loss = torch.nn.functional.cross_entropy(logits, labels[test]).item()
    accuracy = (logits.argmax(dim=1) == labels[test]).float().mean().item()
    return loss, accuracy, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


CASES: list[tuple[Kind, dict[str, Any]]] = [
    (torch.optim.AdamW, {"lr": 5e-3}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (LAMB, {"lr": 0.02}),
]


@pytest.mark.parametrize(("kind", "kwargs"), CASES, ids=[kind.__name__ for kind, _ in CASES])
def test_digits_are_learned_as_well_as_with_fp32(kind: Kind, kwargs: dict[str, Any]) -> None:
    exact_loss, exact_accuracy, exact = train(kind, kwargs, "fp32")
    loss, accuracy, coded = train(kind, kwargs, "int8")
    print(kind.__name__, exact_loss, loss, exact_accuracy, accuracy)
    assert not torch.equal(exact, coded), "nothing was kept in 8 bits"
    assert loss <= 1.1 * exact_loss
    assert accuracy >= exact_accuracy - 0.01


def test_two_runs_give_the_same_bits() -> None:
    runs = [train(torch.optim.AdamW, {"lr": 5e-3}, "int8")[2] for _ in range(2)]
    assert torch.equal(*runs)
