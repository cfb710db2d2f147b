"""One rank of the all-reduce that `pushpull bench exchange` compares with."""

import argparse
import time
from multiprocessing.connection import Client

import torch
import torch.distributed as dist

from pushpull.benchmarks.shapes import elements, transformer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--store", required=True, help="file that the ranks meet at")
    parser.add_argument("--control", required=True, help="host:port of the benchmark")
    parser.add_argument("--key", required=True)
    arguments = parser.parse_args()
    host, port = arguments.control.rsplit(":", 1)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{arguments.store}", rank=arguments.rank, world_size=2)
    shapes = [shape for _, shape in transformer(arguments.elements)]
    # One flat gradient, as DistributedDataParallel's buckets are flat: the fastest form gloo has.
    gradient = 1e-3 * torch.randn(sum(elements(shape) for shape in shapes))
    parameters, start = [], 0
    for shape in shapes:
        parameter = torch.nn.Parameter(torch.zeros(shape))
        parameter.grad = gradient[start : start + parameter.numel()].view(shape)
        parameters.append(parameter)
        start += parameter.numel()
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    with Client((host, int(port)), authkey=bytes.fromhex(arguments.key)) as control:
        control.send(arguments.rank)
        while (order := control.recv())[1] > 0:
            with_optimizer, num_steps = order
            started = time.perf_counter()
            for _ in range(num_steps):
                dist.all_reduce(gradient)
                gradient.mul_(0.5)
                if with_optimizer:
                    optimizer.step()
            control.send(time.perf_counter() - started)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
