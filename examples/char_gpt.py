"""Trains a small GPT, byte by byte, on the sources of Python's own standard library (nothing to download).

Run it on a whole local cluster:

    pushpull launch --servers 2 --workers 2 --set push_codec=int8 --set pull_codec=bf16 examples/char_gpt.py

Compared with the same script for one process, only the lines marked `(pushpull)` differ.
"""

import argparse
import json
import math
import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pushpull.worker import Worker, connect  # (pushpull)

NUM_BYTES = 256  # the vocabulary: every byte value
OPTIMIZERS = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
WEIGHT_DECAY = {"adamw": 0.1, "sgd": 0.0}


class Block(nn.Module):
    """One transformer layer: attention, then a two-layer network, each added to what came in."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.join_heads = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, time, width]."""
        split = [part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self._parts(x)]
        attended = nn.functional.scaled_dot_product_attention(*split, is_causal=True)
        x = x + self.join_heads(attended.transpose(1, 2).flatten(2))
        return x + self.feed_forward(self.norm_2(x))

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.queries_keys_values(self.norm_1(x)).chunk(3, dim=2)


class GPT(nn.Module):
    """Predicts the next byte."""

    def __init__(self, width: int, num_layers: int, num_heads: int, context: int) -> None:
        super().__init__()
        self.byte_embedding = nn.Embedding(NUM_BYTES, width)
        self.position_embedding = nn.Embedding(context, width)
        self.layers = nn.Sequential(*(Block(width, num_heads) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, NUM_BYTES, bias=False)
        self.head.weight = self.byte_embedding.weight  # tied: one tensor with two names
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        """text: [batch, time] of byte values; returns [batch, time, 256] logits of the next byte."""
        positions = torch.arange(text.shape[1], device=text.device)
        x = self.byte_embedding(text) + self.position_embedding(positions)
        return self.head(self.norm(self.layers(x)))


class Windows(Dataset[Tensor]):
    """Pieces of `context + 1` bytes, one behind the other."""

    def __init__(self, text: Tensor, context: int) -> None:
        self.text, self.context = text, context

    def __len__(self) -> int:
        return (len(self.text) - 1) // self.context

    def __getitem__(self, index: int) -> Tensor:
        start = index * self.context
        return self.text[start : start + self.context + 1].long()


def load_text(num_bytes: int) -> Tensor:
    """The first `num_bytes` of the standard library's sources, sorted by file name: uint8 [num_bytes]."""
    folder = Path(sysconfig.get_path("stdlib"))
    text = bytearray()
    for path in sorted(folder.glob("*.py")):
        text += path.read_bytes()
        if len(text) >= num_bytes:
            break
    return torch.frombuffer(text[:num_bytes], dtype=torch.uint8)


def loss_of(model: nn.Module, windows: Tensor) -> Tensor:
    """Mean cross entropy of each next byte, in nats."""
    logits = model(windows[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def validation_loss(model: nn.Module, loader: DataLoader[Tensor]) -> float:
    """Mean loss over the held-out text."""
    model.eval()
    losses = [loss_of(model, windows).item() for windows in loader]
    model.train()
    return sum(losses) / len(losses)


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Linear warm-up over the first tenth, then a cosine down to a tenth."""
    warm_up = max(1, num_steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.55 + 0.45 * math.cos(math.pi * min(1.0, (step - warm_up) / max(1, num_steps - warm_up)))


def make_optimizer(worker: Worker, model: nn.Module, options: argparse.Namespace) -> torch.optim.Optimizer:
    """On the servers; with --local-steps on this worker, and the servers average where the workers got to."""
    kind = OPTIMIZERS[options.optimizer]
    chosen = {"lr": options.learning_rate, "weight_decay": WEIGHT_DECAY[options.optimizer]}
    if options.local_steps == 0:
        return worker.optimizer(model, kind, **chosen)  # (pushpull) was: kind(model.parameters(), **chosen)
    return worker.local_updates(  # (pushpull)
        model,
        kind(model.parameters(), **chosen),
        every=options.local_steps,
        outer_lr=options.outer_lr,
        outer_momentum=options.outer_momentum,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="steps of each worker")
    parser.add_argument("--batch-size", type=int, default=16, help="windows per step and worker")
    parser.add_argument("--context", type=int, default=128, help="bytes the model looks back")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw")
    parser.add_argument("--local-steps", type=int, default=0, help="local steps between two pushes; 0: push every step")
    parser.add_argument("--outer-lr", type=float, default=0.7, help="with --local-steps: of the servers")
    parser.add_argument(
        "--outer-momentum", type=float, default=0.5, help="with --local-steps: of the servers, Nesterov"
    )
    parser.add_argument("--text-bytes", type=int, default=2_000_000, help="how much text to read")
    parser.add_argument("--validate-every", type=int, default=100, help="steps between two validations")
    parser.add_argument("--seed", type=int, default=0, help="of the initial parameters")
    parser.add_argument("--history", type=Path, help="file for the training losses of worker 0, a JSON list")
    parser.add_argument("--save", type=Path, help="file for the trained model and the optimizer's moments")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    text = load_text(options.text_bytes)
    held_out = len(text) // 50
    training_set = Windows(text[:-held_out], options.context)
    validation = DataLoader(Windows(text[-held_out:], options.context), batch_size=64)
    loader = DataLoader(training_set, batch_size=options.batch_size, shuffle=True)
    model = GPT(options.width, options.layers, options.heads, options.context)

    with connect() as worker:  # (pushpull) finds the servers that the launcher started
        optimizer = make_optimizer(worker, model, options)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, options.steps))
        losses: list[float] = []
        step = 0
        while step < options.steps:
            for windows in worker.share(loader):  # (pushpull) each worker gets its share of the text
                loss = loss_of(model, windows)
                loss.backward()
                optimizer.step()  # pushes and pulls
                optimizer.zero_grad()
                schedule.step()
                losses.append(loss.item())
                worker.log(loss=losses[-1])  # (pushpull) shows up in progress and summary
                step += 1
                if worker.is_first and step % options.validate_every == 0:
                    with worker.pause():  # (pushpull) nobody waits for this worker meanwhile
                        worker.log(validation_loss=validation_loss(model, validation))
                if step == options.steps:
                    break
        if options.save is not None and worker.is_first:
            torch.save(worker.full_state_dict(), options.save)  # (pushpull) in full precision, from the servers
        if options.history is not None and worker.id == 0:
            options.history.write_text(json.dumps(losses))


if __name__ == "__main__":
    main()
