"""The job file and `--set`: what is accepted, who wins, and what a refusal says."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pushpull.deploy.job import Job, load_job
from pushpull.protos.errors import CodecError, SettingError, UnknownKeyError
from pushpull.ps_server.config import JobSettings


def job_file(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_setting_of_the_servers_can_be_given_and_has_the_same_default() -> None:
    assert set(Job.model_fields) == {field.name for field in fields(JobSettings)}
    assert Job().settings() == JobSettings(mode="sync")


def test_every_setting_says_what_it_does() -> None:
    assert all(field.description for field in Job.model_fields.values())


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        ([], {"mode": "sync", "push_codec": "fp32", "pull_codec": "fp32", "lease_seconds": 10.0}),
        (["mode=async"], {"mode": "async"}),
        (["mode=bounded:3"], {"mode": "bounded", "staleness_bound": 3}),
        (["mode=bounded", "staleness_bound=7"], {"mode": "bounded", "staleness_bound": 7}),
        (["mode=bounded:7", "staleness_bound=7"], {"staleness_bound": 7}),
        (["quorum=2"], {"quorum": 2}),
        (["quorum=null"], {"quorum": None}),
        (["damping=none", "mode=async"], {"damping": "none"}),
        (["lease_seconds=2.5"], {"lease_seconds": 2.5}),
        (["push_codec=int8", "pull_codec=bf16"], {"push_codec": "int8", "pull_codec": "bf16"}),
        (["seed=1", "seed=2"], {"seed": 2}),
    ],
)
def test_assignments_are_typed_by_the_model(assignments: list[str], expected: dict[str, Any]) -> None:
    job = load_job(None, assignments)
    assert {key: getattr(job, key) for key in expected} == expected


def test_assignments_win_over_the_file_and_the_file_over_the_launcher(tmp_path: Path) -> None:
    path = job_file(tmp_path, "mode: async\nseed: 5\nexpected_workers: 3\n")
    job = load_job(path, ["seed=6"], {"expected_workers": 2, "server_patience_seconds": 20.0})
    assert (job.mode, job.seed, job.expected_workers, job.server_patience_seconds) == ("async", 6, 3, 20.0)


def test_a_bound_on_the_command_line_wins_over_one_in_the_file(tmp_path: Path) -> None:
    path = job_file(tmp_path, "mode: bounded\nstaleness_bound: 9\n")
    assert load_job(path, ["mode=bounded:2"]).staleness_bound == 2


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n"])
def test_an_empty_file_is_the_defaults(tmp_path: Path, text: str) -> None:
    assert load_job(job_file(tmp_path, text), []) == Job()


@pytest.mark.parametrize(
    ("key", "nearest"), [("push_codek", "push_codec"), ("lease", "lease_seconds"), ("modes", "mode")]
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path, key: str, nearest: str) -> None:
    with pytest.raises(UnknownKeyError, match=f"no setting `{key}`; the nearest is `{nearest}`") as refusal:
        load_job(None, [f"{key}=1"])
    assert f"--set {key}=1" in str(refusal.value)
    path = job_file(tmp_path, f"{key}: 1\n")
    with pytest.raises(UnknownKeyError, match=f"the nearest is `{nearest}`") as refusal:
        load_job(path, [])
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        (["mode=synchronous"], "`mode` is 'synchronous'; it should be 'sync', 'bounded' or 'async'"),
        (["mode=async:4"], "only `bounded` takes a number"),
        (["mode=bounded:four"], "`staleness_bound` is 'four'"),
        (["mode=bounded:2", "staleness_bound=3"], "the bound 2 contradicts staleness_bound=3"),
        (["staleness_bound=-1"], "greater than or equal to 0"),
        (["lease_seconds=soon"], "`lease_seconds` is 'soon'; it should be a valid number"),
        (["lease_seconds=0"], "greater than 0"),
        (["quorum=0"], "`quorum` is '0'"),
        (["quorum=1", "mode=async"], "`quorum` closes rounds and needs mode=sync; the mode is async"),
        (["average_buffers=true", "mode=async"], "`average_buffers` takes the mean in a round and needs mode=sync"),
        (["quorum=3", "expected_workers=2"], "only 2 workers are expected"),
        (["progress_timeout_seconds=1"], "shorter than `lease_seconds`"),
        (["mode"], "--set key=value"),
        (["=1"], "--set key=value"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_with_a_sentence(assignments: list[str], sentence: str) -> None:
    with pytest.raises(SettingError) as refusal:
        load_job(None, assignments)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("key", ["push_codec", "pull_codec"])
def test_an_unknown_codec_names_the_setting_and_where_it_was_written(key: str) -> None:
    with pytest.raises(CodecError, match=f"--set {key}=int7: `{key}`"):
        load_job(None, [f"{key}=int7"])


OVERRIDES = """
push_codec: topk:0.01+int8
push_overrides:
  "*.bias": fp32
  "embed*": int8
"""


def test_overrides_keep_the_order_of_the_file(tmp_path: Path) -> None:
    job = load_job(job_file(tmp_path, OVERRIDES), [])
    assert job.push_overrides == (("*.bias", "fp32"), ("embed*", "int8"))
    assert job.settings().push_overrides == job.push_overrides


def test_assigned_overrides_come_before_those_of_the_file(tmp_path: Path) -> None:
    job = load_job(
        job_file(tmp_path, OVERRIDES), ["push_overrides.embed*=bf16", "push_overrides.lm_head.weight=ef+int8"]
    )
    assert job.push_overrides == (("embed*", "bf16"), ("lm_head.weight", "ef+int8"), ("*.bias", "fp32"))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("int8", "`push_overrides` is 'int8'; write a line `pattern: codec`"),
        ("[int8]", "--set push_overrides.PATTERN=codec"),
        ('{"*.bias": 3}', "`push_overrides.*.bias` is 3; it should be a codec"),
        ('{"*.bias": }', "`push_overrides.*.bias` is None; it should be a codec"),
        ('{"*.bias": int7}', "`push_overrides.*.bias`: codec 'int7'"),
        ('{"": int8}', "lacks a pattern"),
        ('{"*": "dgc:0.9+fp32"}', "`push_overrides.*`: encoder 'dgc:0.9+fp32'"),
    ],
)
def test_overrides_that_cannot_work_name_the_file_and_the_pattern(tmp_path: Path, value: str, sentence: str) -> None:
    path = job_file(tmp_path, f"push_overrides: {value}\n")
    with pytest.raises(SettingError) as refusal:
        load_job(path, [])
    assert str(refusal.value).startswith(str(path))
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("value", ["5", "[int8]", "true", "", "{a: b}"])
def test_an_override_on_a_line_of_its_own_is_a_codec_too(tmp_path: Path, value: str) -> None:
    path = job_file(tmp_path, f"push_overrides.fc: {value}\n")
    with pytest.raises(SettingError, match=r"`push_overrides\.fc` is .*; it should be a codec") as refusal:
        load_job(path, [])
    assert str(refusal.value).startswith(str(path))
    assert load_job(job_file(tmp_path, "push_overrides.fc: int8\n"), []).push_overrides == (("fc", "int8"),)


def test_overrides_with_nothing_below_are_none(tmp_path: Path) -> None:
    path = job_file(tmp_path, "push_codec: int8\npush_overrides:\n")
    assert load_job(path, []).push_overrides == ()
    assert load_job(path, ["push_overrides.fc=fp32"]).push_overrides == (("fc", "fp32"),)


def test_an_override_of_the_file_is_removed_by_null(tmp_path: Path) -> None:
    path = job_file(tmp_path, OVERRIDES)
    assert load_job(path, ["push_overrides.*.bias=null"]).push_overrides == (("embed*", "int8"),)
    assert load_job(path, ["push_overrides.*.bias=null", "push_overrides.embed*=null"]).push_overrides == ()
    again = ["push_overrides.*.bias=null", "push_overrides.*.bias=fp16"]
    assert load_job(path, again).push_overrides == (("*.bias", "fp16"), ("embed*", "int8"))
    assert load_job(None, ["push_overrides.*.bias=null"]) == Job()


def test_an_override_with_another_momentum_than_the_push_codec_is_refused_where_it_was_written(tmp_path: Path) -> None:
    path = job_file(tmp_path, "push_codec: dgc:0.9+topk:0.01+fp16\n")
    with pytest.raises(CodecError, match="all parameters train with the same") as refusal:
        load_job(path, ["push_overrides.*.bias=ef+int8"])
    assert str(refusal.value).startswith("--set push_overrides.*.bias=ef+int8: `push_overrides.*.bias`: int8 has")


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("push_overrides=int8", "--set push_overrides.PATTERN=codec"),
        ("push_overrides.*.bias=int7", "--set push_overrides.*.bias=int7: `push_overrides.*.bias`: codec 'int7'"),
        ("push_overides.*.bias=int8", "no setting `push_overides.*.bias`; the nearest is `push_overrides`"),
        ("push_codec=ef+int8:stochastic", "does not contract"),
        ("pull_codec=ef+int8", "`pull_codec`: codec 'ef+int8': ef is a memory, and parameters are pulled without"),
    ],
)
def test_assigned_codecs_that_cannot_work_are_named(assignment: str, sentence: str) -> None:
    with pytest.raises(SettingError) as refusal:
        load_job(None, [assignment])
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mode: [", "not valid YAML"),
        ("- sync\n", "must hold lines `key: value`"),
        ("seed: [1]", "`seed` is [1]"),
    ],
)
def test_a_broken_file_is_refused_with_its_name(tmp_path: Path, text: str, sentence: str) -> None:
    path = job_file(tmp_path, text)
    with pytest.raises(SettingError) as refusal:
        load_job(path, [])
    assert sentence in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"nowhere\.yaml cannot be read"):
        load_job(tmp_path / "nowhere.yaml", [])


@pytest.mark.parametrize(
    "assignments",
    [
        [],
        ["mode=bounded:2", "push_codec=int8", "lease_seconds=0.125", "seed=7", "block_elements=64"],
        ["quorum=1", "expected_workers=2"],
        ["push_codec=momentum:0.9+int8", "push_overrides.[ab].weight=dgc:0.9:10+topk:0.01+int8"],
        ["push_overrides.*.bias=fp32", "push_overrides.[ab].weight=threshold:1e+20+fp16"],
        ["layouts=tp2,pp2xtp2", "tensor_splits.*.q.*=0", "tensor_splits.*.o.weight=1"],
    ],
)
def test_a_job_survives_being_handed_to_a_server_as_assignments(assignments: list[str]) -> None:
    job = load_job(None, assignments)
    assert load_job(None, job.assignments()) == job


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("layouts: [tp2, pp2xtp2]", ("tp2", "pp2xtp2")),
        ("layouts: tp2, pp2xtp2", ("tp2", "pp2xtp2")),
        ("layouts: [tp2xpp2, pp2xtp2, plain]", ("pp2xtp2", "plain")),
        ("layouts:", ()),
        ("layouts: []", ()),
    ],
)
def test_layouts_are_a_list_of_canonical_texts_each_once(tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
    job = load_job(job_file(tmp_path, text), [])
    assert job.layouts == job.settings().layouts == expected


def test_assigned_layouts_replace_those_of_the_file(tmp_path: Path) -> None:
    path = job_file(tmp_path, "layouts: [tp2]")
    assert load_job(path, ["layouts=fsdp4, tp4"]).layouts == ("fsdp4", "tp4")
    assert load_job(path, ["layouts="]).layouts == ()


def test_layouts_declared_later_come_behind_those_of_the_job() -> None:
    assert load_job(None, ["layouts=tp4,tp2"]).declaring(["pp2", "tp2", "pp2"]).layouts == ("tp4", "tp2", "pp2")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("layouts: [tp2, tp2xtp2]", "`layouts`: layout 'tp2xtp2' is not `plain` or degrees joined by x"),
        ("layouts: [2]", "`layouts` is [2]; it should be a list of layouts, for example [tp2, pp2xtp2]"),
        ("layouts: {tp: 2}", "it should be a list of layouts"),
        ("layouts: 0", "it should be a list of layouts"),
        ("tensor_splits: [q]", "`tensor_splits` is ['q']; write a line `pattern: dimension`"),
        ("tensor_splits: {q: rows}", "`tensor_splits.q` is 'rows'; it should be a dimension, for example 0"),
        ("tensor_splits: {q: -1}", "`tensor_splits.q` is -1; it should be a dimension"),
        ("tensor_splits: {q: true}", "`tensor_splits.q` is True; it should be a dimension"),
        ("tensor_splits: {q: 0.5}", "`tensor_splits.q` is 0.5; it should be a dimension"),
        ('tensor_splits: {"": 0}', "lacks a pattern"),
    ],
)
def test_layouts_and_splits_that_cannot_be_meant_name_the_file(tmp_path: Path, text: str, sentence: str) -> None:
    path = job_file(tmp_path, text)
    with pytest.raises(SettingError) as refusal:
        load_job(path, [])
    assert str(refusal.value).startswith(str(path))
    assert sentence in str(refusal.value)


def test_tensor_splits_are_a_map_like_the_overrides(tmp_path: Path) -> None:
    path = job_file(tmp_path, 'tensor_splits:\n  "*.q.*": 0\n  "*.o.weight": 1\n')
    assert load_job(path, []).settings().tensor_splits == (("*.q.*", 0), ("*.o.weight", 1))
    assigned = load_job(path, ["tensor_splits.*.q.*=null", "tensor_splits.wte.*=0"])
    assert assigned.tensor_splits == (("wte.*", 0), ("*.o.weight", 1))
