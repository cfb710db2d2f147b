"""Values that scripts change, and means of buffers, between workers of unlike layouts."""

from pathlib import Path

import torch
from clusters import local_cluster
from rank_groups import rank_groups
from value_bodies import LEARNING_RATE, NUM_HELD, change, model_with_buffer, whole

SPLITS = (("0.*", 0), ("2.weight", 1))


def test_a_worker_of_two_ranks_and_a_plain_one_push_values_and_average_buffers_together(tmp_path: Path) -> None:
    expected = model_with_buffer()
    with torch.no_grad():
        expected[2].bias.zero_()
    change(expected)
    pushed = whole(expected)
    expected(torch.ones(2, 8)).square().mean().backward()
    torch.optim.SGD(expected.parameters(), lr=LEARNING_RATE).step()
    settings = {"layouts": ("tp2",), "tensor_splits": SPLITS, "expected_workers": 2, "block_elements": 10_000}
    with local_cluster(**settings) as cluster, rank_groups(tmp_path) as start:
        servers = {"PUSHPULL_SERVERS": ",".join(cluster.addresses)}
        groups = [start(layout, "value_bodies:push_and_average", environment=servers) for layout in ("tp2", "plain")]
        results = [result for group in groups for result in group.results()]
    assert len(results) == 3
    for result, degree in zip(results, (2, 2, 1), strict=True):
        assert result["refused"]
        for name, value in pushed.items():
            assert torch.equal(result["pushed"][name], value), name
        held, count = result["averaged"]
        assert torch.equal(held, torch.full((NUM_HELD,), 1.5))
        assert count == degree
        for name, value in whole(expected).items():
            torch.testing.assert_close(result["stepped"][name], value, rtol=0, atol=1e-6)
            assert torch.equal(result["stepped"][name], results[0]["stepped"][name])
