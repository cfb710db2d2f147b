"""Tensors that are no real numbers of at most 32 bits (integers, truth values, complex, float64), as words of 32 bits.

Only buffers are: a worker hands them on to those that join, and nobody computes with them on the way.
"""

import numpy as np
import torch
from numpy.typing import NDArray

WORD_BYTES = 4
Floats = NDArray[np.float32]


def travels_as_words(tensor: torch.Tensor) -> bool:
    """Else it travels as float32, which holds its values exactly."""
    return not tensor.is_floating_point() or tensor.element_size() > WORD_BYTES


def carried_shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """The shape that a plan gives the tensor: its own, or [words]."""
    if not travels_as_words(tensor):
        return tuple(tensor.shape)
    return (-(-tensor.numel() * tensor.element_size() // WORD_BYTES),)


def carried_kind(tensor: torch.Tensor) -> str:
    """What the words stand for, as a plan says it; empty for a tensor that travels as float32."""
    return kind_of(tensor) if travels_as_words(tensor) else ""


def kind_of(tensor: torch.Tensor) -> str:
    """Type and shape, for people, too."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def words_of(tensor: torch.Tensor) -> Floats:
    """A copy of the tensor's bytes, float32 [words]; the last word may be filled up with zeros."""
    plain = tensor.detach().to("cpu").resolve_conj().resolve_neg()  # which torch may have put off
    held = plain.contiguous().reshape(-1).view(torch.uint8).numpy()
    padded = np.zeros(-(-held.size // WORD_BYTES) * WORD_BYTES, np.uint8)
    padded[: held.size] = held
    words: Floats = padded.view(np.float32)
    return words


@torch.no_grad()
def put_words(tensor: torch.Tensor, words: Floats) -> None:
    """Writes what `words_of` gave."""
    held = torch.from_numpy(words.view(np.uint8)[: tensor.numel() * tensor.element_size()].copy())
    tensor.copy_(held.view(tensor.dtype).view(tensor.shape))
