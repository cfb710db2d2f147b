"""Trains a GPT whose feed-forward networks are mixtures of experts: each token goes to the few that a router chooses.

    cd examples
    pushpull launch --servers 2 --workers 2 moe_gpt.py --on-demand
    pushpull launch --servers 2 --layout dp2 --layout plain moe_gpt.py

Experts are blocks like any other. One without a token has no gradient, so nothing of it is pushed. With `--on-demand` a worker
pulls only the experts that have tokens, when it knows them; without, it pulls all of them after every step. The ranks of a
worker (`dp2`) divide its batch and the experts between them, and send each other tokens.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from char_gpt import NUM_BYTES, Windows, learning_rate_factor, load_text
from parallel_gpt import default_devices
from parallel_gpt_layouts import Ranks
from parallel_gpt_model import GPT, FeedForward, GPTShape, initialise, loss_of
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pushpull.worker import connect
from pushpull.worker.layout import Layout

EXPERTS = "*.experts.*"
"""Names of the experts' parameters."""
BALANCE = 0.01
"""Weight of the balancing loss."""


@dataclass(frozen=True)
class Mixture:
    """The experts of one layer."""

    num_experts: int = 8
    experts_per_token: int = 2


class AllToAll(torch.autograd.Function):
    """Rows to other ranks, and in the backward pass their gradients back again."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
        """rows: [sum(sent), width], in the order of the ranks they go to; returns [sum(received), width]."""
        ctx.sent, ctx.received, ctx.group = sent, received, group
        arrived = rows.new_empty(sum(received), rows.shape[1])
        dist.all_to_all_single(arrived, rows.contiguous(), received, sent, group=group)
        return arrived

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return AllToAll.apply(gradients[0], ctx.received, ctx.sent, ctx.group), None, None, None


class MixtureOfExperts(nn.Module):
    """Replaces a feed-forward network.

    Every token gets the outputs of the experts with its highest probabilities, weighted by these. No token is dropped. On
    every rank of a worker the forward pass must run alike: they exchange tokens in it.
    """

    def __init__(self, width: int, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture
        self.router = nn.Linear(width, mixture.num_experts, bias=False)
        # A dictionary: a rank deletes the experts of others, and the rest keep their names.
        self.experts = nn.ModuleDict({str(i): FeedForward(width) for i in range(mixture.num_experts)})
        self.fetch: Callable[..., None] = lambda *experts: None
        """Told which experts are about to be used."""
        self.balance = torch.zeros(())
        """Loss of the newest forward pass: 1 if all experts get the same number of tokens, larger if not."""
        self._group: Any = None

    def divide(self, group: Any) -> None:
        """Keeps this rank's experts of those that the ranks of a group share."""
        rank, num_ranks = dist.get_rank(group), dist.get_world_size(group)
        if self.mixture.num_experts % num_ranks:
            raise ValueError(f"{self.mixture.num_experts} experts cannot be divided between {num_ranks} ranks")
        for number in [name for name in self.experts if int(name) * num_ranks // self.mixture.num_experts != rank]:
            del self.experts[number]
        self._group = group

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, time, width]."""
        tokens, per_token = x.flatten(0, 1), self.mixture.experts_per_token
        probabilities = self.router(tokens).softmax(1)
        weights, chosen = probabilities.topk(per_token)
        weights = weights / weights.sum(1, keepdim=True)
        counts = chosen.flatten().bincount(minlength=self.mixture.num_experts)
        self.balance = self._balance(probabilities, counts)
        places = chosen.flatten().argsort(stable=True)  # of (token, choice) pairs, expert by expert
        outputs = self._at_experts(tokens[places // per_token], counts) * weights.flatten()[places, None]
        return torch.zeros_like(tokens).index_add(0, places // per_token, outputs).view_as(x)

    def _balance(self, probabilities: Tensor, counts: Tensor) -> Tensor:
        """The auxiliary loss of Switch Transformers (Fedus et al., arXiv:2101.03961, equation 4).

        Tokens are counted over all ranks. The mean of the ranks' losses is then the loss of the whole batch.
        """
        if self._group is not None:
            counts = counts.clone()
            dist.all_reduce(counts, group=self._group)
        return len(counts) * (counts / counts.sum() * probabilities.mean(0)).sum()

    def _at_experts(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Outputs for tokens in the order of their experts; `counts`: tokens of each expert, of all ranks."""
        if self._group is None:
            return self._at_own(tokens, counts[None])
        sent = counts.view(dist.get_world_size(self._group), -1)
        received = torch.empty_like(sent)  # [rank, own expert]
        dist.all_to_all_single(received, sent, group=self._group)
        sizes = sent.sum(1).tolist(), received.sum(1).tolist()
        outputs = self._at_own(AllToAll.apply(tokens, *sizes, self._group), received)
        return AllToAll.apply(outputs, *reversed(sizes), self._group)

    def _at_own(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Outputs of this rank's experts for tokens in the order of the ranks they come from and then of experts.

        counts: [rank, own expert].
        """
        num_tokens = counts.sum(0).tolist()
        used = [expert for expert, count in zip(self.experts.values(), num_tokens, strict=True) if count]
        self.fetch(*used)
        expert_of = torch.arange(counts.shape[1], device=tokens.device).repeat(len(counts))
        places = expert_of.repeat_interleave(counts.flatten()).argsort(stable=True)
        pieces = tokens[places].split([count for count in num_tokens if count])
        # An expert without tokens is not called: it gets no gradient. The empty piece is for a rank without any tokens, which
        # takes part in the backward pass all the same: others wait for it there.
        outputs = torch.cat([tokens[:0], *(expert(piece) for expert, piece in zip(used, pieces, strict=True))])
        return outputs[places.argsort()]


class MoEGPT(GPT):
    """The GPT of `parallel_gpt_model.py` with a mixture of experts in every layer."""

    def __init__(self, shape: GPTShape, mixture: Mixture) -> None:
        super().__init__(shape)
        self.mixtures = [MixtureOfExperts(shape.width, mixture) for _ in self.layers]
        for layer, mixture_of_experts in zip(self.layers.values(), self.mixtures, strict=True):
            layer.mlp = mixture_of_experts

    def fetch_with(self, fetch: Callable[..., None]) -> None:
        """`fetch` is called with the experts of a layer that have tokens, before they run."""
        for mixture in self.mixtures:
            mixture.fetch = fetch


def whole_model(shape: GPTShape, mixture: Mixture) -> MoEGPT:
    """Names and shapes only."""
    with torch.device("meta"):
        return MoEGPT(shape, mixture)


def build_part(shape: GPTShape, mixture: Mixture, ranks: Ranks, device: str = "cpu", seed: int = 0) -> MoEGPT:
    """What this rank holds: everything, but of the experts its own. All layouts start with the same values."""
    if ranks.layout != Layout(dp=ranks.layout.num_ranks):
        raise ValueError(
            f"experts are divided over dp only, and the layout is {ranks.layout.spec}; use plain, dp2, ..."
        )
    part = whole_model(shape, mixture)
    if ranks.layout.num_ranks > 1:
        for layer in part.mixtures:
            layer.divide(ranks.mesh.get_group("dp"))
    part.to_empty(device=device)
    part.tie()
    for name, piece in part.pieces():
        initialise(piece, name, seed)
    return part


class TrainingStep:
    """Forward and backward of one batch. Every rank of the worker calls it together."""

    def __init__(self, model: MoEGPT, ranks: Ranks, balance: float = BALANCE) -> None:
        self._model, self._balance, self._num_ranks = model, balance, ranks.layout.num_ranks

    def __call__(self, windows: Tensor, weight: float = 1.0) -> float:
        """Adds the gradients of the worker's mean loss; returns its cross entropy, in nats.

        Args:
            windows: this rank's part of the batch, int64 [batch, time + 1].
            weight: of its mean loss, if the parts are unequal (`worker.batch_weight`): ranks are averaged.
        """
        loss = weight * loss_of(self._model(windows[:, :-1]), windows[:, 1:])
        balance = sum(mixture.balance for mixture in self._model.mixtures)
        (loss + weight * self._balance * balance).backward()
        total = loss.detach()
        if self._num_ranks > 1:
            dist.all_reduce(total)
        return float(total) / self._num_ranks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="steps of each worker")
    parser.add_argument("--batch-size", type=int, default=16, help="windows per step and worker")
    parser.add_argument("--context", type=int, default=64, help="bytes the model looks back")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--experts", type=int, default=8, help="of each layer; the ranks of a worker must divide it")
    parser.add_argument("--experts-per-token", type=int, default=2)
    parser.add_argument("--on-demand", action="store_true", help="pull the experts that have tokens, not all of them")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--text-bytes", type=int, default=2_000_000, help="how much text to read")
    parser.add_argument("--seed", type=int, default=0, help="of the initial parameters")
    parser.add_argument("--device", default=default_devices(), help="of a rank")
    arguments = parser.parse_args()

    shape = GPTShape(arguments.width, arguments.layers, arguments.heads, arguments.context, NUM_BYTES)
    mixture = Mixture(arguments.experts, arguments.experts_per_token)
    windows_of_text = Windows(load_text(arguments.text_bytes), shape.context)
    loader = DataLoader(windows_of_text, batch_size=arguments.batch_size, shuffle=True)

    with connect() as worker:
        model = build_part(shape, mixture, worker, arguments.device, arguments.seed)
        optimizer = worker.optimizer(
            model,
            torch.optim.AdamW,
            whole=whole_model(shape, mixture),
            lr=arguments.learning_rate,
            weight_decay=0.1,
            on_demand=[EXPERTS] if arguments.on_demand else [],
        )
        model.fetch_with(optimizer.fetch)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: learning_rate_factor(n, arguments.steps))
        step = TrainingStep(model, worker)
        num_steps = 0
        while num_steps < arguments.steps:
            for windows in worker.share(loader):
                loss = step(windows.to(arguments.device), worker.batch_weight)
                optimizer.step()  # pushes the experts that had tokens, and everything else
                optimizer.zero_grad()
                schedule.step()
                worker.log(loss=loss)
                num_steps += 1
                if num_steps == arguments.steps:
                    break
        optimizer.fetch(model)  # all experts, for whoever evaluates or saves the model here


if __name__ == "__main__":
    main()
