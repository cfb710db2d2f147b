"""The digits example reaches its accuracy in every mode with every push codec, as processes on this machine.

Every mode and every codec is in the normal suite once or twice; `make test-accuracy` runs all twelve pairs.
"""

import pytest
from clusters import ROOT, launch

MODES = ("sync", "bounded:4", "async")
CODECS = ("fp32", "fp16", "int8", "topk:0.01+fp16")
ALWAYS = {("sync", "fp32"), ("bounded:4", "int8"), ("async", "fp16"), ("async", "topk:0.01+fp16")}

PAIRS = [
    pytest.param(mode, codec, marks=[] if (mode, codec) in ALWAYS else pytest.mark.slow)
    for mode in MODES
    for codec in CODECS
]


@pytest.mark.parametrize(("mode", "codec"), PAIRS)
def test_held_out_accuracy(mode: str, codec: str) -> None:
    summary = launch(ROOT / "examples" / "digits.py", settings=(f"mode={mode}", f"push_codec={codec}"))
    assert summary["success"]
    assert all(worker["steps"] <= 600 for worker in summary["workers"])
    assert summary["metrics"]["accuracy"] >= 0.96
    assert summary["failures"] == 0
