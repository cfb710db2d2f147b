"""What ranks run in tests of `rank_groups` itself."""

import torch
import torch.distributed as dist


def ending(last_rank: str) -> int:
    """The last rank fails or goes on for ever; the others wait for it."""
    dist.init_process_group("gloo")
    rank, step = dist.get_rank(), 0
    if rank == dist.get_world_size() - 1 and last_rank == "fails":
        raise ValueError("nothing works today")
    while last_rank != "agrees" or step < 2:
        step += 1
        dist.all_reduce(torch.ones(()))
        print(f"step {step}", flush=True)
    return rank
