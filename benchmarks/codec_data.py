"""What codecs are measured on: blocks of float32, the same ones in every run."""

import sysconfig
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float32]

TAIL_DEGREES_OF_FREEDOM = 2
"""Of Student's t: its variance is infinite, so a few elements hold most of the energy."""

_WIDTH, _CONTEXT, _BATCH, _STEPS = 128, 64, 16, 20


def gaussian(num_blocks: int, num_elements: int) -> list[Floats]:
    """Blocks of independent standard normal numbers, each float32 [num_elements]."""
    generator = np.random.default_rng(1)
    return [generator.standard_normal(num_elements, np.float32) for _ in range(num_blocks)]


def heavy_tailed(num_elements: int) -> list[Floats]:
    """One block, float32 [num_elements], of Student's t with two degrees of freedom."""
    generator = np.random.default_rng(2)
    return [generator.standard_t(TAIL_DEGREES_OF_FREEDOM, num_elements).astype(np.float32)]


def real_gradients() -> list[Floats]:
    """Gradients of a small language model after a few steps of training, unscaled: a block, float32 [n], per matrix.

    One-dimensional tensors are left out, as they travel in a dense format anyway. The text is the source of
    Python's standard library, so that another release of Python gives slightly different numbers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = _Predictor()
        _train(model, _text(_STEPS * _BATCH * _CONTEXT + 1))
    gradients = [parameter.grad for parameter in model.parameters() if parameter.ndim > 1]
    return [gradient.numpy().reshape(-1) for gradient in gradients if gradient is not None]


class _Predictor(nn.Module):
    """A causal transformer of two layers that predicts the next byte."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, _WIDTH)
        self.positions = nn.Parameter(torch.zeros(_CONTEXT, _WIDTH))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(_WIDTH, 4, 4 * _WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(_WIDTH)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        """text: int64 [batch, time]; returns float32 [batch, time, 256], logits of the next byte."""
        x = self.embedding(text) + self.positions
        mask = nn.Transformer.generate_square_subsequent_mask(_CONTEXT)
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return nn.functional.linear(self.norm(x), self.embedding.weight)


def _train(model: nn.Module, text: Tensor) -> None:
    """One pass over the text. The gradients of the last step stay in the parameters."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    batches, targets = (part.view(_STEPS, _BATCH, _CONTEXT) for part in (text[:-1], text[1:]))
    for batch, target in zip(batches, targets, strict=True):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(batch).flatten(0, 1), target.flatten()))
        optimizer.step()


def _text(num_bytes: int) -> Tensor:
    """The first bytes of the standard library's sources, sorted by file name: int64 [num_bytes]."""
    text = bytearray()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_bytes()
        if len(text) >= num_bytes:
            break
    return torch.frombuffer(text[:num_bytes], dtype=torch.uint8).long()
