"""The Helm chart, rendered by Helm's own library as `helm template` does it, without a cluster."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "kubernetes" / "pushpull"
EXAMPLES = sorted((ROOT / "deploy" / "kubernetes" / "values").glob("*.yaml"))

Object = dict[str, Any]

VALUE_SETS: dict[str, Object] = {
    "default": {},
    **{path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in EXAMPLES},
    "everything": yaml.safe_load((Path(__file__).parent / "everything.yaml").read_text(encoding="utf-8")),
}
"""By name: what a user could pass with -f."""

GRPC_PORT, METRICS_PORT = 7077, 9477

LONGEST_RELEASE = "r" * 53
"""Helm takes no longer name."""


@dataclass(frozen=True)
class Rendered:
    """One release."""

    objects: list[Object]
    notes: str

    def of_kind(self, *kinds: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] in kinds]

    def the(self, kind: str) -> Object:
        (item,) = self.of_kind(kind)
        return item

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Name of the object and template (metadata and spec) of every pod that the release would have."""
        for item in self.of_kind("StatefulSet", "Deployment", "Job"):
            yield f"{item['kind']} {item['metadata']['name']}", item["spec"]["template"]
        for item in self.of_kind("Pod"):
            yield f"Pod {item['metadata']['name']}", item

    def server(self) -> Object:
        """The container of a server."""
        return the_container(self.the("StatefulSet"))

    def workers(self) -> list[Object]:
        """Objects of pools, with their labels."""
        return [item for item in self.of_kind("Job", "Deployment") if "pushpull/pool" in item["metadata"]["labels"]]

    def worker(self, pool: str) -> Object:
        (item,) = [item for item in self.workers() if item["metadata"]["labels"]["pushpull/pool"] == pool]
        return item

    def job_file(self) -> str:
        (text,) = [item["data"]["job.yaml"] for item in self.of_kind("ConfigMap") if "job.yaml" in item["data"]]
        return text


def the_container(workload: Object) -> Object:
    """The only container of a StatefulSet, Deployment or Job."""
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return container


def all_containers(pod: Object) -> list[Object]:
    """Of a pod, with those that run before the others."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def render(values: Mapping[str, Any], name: str = "demo", namespace: str = "training") -> Rendered:
    """Raises an error of `helm_python` for values that the chart refuses."""
    import helm_python

    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(dict(values), name=name, namespace=namespace)
    notes = next(text for path, text in files.items() if path.endswith("NOTES.txt"))
    manifests = [text for path, text in sorted(files.items()) if path.endswith(".yaml")]
    documents = [item for text in manifests for item in yaml.safe_load_all(text)]
    return Rendered([item for item in documents if item is not None], notes)


def labels_of_pods(rendered: Rendered) -> dict[str, dict[str, str]]:
    """Labels of one pod of each object; of each server those that the StatefulSet's controller adds, too."""
    found = {name: pod["metadata"]["labels"] for name, pod in rendered.pods()}
    servers = rendered.the("StatefulSet")
    common = found.pop(f"StatefulSet {servers['metadata']['name']}")
    for shard in range(servers["spec"]["replicas"]):
        found[f"server {shard}"] = common | {"apps.kubernetes.io/pod-index": str(shard)}
    return found


def selected(selector: dict[str, str], rendered: Rendered) -> set[str]:
    labels = labels_of_pods(rendered)
    return {name for name, carried in labels.items() if selector.items() <= carried.items()}


def servers_of(rendered: Rendered) -> set[str]:
    return {name for name in labels_of_pods(rendered) if name.startswith("server ")}


def workers_of(rendered: Rendered) -> set[str]:
    return {f"{item['kind']} {item['metadata']['name']}" for item in rendered.workers()}
