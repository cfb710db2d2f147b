"""Logistic regression with compressed single-sample SGD: the experiment of Stich, Cordonnier and Jaggi.

"Sparsified SGD with Memory", NeurIPS 2018, with its step sizes and its average, on a synthetic set instead of
theirs. One worker, steps of one sample: what a codec leaves out, and whether it is sent later, is all that differs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .convergence_channel import Channel

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class LogisticProblem:
    """Mean of log(1 + exp(-margin)) plus the regularisation; margins are label * <features, parameters>."""

    signed_features: Doubles
    """[samples, features], each row times its label, which is -1 or 1."""
    regularisation: float

    @property
    def num_samples(self) -> int:
        return len(self.signed_features)

    @property
    def num_features(self) -> int:
        return int(self.signed_features.shape[1])

    def loss(self, parameters: Doubles) -> float:
        losses = np.logaddexp(0.0, -(self.signed_features @ parameters))
        return float(losses.mean() + 0.5 * self.regularisation * (parameters @ parameters))

    def gradient(self, sample: int, parameters: Doubles) -> Doubles:
        """Of the loss of one sample, [features]."""
        features = self.signed_features[sample]
        gradient: Doubles = self.regularisation * parameters - features / (1.0 + np.exp(features @ parameters))
        return gradient

    def smallest_loss(self) -> float:
        """By Newton's method."""
        parameters = np.zeros(self.num_features)
        for _ in range(_NEWTON_STEPS):
            share = 1.0 / (1.0 + np.exp(self.signed_features @ parameters))
            gradient = self.regularisation * parameters - share @ self.signed_features / self.num_samples
            curved = self.signed_features * (share * (1.0 - share) / self.num_samples)[:, None]
            hessian = curved.T @ self.signed_features + self.regularisation * np.eye(self.num_features)
            parameters -= np.linalg.solve(hessian, gradient)
        return self.loss(parameters)


_NEWTON_STEPS = 10


def synthetic_problem(num_samples: int = 20_000, num_features: int = 200, seed: int = 0) -> LogisticProblem:
    """Gaussian features, labels drawn from a logistic model, regularisation 1 / samples."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((num_samples, num_features)) / np.sqrt(num_features)
    truth = _SIGNAL * random.standard_normal(num_features)
    positive = random.random(num_samples) < 1.0 / (1.0 + np.exp(-(features @ truth)))
    return LogisticProblem(features * np.where(positive, 1.0, -1.0)[:, None], 1.0 / num_samples)


_SIGNAL = 2.5
"""Standard deviation of the logits: the labels are noisy, and the smallest loss is near 0.45."""


@dataclass(frozen=True)
class Descent:
    """How a run went."""

    losses: tuple[float, ...]
    """Of the averaged parameters, after each epoch."""
    bytes_per_step: float


def descend(problem: LogisticProblem, spec: str, num_epochs: int = 3, seed: int = 1) -> Descent:
    """SGD whose steps travel through the encoder `spec`.

    The steps are 2 / (regularisation * (t + shift)) with the number of features as the shift, the result is the
    average with weights (t + shift)^2. The memory holds steps, not gradients, as in the paper.
    """
    random = np.random.default_rng(seed)
    shift = problem.num_features
    parameters = 0.01 * random.standard_normal(problem.num_features)
    average = parameters.copy()
    sum_of_weights = 0.0
    channel = Channel(spec, problem.num_features)
    losses = []
    step = 0
    for _ in range(num_epochs):
        for sample in random.permutation(problem.num_samples):
            rate = 2.0 / (problem.regularisation * (step + shift))
            change = (rate * problem.gradient(sample, parameters)).astype(np.float32)
            parameters -= channel.send(change, step)
            sum_of_weights += float(step + shift) ** 2
            average += (float(step + shift) ** 2 / sum_of_weights) * (parameters - average)
            step += 1
        losses.append(problem.loss(average))
    return Descent(tuple(losses), channel.num_bytes / step)
