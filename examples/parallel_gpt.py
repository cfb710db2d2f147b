"""Trains a GPT with workers that divide it between several ranks (GPUs, or processes on CPUs), each in its own way.

One script for all: what a worker is made of is the launcher's business. One worker with tensor parallelism, one with a
pipeline, and one plain one, together:

    cd examples
    pushpull launch --servers 2 --layout tp2 --layout pp2 --layout plain --job parallel_gpt.yaml parallel_gpt.py

`parallel_gpt_model.py` is the model, `parallel_gpt_layouts.py` divides it, `parallel_gpt.yaml` tells the servers about it.
"""

import argparse
import json
import os
from pathlib import Path

import torch
from char_gpt import NUM_BYTES, Windows, learning_rate_factor, load_text
from parallel_gpt_layouts import AUTOCAST, SCHEDULES, Options, TrainingStep, build_parts
from parallel_gpt_model import GPT, GPTShape
from torch.utils.data import DataLoader

from pushpull.worker import connect


def default_devices() -> str:
    """One GPU for each rank of this machine, if there are any."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="steps of each worker")
    parser.add_argument("--batch-size", type=int, default=16, help="windows per step and worker")
    parser.add_argument("--context", type=int, default=128, help="bytes the model looks back")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--tied", action="store_true", help="use the embedding as the head")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--text-bytes", type=int, default=2_000_000, help="how much text to read")
    parser.add_argument("--seed", type=int, default=0, help="of the initial parameters")
    parser.add_argument("--devices", default=default_devices(), help="of a rank, e.g. cuda:0,cuda:1: layers go to both")
    parser.add_argument(
        "--sequence-parallel", action="store_true", help="with tensor parallelism: divide activations too"
    )
    parser.add_argument("--schedule", choices=SCHEDULES, default="1f1b", help="of a pipeline")
    parser.add_argument("--microbatches", type=int, default=4, help="of a pipeline; must divide the batch")
    parser.add_argument("--checkpoint", action="store_true", help="compute activations again instead of keeping them")
    parser.add_argument("--autocast", choices=AUTOCAST, default="fp32")
    parser.add_argument("--history", type=Path, help="file for the training losses of worker 0, a JSON list")
    parser.add_argument("--save", type=Path, help="file for the whole trained model and the optimizer's moments")
    arguments = parser.parse_args()

    shape = GPTShape(
        arguments.width, arguments.layers, arguments.heads, arguments.context, NUM_BYTES, tied=arguments.tied
    )
    options = Options(
        devices=tuple(arguments.devices.split(",")),
        sequence_parallel=arguments.sequence_parallel,
        schedule=arguments.schedule,
        num_microbatches=arguments.microbatches,
        checkpoint=arguments.checkpoint,
        autocast=arguments.autocast,
        seed=arguments.seed,
    )
    text = load_text(arguments.text_bytes)
    # A pipeline needs batches that can be cut into equal micro-batches: no short one at the end.
    loader = DataLoader(Windows(text, shape.context), batch_size=arguments.batch_size, shuffle=True, drop_last=True)
    with torch.device("meta"):
        whole = GPT(shape)  # names, shapes and ties of the whole model; it takes no memory

    with connect() as worker:  # in every rank; they find each other and the servers
        parts = build_parts(shape, worker, options)
        optimizer = worker.optimizer(
            parts, torch.optim.AdamW, whole=whole, lr=arguments.learning_rate, weight_decay=0.1
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: learning_rate_factor(n, arguments.steps))
        scaler = worker.grad_scaler(torch.device(options.devices[0]).type, enabled=options.autocast == "fp16")
        optimizer.attach_scaler(scaler)  # so that gradients may leave while backward still runs
        step = TrainingStep(parts, worker, options, scaler.scale)
        losses: list[float] = []
        while len(losses) < arguments.steps:
            for windows in worker.share(loader):  # what this rank works on of the worker's batch
                losses.append(step(windows, worker.batch_weight))
                scaler.step(optimizer)  # every rank pushes and pulls its own part
                scaler.update()
                optimizer.zero_grad()
                schedule.step()
                worker.log(loss=losses[-1])
                if len(losses) == arguments.steps:
                    break
        if arguments.save is not None:
            state = worker.full_state_dict(first_rank_only=True)  # undivided, whatever the layout; all ranks together
            if worker.rank == 0 and worker.is_first:
                torch.save(state, arguments.save)
        if arguments.history is not None and worker.id == 0 and worker.rank == 0:
            arguments.history.write_text(json.dumps(losses))


if __name__ == "__main__":
    main()
