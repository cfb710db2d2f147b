"""One rank of DistributedDataParallel for `pushpull bench links`: model, data and schedule of `examples/char_gpt.py`.

The process group comes from the environment, as under torchrun. The batch size is per rank.
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from pushpull.benchmarks.links.records import Recording
from pushpull.benchmarks.scripts.char_gpt import load_char_gpt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path, help="folder for what is recorded")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--optimizer", required=True)
    parser.add_argument("--text-bytes", type=int, required=True)
    parser.add_argument("--validate-every", type=int, help="not used: the benchmark looks at training losses")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    example = load_char_gpt()

    dist.init_process_group("gloo")
    torch.manual_seed(options.seed)
    text = example.load_text(options.text_bytes)
    data = example.Windows(text[: -(len(text) // 50)], options.context)
    sampler: DistributedSampler[torch.Tensor] = DistributedSampler(data, seed=options.seed)
    loader = DataLoader(data, batch_size=options.batch_size, sampler=sampler)
    model = DistributedDataParallel(example.GPT(options.width, options.layers, options.heads, options.context))
    optimizer = example.OPTIMIZERS[options.optimizer](
        model.parameters(), lr=options.learning_rate, weight_decay=example.WEIGHT_DECAY[options.optimizer]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: example.learning_rate_factor(step, options.steps)
    )
    recording = Recording(options.records / f"{dist.get_rank()}.jsonl")
    step = epoch = 0
    while step < options.steps:
        sampler.set_epoch(epoch)
        epoch += 1
        for windows in loader:
            recording.step_begins()
            loss = example.loss_of(model, windows)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            recording.step_ended(loss.item())
            step += 1
            if step == options.steps:
                break
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
