"""Unlike workers under `pushpull launch`: one splits the model over two processes, one does not."""

from pathlib import Path

from clusters import launch

SCRIPT = """
import torch
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from pushpull.worker import connect

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
inputs = torch.randn(64, 8)
data = torch.utils.data.TensorDataset(inputs, inputs[:, :4].clone())
with connect() as worker:
    if worker.num_ranks > 1:
        parallelize_module(model, worker.mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
    for _ in range(4):
        for x, y in worker.share(torch.utils.data.DataLoader(data, batch_size=8)):
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            worker.log(loss=loss.item())
"""


def test_unlike_workers_train_together_and_each_rank_sends_its_share(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    options = ("--layout", "tp2", "--layout", "plain")
    summary = launch(script, options=options, settings=["tensor_splits.0.*=0", "tensor_splits.2.weight=1"])
    split, plain = summary["workers"]
    assert (split["layout"], plain["layout"]) == ("tp2", "plain")
    assert split["steps_applied"] == plain["steps_applied"] == 16
    assert (summary["failures"], summary["split_steps"]) == (0, 0)
    assert summary["loss"]["last"] < summary["loss"]["first"]
    (whole,) = plain["ranks"]
    assert len(split["ranks"]) == 2
    for rank in split["ranks"]:
        # Half of the elements, and what a message costs besides them.
        assert 0 < rank["bytes_pushed"] < 0.75 * whole["bytes_pushed"]
        assert 0 < rank["bytes_pulled"] < 0.75 * whole["bytes_pulled"]
        assert rank["peak_memory_bytes"] > 0
