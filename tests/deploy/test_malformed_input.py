"""What people mistype: each mistake is one sentence that names it, without a traceback, and nothing starts."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import run_command

from pushpull.deploy.command_values import readable
from pushpull.deploy.job import Job, load_job
from pushpull.protos.errors import PushpullError, SettingError
from pushpull.ps_server.job import job_message

SERVER = ("server", "--shard", "0", "--num-shards", "1")
FILES = {
    "not UTF-8": b"mode: \xff\xfe",
    "nested for ever": b"[" * 3000,
    "a list": b"- mode",
    "a key twice": b"mode: sync\nmode: async\n",
    "a key twice further down": b"push_overrides:\n  a.*: fp16\n  a.*: fp32\n",
    "a list for a key": b"? [a, b]\n: 3\n",
    "a number for a key": b"1: 2\n",
    "a null character": b"mode: sync\n\0",
    "no number": b"lease_seconds: .nan\n",
    "endless": b"lease_seconds: .inf\n",
    "a date": b"seed: 2026-01-01\n",
    "cut off": b"mode: 'sync\n",
}
ADDRESSES = ["x", "a", "a:", "a:-1", "a:65536", "a:x", ":7077", "[::1]:99999", "a:\u0661", "a:" + "9" * 5000]
NO_TIMES = ["nan", "inf", "-inf", "0", "-1", "1e400"]


def refusal(words: Sequence[str]) -> str:
    """What a command says that never gets to work."""
    run = run_command(words, catch_exceptions=True)
    if run.exit_code == 2:
        return run.output
    assert isinstance(run.exception, PushpullError), (words, run.exception, run.output)
    said = readable(str(run.exception))
    assert len(said) < 2500, said
    assert len(said.splitlines()) == 1, said
    return said


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@pytest.mark.parametrize("words", [(*SERVER, "--job"), ("plan",), ("plan", "--cluster")], ids=" ".join)
def test_a_file_that_cannot_be_meant_is_named(words: tuple[str, ...], content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "written.yaml"
    path.write_bytes(content)
    if words[-1] == "plan":
        (tmp_path / "cluster.yaml").write_text("", encoding="utf-8")
    assert "written.yaml" in refusal([*words, str(path)]).replace("\n", "")


@pytest.mark.parametrize("words", [(*SERVER, "--job"), ("plan",), ("plan", "--cluster")], ids=" ".join)
def test_a_folder_or_nothing_in_the_place_of_a_file_is_named(words: tuple[str, ...], tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.yaml"):
        assert f"{path} cannot be read" in refusal([*words, str(path)])


@pytest.mark.parametrize("address", ADDRESSES, ids=lambda text: text[:12])
@pytest.mark.parametrize(
    "words",
    [
        (*SERVER, "--listen"),
        (*SERVER, "--metrics-listen"),
        (*SERVER, "--advertise"),
        ("server", "--shard", "1", "--num-shards", "2", "--registrar"),
        ("server", "--shard", "0", "--servers"),
        ("worker", "script.py", "--servers"),
        ("worker", "--servers", "a:1", "--metrics-listen"),
        ("status", "--servers"),
        ("health",),
    ],
    ids=lambda words: " ".join(words[::-1][:1]),
)
def test_what_is_no_address_is_named(words: tuple[str, ...], address: str) -> None:
    words = ("worker", "--servers", address, "script.py") if words[:2] == ("worker", "script.py") else (*words, address)
    if words[:4] == ("worker", "--servers", "a:1", "--metrics-listen"):
        words = (*words, "script.py")
    assert "is not host:port" in refusal(words)


@pytest.mark.parametrize(
    "words",
    [
        ("server", "--shard", "0", "--servers", "a:1, a:1"),
        ("worker", "--servers", "a:1,b:2,a:1", "script.py"),
        ("status", "--servers", "a:1,a:1"),
    ],
    ids=lambda words: words[0],
)
def test_a_server_that_is_named_twice_is_a_mistake(words: tuple[str, ...]) -> None:
    assert "a:1 is named twice" in refusal(words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("server", "--shard", "5", "--num-shards", "2"), "--shard is 0 to 1, not 5"),
        ((*SERVER, "--advertise", "a:0"), "--advertise: a:0 has no port"),
        (("server", "--shard", "1", "--num-shards", "2", "--registrar", "a:0"), "--registrar: a:0 has no port"),
        (("server", "--shard", "1", "--servers", "a:0,b:1"), "--servers: a:0 has no port"),
        (("status", "--servers", ","), "--servers is empty"),
        (("launch", "--layout", "x" * 3000, __file__), "(3002 characters)"),
        (("bench", "links", "--links", "fast"), "'fast' is no link"),
        (("bench", "exchange", "--codecs", "int8"), "'int8' is no pair"),
        (("bench", "exchange", "--codecs", "int8/sparse"), "sparse"),
    ],
)
def test_other_mistakes_are_named(words: tuple[str, ...], sentence: str) -> None:
    assert sentence in refusal(words)


@pytest.mark.parametrize("seconds", NO_TIMES)
@pytest.mark.parametrize(
    "words",
    [
        ("launch", "--timeout-seconds", "{}", __file__),
        ("worker", "--servers", "a:1", "--patience-seconds", "{}", __file__),
        ("health", "a:1", "--timeout-seconds", "{}"),
    ],
    ids=lambda words: words[0],
)
def test_what_is_no_time_is_named(words: tuple[str, ...], seconds: str) -> None:
    said = refusal([word.format(seconds) for word in words])
    assert "-seconds" in said.replace("\n", "")


NUMBERS = [key for key, field in Job.model_fields.items() if field.annotation in (int, float, int | None)]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e400", "1e300", "x", "0x10", "true", str(2**64)])
@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_that_no_clock_and_no_message_can_hold_is_refused_with_its_key(key: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"--set {key}=.*`{key}`"):
        load_job(None, [f"{key}={value}"])


def test_the_largest_numbers_that_are_taken_can_be_told_to_everybody() -> None:
    job = load_job(None, ["mode=bounded", f"staleness_bound={2**32 - 1}", f"expected_workers={2**32 - 1}"])
    assert job_message(job.settings(), "1234", ["a:1"]).staleness_bound == 2**32 - 1
