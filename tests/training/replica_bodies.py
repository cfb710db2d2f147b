"""What the ranks of a worker that replicates its model (dp2) run in tests."""

import time
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from pushpull.protos.errors import ServerUnreachableError
from pushpull.worker import Worker, connect

NUM_SAMPLES, BATCH_SIZE = 64, 8
LEARNING_RATE = 0.1


def small_model() -> torch.nn.Module:
    """The same values in every process."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))


def small_data() -> torch.utils.data.TensorDataset:
    """Inputs and what is to be found."""
    inputs = torch.randn(NUM_SAMPLES, 8, generator=torch.Generator().manual_seed(1))
    return torch.utils.data.TensorDataset(inputs, inputs[:, :4].clone())


def batches(worker: Worker) -> Any:
    """What this rank works on of each batch of one epoch, in the order of the data."""
    return worker.share(torch.utils.data.DataLoader(small_data(), batch_size=BATCH_SIZE))


def values(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the parameters, by name."""
    return {name.removeprefix("module."): p.detach().clone() for name, p in model.named_parameters()}


def wrapped() -> tuple[dict[str, torch.Tensor], int]:
    """One epoch with torch's own replicas; the parameters behind it, and how many steps had to be sent twice."""
    with connect() as worker:
        model = DistributedDataParallel(small_model())
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=LEARNING_RATE)
        for inputs, targets in batches(worker):
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert worker._training.replica is not None
        return values(model), worker._training.replica.num_restaged


def with_closures() -> dict[str, torch.Tensor]:
    """One epoch of local steps that get a closure; the parameters behind it."""
    with connect() as worker:
        model = small_model()
        inner = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
        optimizer = worker.local_updates(model, inner, every=4, outer_lr=1.0, outer_momentum=0.0)
        for inputs, targets in batches(worker):

            def closure(inputs: torch.Tensor = inputs, targets: torch.Tensor = targets) -> float:
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(model(inputs), targets)
                loss.backward()
                return loss.item()

            optimizer.step(closure)
        return values(model)


def failing(step: int) -> None:
    """User code of rank 1 raises in the loop over the data, with local steps that are not pushed; rank 0 goes on."""
    with connect() as worker:
        model = small_model()
        inner = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
        optimizer = worker.local_updates(model, inner, every=3)
        for number, (inputs, targets) in enumerate(batches(worker)):
            if worker.rank == 1 and number == step:
                raise ValueError("nothing works today")
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()


def losing_a_server(step: int) -> None:
    """From a step on rank 1 reaches one server no more; rank 0 reaches all."""
    with connect() as worker:
        model = small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=LEARNING_RATE)
        for number, (inputs, targets) in enumerate(batches(worker)):
            if worker.rank == 1 and number == step:
                client = worker._training.replica._shards.clients[1]  # type: ignore[union-attr]
                client.close()
                client.error = ServerUnreachableError("shard 1 gave no answer")
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()


def staying(seconds: float) -> None:
    """An epoch that is left early and a whole one, behind which rank 0 still has something to do."""
    with connect() as worker:
        model = small_model()
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=LEARNING_RATE)
        for num_steps in (3, None):
            for number, (inputs, targets) in enumerate(batches(worker)):
                if number == num_steps:
                    break
                torch.nn.functional.mse_loss(model(inputs), targets).backward()
                optimizer.step()
                optimizer.zero_grad()
        if worker.rank == 0:
            time.sleep(seconds)
