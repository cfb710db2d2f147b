"""Whatever the values, the chart makes objects that Kubernetes accepts, without a cluster to ask."""

import shutil
from typing import Any

import charts
import pytest
from charts import CHART, LONGEST_RELEASE, VALUE_SETS, Rendered, render
from operator_kinds import SPECS, VERSIONS

OLDEST = (1, 30)


def minor_version(text: str) -> tuple[int, int]:
    major, minor, *_ = text.split(".")
    return int(major), int(minor)


def known_versions() -> list[str]:
    utils = pytest.importorskip("kubernetes_validate.utils")
    return [version for version in utils.all_versions() if minor_version(version) >= OLDEST]


@pytest.mark.parametrize("values", VALUE_SETS)
def test_objects_pass_the_strict_schemas_of_all_versions_from_the_oldest_supported(values: str) -> None:
    utils = pytest.importorskip("kubernetes_validate.utils")
    versions = known_versions()
    assert minor_version(versions[0]) == OLDEST
    assert len(versions) >= 8, "1.30 to 1.37 were known when this was written"
    objects = [item for item in render(VALUE_SETS[values]).objects if item["apiVersion"] not in VERSIONS]
    for version in versions:
        for item in objects:
            utils.validate(item, version, strict=True)


def test_the_schemas_do_notice_a_wrong_field() -> None:
    utils = pytest.importorskip("kubernetes_validate.utils")
    (service, *_) = render({}).of_kind("Service")
    service["spec"]["publishNotReadyAdresses"] = True
    with pytest.raises(utils.ValidationError, match="publishNotReadyAdresses"):
        utils.validate(service, known_versions()[-1], strict=True)


@pytest.mark.parametrize("values", VALUE_SETS)
def test_helm_finds_nothing_to_warn_of(values: str) -> None:
    import helm_python

    for version in (known_versions()[0], known_versions()[-1]):
        report = helm_python.lint(
            CHART, VALUE_SETS[values], strict=True, kube_version=f"v{version}", namespace="training"
        )
        assert report["errors"] == []
        assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("values", VALUE_SETS)
def test_a_packaged_chart_is_the_same_chart(values: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alerts and dashboards are links to files outside the chart: they must travel with it."""
    import helm_python

    with helm_python.Chart.load(CHART) as chart:
        archive = chart.save(tmp_path)
    loose = render(VALUE_SETS[values]).objects
    monkeypatch.setattr(charts, "CHART", archive)
    assert render(VALUE_SETS[values]).objects == loose


def names(item: dict[str, Any]) -> list[str]:
    """What becomes a label value or a DNS label, with what controllers append: revision hashes, ordinals, `keda-hpa-`."""
    name = item["metadata"]["name"]
    if item["kind"] == "StatefulSet":
        return [f"{name}-0123456789", f"{name}-{item['spec']['replicas'] - 1}"]
    if item["kind"] == "ScaledObject":
        return [f"keda-hpa-{name}"]
    if item["kind"] == "Deployment":
        return [f"{name}-0123456789"]
    return [name]


@pytest.mark.parametrize("length", [19, 28, 29, 39, 53])
def test_no_name_is_too_long_whatever_the_release_is_called(length: int) -> None:
    values = {key: value for key, value in VALUE_SETS["everything"].items() if key != "fullnameOverride"}
    for item in render(values, name=LONGEST_RELEASE[:length]).objects:
        assert [name for name in names(item) if len(name) > 63] == []
        assert [value for value in item["metadata"]["labels"].values() if len(value) > 63] == []


def test_long_releases_that_begin_alike_have_objects_of_their_own() -> None:
    one, other = (
        {(item["kind"], item["metadata"]["name"]) for item in render({}, name=LONGEST_RELEASE[:-1] + end).objects}
        for end in "ab"
    )
    assert not one & other


def test_no_two_objects_are_the_same(rendered: Rendered) -> None:
    keys = [(item["kind"], item["metadata"]["name"]) for item in rendered.objects]
    assert sorted(set(keys)) == sorted(keys)


@pytest.mark.parametrize("values", VALUE_SETS)
def test_objects_of_operators_have_the_fields_that_these_read(values: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for item in render(VALUE_SETS[values]).objects:
        if item["apiVersion"] in VERSIONS:
            jsonschema.validate(item["spec"], SPECS[item["kind"]])


def test_a_newer_chart_leaves_the_templates_of_pods_as_they_are(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes refuses to change that of a Job."""
    before = [pod for _, pod in render(VALUE_SETS["gpu"]).pods() if "kind" not in pod]
    newer = shutil.copytree(CHART, tmp_path / "pushpull")
    description = newer / "Chart.yaml"
    description.write_text(description.read_text("utf-8").replace("ersion: 0.1.0", "ersion: 9.9.9"), encoding="utf-8")
    monkeypatch.setattr(charts, "CHART", newer)
    after = render(VALUE_SETS["gpu"])
    assert "9.9.9" in str(after.the("StatefulSet")["metadata"])
    assert [pod for _, pod in after.pods() if "kind" not in pod] == before
