"""Classifies scikit-learn's handwritten digits (1797 images, no download) with a small network.

Run it on a whole local cluster:

    pushpull launch --servers 2 --workers 2 examples/digits.py

Compared with the same script for one process, only the lines marked `(pushpull)` differ.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pushpull.worker import connect  # (pushpull)

NUM_TEST_IMAGES = 450


def load_data() -> tuple[TensorDataset, torch.Tensor, torch.Tensor]:
    """Training images with labels, test images, test labels; the split is the same on every worker."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16.0  # [1797, 64], grey values 0..1
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, train = order[:NUM_TEST_IMAGES], order[NUM_TEST_IMAGES:]
    return TensorDataset(images[train], labels[train]), images[test], labels[test]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="steps of each worker at most")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step and worker")
    parser.add_argument("--learning-rate", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0, help="of the initial parameters")
    parser.add_argument("--slow-worker", type=int, default=-1, help="id of a worker that is made slow")
    parser.add_argument("--slow-seconds", type=float, default=0.0, help="how much slower it is per step")
    parser.add_argument("--history", type=Path, help="file for the training losses of worker 0, a JSON list")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    training_set, test_images, test_labels = load_data()
    loader = DataLoader(training_set, batch_size=options.batch_size, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    with connect() as worker:  # (pushpull) finds the servers that the launcher started
        optimizer = worker.optimizer(  # (pushpull) was: torch.optim.SGD(model.parameters(), ...)
            model, torch.optim.SGD, lr=options.learning_rate
        )
        losses: list[float] = []
        step = 0
        while step < options.steps:
            for images, labels in worker.share(loader):  # (pushpull) each worker gets its share of the images
                loss = nn.functional.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()  # pushes the gradient, pulls the new parameters
                optimizer.zero_grad()
                losses.append(loss.item())
                worker.log(loss=losses[-1])  # (pushpull) shows up in progress and summary
                if worker.id == options.slow_worker:
                    time.sleep(options.slow_seconds)
                step += 1
                if step == options.steps:
                    break

        with worker.pause():  # (pushpull) nobody waits for this worker while it evaluates
            with torch.no_grad():
                logits = model(test_images)
                accuracy = (logits.argmax(dim=1) == test_labels).float().mean().item()
                test_loss = nn.functional.cross_entropy(logits, test_labels).item()
            worker.log(accuracy=accuracy, test_loss=test_loss)
        if options.history is not None and worker.id == 0:
            options.history.write_text(json.dumps(losses))
    print(f"accuracy on {NUM_TEST_IMAGES} held-out images: {accuracy:.3f}")


if __name__ == "__main__":
    main()
