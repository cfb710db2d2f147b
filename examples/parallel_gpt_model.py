"""A small GPT that can be divided between the ranks of a worker; `parallel_gpt_layouts.py` divides it.

What makes it divisible, and easy to forget:

* Queries, keys and values are three layers. One fused layer, cut by columns and then by `chunk(3)`, gives a rank all of the
  queries and half of the keys: silently wrong.
* Attention asks how many heads there are (`-1`) instead of knowing it: with tensor parallelism a rank sees only its own.
* Layers are in a dictionary. A pipeline stage deletes what it does not hold, and the rest keep the names that they have in
  the whole model; a list would number them anew.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TENSOR_SPLITS = {
    "*.q.*": 0,
    "*.k.*": 0,
    "*.v.*": 0,
    "*.o.weight": 1,
    "*.up.*": 0,
    "*.down.weight": 1,
    "wte.weight": 0,
    "wpe.weight": 0,
    "head.weight": 0,
}
"""Which dimension of which parameter tensor parallelism cuts. The job says the same (`parallel_gpt.yaml`): blocks are cut
there for workers of every layout."""


@dataclass(frozen=True)
class GPTShape:
    """Sizes of a model. Widths and heads must be divisible by the ranks that share a layer, the vocabulary need not."""

    width: int = 128
    num_layers: int = 4
    num_heads: int = 4
    context: int = 128
    vocabulary: int = 256
    tied: bool = False
    """The embedding is the head as well: one tensor with two names."""


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.head_width = width // num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, time, width]."""
        heads = [part.unflatten(2, (-1, self.head_width)).transpose(1, 2) for part in (self.q(x), self.k(x), self.v(x))]
        attended = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        return self.o(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two layers with four times the width between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, time, width]."""
        return self.down(nn.functional.gelu(self.up(x)))


class Layer(nn.Module):
    """Attention, then the feed-forward network, each added to what came in."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width, num_heads), FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, time, width]."""
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class GPT(nn.Module):
    """Predicts the next byte. A pipeline stage lacks the layers of other stages, and embeddings or head are None."""

    wte: nn.Embedding | None
    wpe: nn.Embedding | None
    norm: nn.LayerNorm | None
    head: nn.Linear | None

    def __init__(self, shape: GPTShape) -> None:
        super().__init__()
        self.shape = shape
        self.wte = nn.Embedding(shape.vocabulary, shape.width)
        self.wpe = nn.Embedding(shape.context, shape.width)
        self.layers = nn.ModuleDict({str(i): Layer(shape.width, shape.num_heads) for i in range(shape.num_layers)})
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.tie()

    def tie(self) -> None:
        """Makes head and embedding one tensor, if the shape says so and both are here."""
        if self.shape.tied and self.wte is not None and self.head is not None:
            self.head.weight = self.wte.weight

    def keep_stage(self, stage: int, num_stages: int) -> None:
        """Deletes what other stages of a pipeline hold."""
        mine = range(*(len(self.layers) * i // num_stages for i in (stage, stage + 1)))
        for number in [name for name in self.layers if int(name) not in mine]:
            del self.layers[number]
        if stage > 0:
            self.wte = self.wpe = None
        if stage < num_stages - 1:
            self.norm = self.head = None

    def pieces(self) -> Iterator[tuple[str, nn.Module]]:
        """Modules that are built one at a time, with their names, front to back."""
        for name, module in self.named_children():
            if module is self.layers:
                yield from ((f"layers.{number}", layer) for number, layer in self.layers.items())
            else:
                yield name, module

    def forward(self, x: Tensor) -> Tensor:
        """Whole model: text [batch, time] of int64 to logits [batch, time, vocabulary].

        Between pipeline stages: activations [batch, time, width].
        """
        if self.wte is not None and self.wpe is not None:
            x = self.wte(x) + self.wpe(torch.arange(x.shape[1], device=x.device))
        for layer in self.layers.values():
            x = layer(x)
        if self.norm is not None and self.head is not None:
            x = self.head(self.norm(x))
        return x


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of each next byte, in nats. logits: [batch, time, vocabulary]; targets: [batch, time]."""
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


@torch.no_grad()
def initialise(module: nn.Module, name: str, seed: int) -> None:
    """Fills a piece of the model with its initial values.

    Every parameter has random numbers of its own, drawn from the seed and its name, so that each rank can build the layers
    that it holds, and no others, and all agree.
    """
    for parameter_name, parameter in module.named_parameters(prefix=name):
        generator = torch.Generator().manual_seed(seed + zlib.crc32(parameter_name.encode()))
        if parameter.ndim == 2:
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        else:
            parameter.fill_(0.0 if parameter_name.endswith("bias") else 1.0)
