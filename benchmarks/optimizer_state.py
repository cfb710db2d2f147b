"""What moments in 8 bits cost: held-out loss beside FP32's, memory, rate of updates; and codes that were not taken.

Trains the model of examples/char_gpt.py in this process with the servers' AdamW; prints one row for each way to keep moments.

    python -m pushpull.benchmarks.optimizer_state [--steps 1000] [--seeds 3]
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from ..compression import moment_kernels
from ..ps_server.optimizers import BlockOptimizer, GroupValues
from ..ps_server.optimizers.slots import EightBitSlots, FloatSlots, Slots, Views
from ..ps_server.optimizers.torch_optimizers import AdamW
from .arguments import positive

_EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "char_gpt.py"
_TRAINING_BYTES, _HELD_OUT_BYTES, _CONTEXT, _BATCH = 400_000, 40_000, 64, 16
_VALUES = GroupValues(
    {"lr": 1e-3, "betas.0": 0.9, "betas.1": 0.999, "eps": 1e-8, "weight_decay": 0.1},
    {"decoupled_weight_decay": True},
)
_RATE_ELEMENTS, _RATE_REPEATS = 1 << 20, 20


class _Rounded(FloatSlots):
    """FP32 slots that are rounded after every update: codes to compare with."""

    @contextmanager
    def opened(self, names: Sequence[str], blocks: Sequence[int]) -> Iterator[Views]:
        with super().opened(names, blocks) as views:
            yield views
        for name, tensors in views.items():
            for tensor in tensors:
                self._round(name, tensor)

    def _round(self, name: str, tensor: Tensor) -> None:
        raise NotImplementedError


class _Nearest(_Rounded):
    """The floats of the 8-bit codes, without their limits of range, rounded to the nearest."""

    def _round(self, name: str, tensor: Tensor) -> None:
        bits = tensor.view(torch.int32)
        shift = int(moment_kernels.SHIFT)
        bits.copy_(((bits + (1 << (shift - 1))) >> shift) << shift)


class _Even(_Rounded):
    """255 (second moment) or 254 evenly spaced codes below the largest magnitude of each group."""

    def _round(self, name: str, tensor: Tensor) -> None:
        self._round_evenly(tensor, 255 if name == "exp_avg_sq" else 127)

    def _round_evenly(self, tensor: Tensor, num_codes: int) -> None:
        for part in torch.split(tensor, moment_kernels.GROUP):
            step = part.abs().max() / num_codes
            if step > 0:
                part.copy_((part / step).round() * step)


class _EvenRoot(_Even):
    """Evenly spaced codes of the second moment's root."""

    def _round(self, name: str, tensor: Tensor) -> None:
        if name != "exp_avg_sq":
            super()._round(name, tensor)
            return
        root = tensor.sqrt()
        self._round_evenly(root, 255)
        tensor.copy_(root.square())


WAYS: dict[str, type[Slots]] = {
    "fp32": FloatSlots,
    "int8": EightBitSlots,
    "same floats, nearest": _Nearest,
    "even codes": _Even,
    "even codes of the root": _EvenRoot,
}


def train(slots: type[Slots], seed: int, num_steps: int) -> float:
    """Held-out loss at the end; infinity where training failed."""
    example = _example()
    torch.manual_seed(seed)
    model = example.GPT(64, 2, 4, _CONTEXT)
    parameters = list(model.parameters())
    ends = [0]
    for parameter in parameters:
        ends.append(ends[-1] + parameter.numel())
    optimizer = _optimizer(slots, list(pairwise(ends)))
    text = example.load_text(_TRAINING_BYTES + _HELD_OUT_BYTES).long()
    views = [parameter.detach().view(-1) for parameter in parameters]
    for _ in range(num_steps):
        loss = example.loss_of(model, _windows(text[:_TRAINING_BYTES], _BATCH))
        gradients = torch.autograd.grad(loss, parameters)
        optimizer.update(range(len(parameters)), views, [each.reshape(-1) for each in gradients], _VALUES)
    torch.manual_seed(0)
    with torch.no_grad():
        loss = float(example.loss_of(model, _windows(text[_TRAINING_BYTES:], 256)))
    return loss if loss == loss else float("inf")


def update_rate(slots: type[Slots]) -> float:
    """Elements per second of processor time, of AdamW on one thread."""
    torch.set_num_threads(1)
    optimizer = _optimizer(slots, [(0, _RATE_ELEMENTS)])
    parameter, gradient = torch.randn(_RATE_ELEMENTS), torch.randn(_RATE_ELEMENTS)
    seconds = []
    for _ in range(_RATE_REPEATS):
        start = time.thread_time()
        optimizer.update([0], [parameter], [gradient], _VALUES)
        seconds.append(time.thread_time() - start)
    return _RATE_ELEMENTS / statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, default=1000)
    parser.add_argument("--seeds", type=positive, default=3)
    options = parser.parse_args()
    rates = {name: update_rate(slots) for name, slots in WAYS.items() if name in ("fp32", "int8")}
    print(f"{'moments':24} {'held-out loss, by seed':32} {'bytes':>6} {'elements/s':>11}")
    for name, slots in WAYS.items():
        losses = [train(slots, seed, options.steps) for seed in range(options.seeds)]
        shown = " ".join(f"{loss:.4f}" for loss in losses)
        size = f"{_optimizer(slots, [(0, 1)]).bytes_per_element:.2f}" if name in rates else ""
        rate = f"{rates[name] / 1e9:.2f} G" if name in rates else ""
        print(f"{name:24} {shown:32} {size:>6} {rate:>11}", flush=True)


def _optimizer(slots: type[Slots], ranges: Sequence[tuple[int, int]]) -> BlockOptimizer:
    return AdamW(len(ranges), slots(ranges, ranges[-1][1]), [_VALUES])


def _windows(text: Tensor, count: int) -> Tensor:
    starts = torch.randint(len(text) - _CONTEXT - 1, (count,))
    return torch.stack([text[start : start + _CONTEXT + 1] for start in starts.tolist()])


def _example() -> ModuleType:
    specification = importlib.util.spec_from_file_location("char_gpt", _EXAMPLE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
