"""One worker of `pushpull bench exchange`: steps when it is told to. Run by `pushpull launch`."""

import argparse
import time
from multiprocessing.connection import Client

import torch

from pushpull.benchmarks.shapes import transformer
from pushpull.worker import connect


class Table(torch.nn.Module):
    """Parameters without a forward pass: only their exchange is measured."""

    def __init__(self, num_elements: int) -> None:
        super().__init__()
        for name, shape in transformer(num_elements):
            self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(0.02 * torch.randn(shape)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, required=True)
    parser.add_argument("--control", required=True, help="host:port of the benchmark")
    parser.add_argument("--key", required=True)
    arguments = parser.parse_args()
    host, port = arguments.control.rsplit(":", 1)
    torch.set_num_threads(1)
    with connect() as worker, Client((host, int(port)), authkey=bytes.fromhex(arguments.key)) as control:
        torch.manual_seed(worker.id)
        model = Table(arguments.elements)
        optimizer = worker.optimizer(model, torch.optim.AdamW, lr=1e-4)
        for parameter in model.parameters():
            parameter.grad = 1e-3 * torch.randn_like(parameter)
        control.send(worker.id)
        while (num_steps := control.recv()) > 0:
            started = time.perf_counter()
            for _ in range(num_steps):
                optimizer.step(num_samples=1)
            control.send(time.perf_counter() - started)


if __name__ == "__main__":
    main()
