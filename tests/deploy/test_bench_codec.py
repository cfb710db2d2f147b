"""`pushpull bench codec` says what codecs cost."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pushpull.benchmarks.codec import main
from pushpull.benchmarks.codec_data import gaussian
from pushpull.benchmarks.codec_errors import cost_of
from pushpull.benchmarks.codec_plot import place_labels
from pushpull.benchmarks.codec_rates import OPERATIONS
from pushpull.compression.codec import Codec
from pushpull.compression.spec import parse_codec
from pushpull.protos.errors import SettingError

NUM_ELEMENTS = 4096
SPECS = ["fp32", "topk:0.01+int8"]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pushpull.deploy.cli", "bench", "codec", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def frame_bytes(codec: Codec, values: np.ndarray) -> int:
    return codec.encode(values, np.empty(codec.frame_bound(values.size), np.uint8))


@pytest.fixture(scope="module")
def plot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plots") / "error.svg"


@pytest.fixture(scope="module")
def result(plot: Path) -> dict[str, Any]:
    size = ("--elements", str(NUM_ELEMENTS), "--repetitions", "1")
    run = bench("--codecs", ",".join(SPECS), *size, "--json", "--plot", str(plot))
    assert run.returncode == 0, run.stderr
    rows: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return rows


def test_every_codec_asked_for_has_a_row_and_no_other(result: dict[str, Any]) -> None:
    assert [row["codec"] for row in result["codecs"]] == SPECS
    assert (result["elements"], result["repetitions"]) == (NUM_ELEMENTS, 1)


def test_bits_count_the_whole_frame(result: dict[str, Any]) -> None:
    (values,) = gaussian(1, NUM_ELEMENTS)
    for row in result["codecs"]:
        num_bytes = frame_bytes(parse_codec(row["codec"]), values)
        assert row["bits_per_element"] == row["bits_per_element_gaussian"] == 8 * num_bytes / NUM_ELEMENTS


def test_bits_per_kept_element_are_those_of_sparse_codecs_only(result: dict[str, Any]) -> None:
    dense, sparse = result["codecs"]
    assert dense["bits_per_kept_element"] is None
    num_kept = NUM_ELEMENTS * sparse["bits_per_element"] / sparse["bits_per_kept_element"]
    assert num_kept == pytest.approx(round(num_kept))
    assert 0.005 < num_kept / NUM_ELEMENTS < 0.02


def test_every_operation_has_a_rate_and_a_share_of_the_copy(result: dict[str, Any]) -> None:
    assert result["copy_bytes_per_second"] > 0
    for row in result["codecs"]:
        for operation in OPERATIONS:
            assert row[f"{operation}_elements_per_second"] > 0
            assert row[f"{operation}_share_of_copy"] > 0


def test_a_codec_that_loses_nothing_is_measured_without_error_feedback(result: dict[str, Any]) -> None:
    exact, sparse = result["codecs"]
    assert (exact["error_feedback"], sparse["error_feedback"]) == (False, True)
    assert exact["encode_elements_per_second"] == exact["encode_plain_elements_per_second"]


@pytest.mark.parametrize("data", ["gaussian", "heavy_tailed", "real"])
def test_the_error_is_nothing_for_exact_codecs_and_below_one_for_top_k(result: dict[str, Any], data: str) -> None:
    exact, sparse = result["codecs"]
    assert exact[f"error_{data}"] == 0.0
    assert 0.0 < sparse[f"error_{data}"] < 1.0


def test_top_k_loses_less_where_few_elements_hold_most_of_the_energy(result: dict[str, Any]) -> None:
    sparse = result["codecs"][1]
    assert sparse["error_heavy_tailed"] < sparse["error_gaussian"]


def test_the_plot_names_every_codec_and_its_axes(result: dict[str, Any], plot: Path) -> None:
    drawn = plot.read_text(encoding="utf-8")
    assert drawn.lstrip().startswith("<?xml")
    for text in ("bits per element", "relative error", *SPECS):
        assert f">{text}" in drawn


def test_a_codec_that_does_not_exist_is_one_sentence_that_says_what_to_write() -> None:
    run = bench("--codecs", "fp32,topkk:0.01+fp16")
    assert (run.returncode, run.stdout) == (1, "")
    assert "did you mean 'topk'?" in run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("error.gif", "must end in one of .svg, .png, .pdf"),
        ("error", "must end in one of .svg, .png, .pdf"),
        ("nowhere/error.svg", "there is no folder nowhere"),
    ],
)
def test_a_plot_that_cannot_be_written_is_refused_before_anything_is_measured(path: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        main(["--plot", path])


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingError, match=r"pip install 'pushpull\[bench\]'"):
        main(["--plot", "error.svg"])


@pytest.mark.parametrize("option", ["--elements", "--repetitions"])
def test_nothing_is_not_measured(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([option, "0"])
    assert f"argument {option}: invalid positive number value: '0'" in capsys.readouterr().err


def test_the_error_of_several_blocks_is_that_of_all_their_elements() -> None:
    """Of top-1 of two blocks: 4 and 3 are sent of energies 16 + 1 and 9 + 4."""
    blocks = [np.array([4, 1], np.float32), np.array([2, 3], np.float32)]
    cost = cost_of(parse_codec("topk:0.5+fp32"), blocks)
    assert cost.share_kept == 0.5
    assert cost.relative_error == pytest.approx((5 / 30) ** 0.5)


def test_labels_of_codecs_that_cost_the_same_do_not_lie_on_each_other() -> None:
    """Offsets are of the left edge; these labels are more than 20 points wide and about 9 high."""
    offsets = place_labels(["int8:stochastic"] * 8, [(100.0, 100.0)] * 8)
    for number, (across, up) in enumerate(offsets):
        for other_across, other_up in offsets[:number]:
            assert abs(across - other_across) > 20 or abs(up - other_up) > 8
