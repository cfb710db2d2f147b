"""What users may write into values, and what they are told when it is wrong."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import CHART, ROOT, VALUE_SETS, Rendered, render

from pushpull.deploy.job import Job, load_job
from pushpull.protos.errors import PushpullError

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def pool(**settings: Any) -> dict[str, Any]:
    return {"workers": {"pools": [{"name": "gpu", **settings}]}}


def defaults(**settings: Any) -> dict[str, Any]:
    return {"workers": {"defaults": settings}}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"server": {"replicas": 2}}, "additional properties 'server' not allowed"),
    ({"servers": {"replicas": 0}}, "'/servers/replicas': minimum: got 0, want 1"),
    ({"servers": {"replicas": "2"}}, "'/servers/replicas': got string, want integer"),
    ({"servers": {"autoscaling": {"enabled": True}}}, "'/servers': additional properties 'autoscaling' not allowed"),
    ({"servers": {"spread": "zone"}}, "'/servers/spread': value must be one of 'preferred', 'required', 'none'"),
    (
        {"servers": {"terminationGracePeriodSeconds": 5}},
        "'/servers/terminationGracePeriodSeconds': minimum: got 5, want 12",
    ),
    ({"servers": {"persistence": {"size": "10 GB"}}}, "'/servers/persistence/size': '10 GB' does not match pattern"),
    ({"servers": {"securityContext": {}}}, "'/servers': additional properties 'securityContext' not allowed"),
    ({"podSecurity": {"runAsUser": 0}}, "'/podSecurity/runAsUser': minimum: got 0, want 1"),
    ({"podSecurity": {"runAsNonRoot": False}}, "'/podSecurity': additional properties 'runAsNonRoot' not allowed"),
    ({"images": {"cpu": "pushpull"}}, "'/images/cpu': 'pushpull' does not match pattern"),
    ({"images": {"cpu": "host:5000/pushpull"}}, "'/images/cpu': 'host:5000/pushpull' does not match pattern"),
    ({"images": {"pullPolicy": "Sometimes"}}, "'/images/pullPolicy': value must be one of"),
    ({"logFormat": "xml"}, "'/logFormat': value must be one of 'json', 'text'"),
    ({"job": {"mod": "sync"}}, "'/job': additional properties 'mod' not allowed"),
    ({"job": {"tensor_splits": {"*.q.*": "first"}}}, "'/job/tensor_splits"),
    ({"fullnameOverride": "Upper"}, "'/fullnameOverride': 'Upper' does not match pattern"),
    ({"workers": {"pools": [{}]}}, "'/workers/pools/0': missing property 'name'"),
    ({"workers": {"pools": {"cpu": {}}}}, "'/workers/pools': got object, want array"),
    ({"workers": {"pools": [{"name": "GPU"}]}}, "'/workers/pools/0/name': 'GPU' does not match pattern"),
    ({"workers": {"pools": [{"name": "a" * 17}]}}, "'/workers/pools/0/name': maxLength: got 17, want 16"),
    ({"workers": {"pools": [{"name": "a"}, {"name": "a"}]}}, "two pools are named a; give each a name of its own"),
    (pool(gpu=1), "'/workers/pools/0': additional properties 'gpu' not allowed"),
    (pool(gpus=-1), "'/workers/pools/0/gpus': minimum: got -1, want 0"),
    (pool(gpus="1"), "'/workers/pools/0/gpus': got string, want integer"),
    (pool(layout="tp0"), "'/workers/pools/0/layout': 'tp0' does not match pattern"),
    (pool(layout="2tp"), "'/workers/pools/0/layout': '2tp' does not match pattern"),
    (pool(args=["--steps", 300]), "'/workers/pools/0/args/1': got number, want string"),
    (pool(args="--steps 300"), "'/workers/pools/0/args': got string, want array"),
    (pool(env={"A": "b"}), "'/workers/pools/0/env': got object, want array"),
    (pool(kind="DaemonSet"), "'/workers/pools/0/kind': value must be one of 'Job', 'Deployment'"),
    (pool(image="pushpull"), "'/workers/pools/0/image'"),
    (
        pool(terminationGracePeriodSeconds=10),
        "'/workers/pools/0/terminationGracePeriodSeconds': minimum: got 10, want 12",
    ),
    (pool(autoscaling={"targetBusyShare": 80}), "'/workers/pools/0/autoscaling/targetBusyShare'"),
    (pool(autoscaling={"enabled": True}), "gpu has autoscaling and is a Job, which no autoscaler can scale"),
    (
        pool(kind="Deployment", autoscaling={"enabled": True, "minReplicas": 9}),
        "gpu has autoscaling.minReplicas 9 above maxReplicas 8",
    ),
    (defaults(sharedMemory="much"), "'/workers/defaults/sharedMemory'"),
    (defaults(name="x"), "'/workers/defaults': additional properties 'name' not allowed"),
    (
        {"workers": {"script": {"path": "/work/train.py", "inline": "pass"}}},
        "workers.script.path and workers.script.inline are set, but there is only one script: keep one of them",
    ),
    ({"networkPolicy": {"monitoringNamespace": "Monitoring"}}, "'/networkPolicy/monitoringNamespace'"),
    ({"monitoring": {"interval": 15}}, "'/monitoring/interval': got number, want string"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_wrong_value_is_refused_with_its_place_and_what_is_wrong(values: dict[str, Any], message: str) -> None:
    import helm_python

    with pytest.raises((helm_python.HelmValuesError, helm_python.HelmRenderError)) as refusal:
        render(values)
    assert message in str(refusal.value)


# Of each setting of a job: a value that is right, and values that are not.
SETTINGS: dict[str, tuple[Any, list[Any]]] = {
    "name": ("cats", [3, "n" * 101]),
    "mode": ("bounded:4", ["bounded4", "synchronous"]),
    "staleness_bound": (0, [-1, "many"]),
    "quorum": (1, [0, "all"]),
    "damping": ("sqrt", ["linear"]),
    "push_codec": ("topk:0.01+int8", [3, ""]),
    "push_overrides": ({"*.bias": "fp32"}, ["fp32", {"*.bias": 3}]),
    "pull_codec": ("bf16", [3]),
    "average_buffers": (True, ["maybe", 3]),
    "optimizer_state": ("int8", ["int4"]),
    "block_elements": (65536, [0, "many"]),
    "layouts": (["tp2", "pp2xtp2"], [["tp0"], ["2"]]),
    "tensor_splits": ({"*.q.*": 0}, [0, {"*.q.*": "first"}]),
    "lease_seconds": (2.5, [0, "long"]),
    "expected_workers": (3, [-1, "all"]),
    "reserved_ids": (3, [-1, "all"]),
    "start_timeout_seconds": (900, [0, "long"]),
    "progress_timeout_seconds": (0, [-1, "long"]),
    "server_patience_seconds": (60, [0, "long"]),
    "seed": (123456789, [-1, "random"]),
    "message_bytes": (5_000_000, [4095, 8388609]),
    "staging_bytes": (17179869184, [1048575, "4Gi"]),
    "memory_bytes": (274877906944, ["16Gi"]),
}


def read_back(rendered: Rendered, folder: Path) -> Job:
    """The job as shard 0 of the release would read it."""
    path = folder / "job.yaml"
    path.write_text(rendered.job_file(), encoding="utf-8")
    return load_job(path, [])


class TestJobFile:
    def test_the_schema_has_exactly_the_settings_of_a_job_file(self) -> None:
        assert SCHEMA["properties"]["job"]["properties"].keys() == Job.model_fields.keys() == SETTINGS.keys()

    @pytest.mark.parametrize("key", SETTINGS)
    def test_shard_0_reads_what_was_written_into_values(self, key: str, tmp_path: Path) -> None:
        right, _ = SETTINGS[key]
        path = tmp_path / "expected.yaml"
        path.write_text(yaml.safe_dump({key: right}), encoding="utf-8")
        expected = load_job(path, [])
        assert expected != Job()
        assert read_back(render({"job": {key: right}}), tmp_path) == expected

    @pytest.mark.parametrize(
        ("key", "wrong"), [(key, value) for key, (_, wrong) in SETTINGS.items() for value in wrong]
    )
    def test_what_a_server_would_refuse_is_refused_before_it_starts(self, key: str, wrong: Any, tmp_path: Path) -> None:
        import helm_python

        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump({key: wrong}), encoding="utf-8")
        with pytest.raises(PushpullError):
            load_job(path, [])
        with pytest.raises(helm_python.HelmValuesError, match=key):
            render({"job": {key: wrong}})

    def test_servers_can_read_the_job_of_every_example(self, rendered: Rendered, tmp_path: Path) -> None:
        read_back(rendered, tmp_path)

    def test_layouts_of_the_pools_are_declared(self, tmp_path: Path) -> None:
        assert read_back(render(VALUE_SETS["gpu"]), tmp_path).layouts == ("tp2",)
        assert read_back(render(VALUE_SETS["everything"]), tmp_path).layouts == ("fsdp2", "pp2xtp2")
        assert read_back(render(pool(layout="plain")), tmp_path).layouts == ()

    def test_patterns_keep_their_order_in_a_list(self, tmp_path: Path) -> None:
        job = read_back(render(VALUE_SETS["everything"]), tmp_path)
        assert job.push_overrides == (("embed.*", "fp32"), ("*", "int8"))


class TestDescription:
    def test_every_value_of_the_schema_is_in_the_file_of_defaults(self) -> None:
        """So that values.yaml shows everything that can be said."""
        values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

        def missing(schema: dict[str, Any], shown: Any, path: str) -> list[str]:
            schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
            if schema.get("additionalProperties") is not False or path in ("job", "workers.defaults.resources"):
                return []
            found = []
            for key, inner in schema["properties"].items():
                if key not in shown:
                    found.append(f"{path}.{key}")
                else:
                    found += missing(inner, shown[key], f"{path}.{key}".lstrip("."))
            return found

        assert missing(SCHEMA, values, "") == [".global"], "set by Helm itself"

    def test_a_pool_may_say_what_the_defaults_say(self) -> None:
        workers = SCHEMA["properties"]["workers"]["properties"]
        own, common = workers["pools"]["items"]["properties"], workers["defaults"]["properties"]
        assert {key: value for key, value in own.items() if key != "name"} == common

    def test_the_chart_has_the_version_of_the_package(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
        assert (chart["version"], chart["appVersion"]) == (project["version"], project["version"])

    def test_files_are_tidy_yaml(self) -> None:
        linter = pytest.importorskip("yamllint.linter", reason="yamllint is not installed")
        from yamllint.config import YamlLintConfig

        rules = YamlLintConfig(
            "extends: default\nrules: {line-length: {max: 128}, document-start: disable, comments-indentation: disable}"
        )
        files = [CHART / "Chart.yaml", CHART / "values.yaml", *CHART.parent.glob("values/*.yaml")]
        problems = [f"{path.name}: {p}" for path in files for p in linter.run(path.read_text("utf-8"), rules)]
        assert problems == []
