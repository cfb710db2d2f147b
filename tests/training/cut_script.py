"""What a worker does while links are cut: tiny steps until a file says that it is enough; it writes down when each ended.

Every gradient is 1 and the learning rate 1, so each applied step, or round, moves every value by exactly 1.
"""

import json
import sys
import time
from pathlib import Path

import torch

from pushpull.worker import connect

STEP_SECONDS = 0.05


def main(folder: Path, number: int, side: int) -> None:
    model = torch.nn.ParameterList([torch.zeros(side, side), torch.zeros(side, side)])
    ends: list[float] = []
    with connect() as worker:
        optimizer = worker.optimizer(model, torch.optim.SGD, lr=1.0)

        def step() -> None:
            for parameter in model:
                parameter.grad = torch.ones_like(parameter)
            optimizer.step(num_samples=1)

        while not (folder / "enough").exists():
            step()
            ends.append(time.time())
            (folder / f"steps_{number}").write_text(str(len(ends)))
            time.sleep(STEP_SECONDS)
        if number == 0:  # the others have left: what it pulls now is everything
            with worker.pause():
                while not (folder / "alone").exists():
                    time.sleep(STEP_SECONDS)
            step()
        report = worker._recorder.report()
        said = {
            "ends": ends,
            "applied": report.steps_applied,
            "dropped": report.steps_dropped,
            "values": [sorted({float(v) for v in parameter.flatten()}) for parameter in model],
        }
        (folder / f"said_{number}").write_text(json.dumps(said))
        if number == 0:
            while not (folder / "seen").exists():
                time.sleep(STEP_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
