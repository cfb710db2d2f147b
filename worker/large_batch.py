"""LARS and LAMB for large batches, as torch optimizers: to be named to `worker.optimizer`, or used in one process.

Both scale the update of each parameter by a trust ratio, from norms of the whole parameter. Biases and norm layers are
usually left out, with parameter groups: `{"params": biases, "adapt": False, "weight_decay": 0.0}`.
"""

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class _Layerwise(torch.optim.Optimizer):
    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Updates every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._update(parameter, parameter.grad, self.state[parameter], group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise NotImplementedError


class LARS(_Layerwise):
    """You, Gitman, Ginsburg: "Large Batch Training of Convolutional Networks" (https://arxiv.org/abs/1708.03888).

    ratio = trust_coefficient * |w| / (|g| + weight_decay * |w| + eps), 1 if |w| or |g| is 0; then SGD with the gradient
    ratio * (g + weight_decay * w). As in torch's SGD the learning rate multiplies the momentum buffer, where the paper's
    goes into it: the same while the learning rate does not change.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 1e-4,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        nesterov: bool = False,
        adapt: bool = True,
    ) -> None:
        _check(lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient, eps=eps)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("nesterov needs a momentum and no dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "nesterov": nesterov,
            "adapt": adapt,
        }
        super().__init__(params, defaults)

    def _update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        decay, momentum = group["weight_decay"], group["momentum"]
        update = (gradient + decay * parameter) * self._ratio(parameter, gradient, group)
        if momentum:
            if "momentum_buffer" in state:
                state["momentum_buffer"].mul_(momentum).add_(update, alpha=1 - group["dampening"])
            else:
                state["momentum_buffer"] = update.clone()
            buffer = state["momentum_buffer"]
            update = update + momentum * buffer if group["nesterov"] else buffer
        parameter.sub_(group["lr"] * update)

    def _ratio(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> float:
        weight, slope = _norm(parameter), _norm(gradient)
        if not group["adapt"] or weight == 0 or slope == 0:
            return 1.0
        ratio: float = group["trust_coefficient"] * weight / (slope + group["weight_decay"] * weight + group["eps"])
        return ratio


class LAMB(_Layerwise):
    """You et al.: "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes" (https://arxiv.org/abs/1904.00962).

    Algorithm 2, with bias correction and the identity for phi: with r = Adam's direction and u = r + weight_decay * w,
    w -= lr * |w| / |u| * u; the ratio is 1 if either norm is 0.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        adapt: bool = True,
    ) -> None:
        _check(lr=lr, eps=eps, weight_decay=weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas} must be at least 0 and below 1")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": adapt})

    def _update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        state["step"] += 1
        slow, fast = group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.mul_(slow).add_(gradient, alpha=1 - slow)
        square.mul_(fast).addcmul_(gradient, gradient, value=1 - fast)
        corrected = mean / (1 - slow ** state["step"])
        spread = (square / (1 - fast ** state["step"])).sqrt_().add_(group["eps"])
        update = corrected / spread + group["weight_decay"] * parameter
        weight, length = _norm(parameter), _norm(update)
        adapted = group["adapt"] and weight > 0 and length > 0
        parameter.sub_(group["lr"] * (weight / length if adapted else 1.0) * update)


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _check(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name}={value} must not be negative")
