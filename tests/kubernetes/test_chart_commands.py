"""The programs that a release starts, as the command line of this checkout reads them, and what pools make of them."""

from collections.abc import Iterator
from typing import Any

import typer
from charts import (
    GRPC_PORT,
    METRICS_PORT,
    VALUE_SETS,
    Object,
    Rendered,
    all_containers,
    render,
    selected,
    the_container,
)

from pushpull.deploy.cli import app
from pushpull.worker.layout import parse_layout


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """The command and its options, as the command line of this checkout reads them; fails on an unknown option."""
    group: Any = typer.main.get_command(app)
    command = group.commands[arguments[0]]
    return arguments[0], command.make_context(arguments[0], list(arguments[1:])).params


def commands(rendered: Rendered) -> Iterator[tuple[Object, str, dict[str, Any]]]:
    """Container, command and options of everything that runs."""
    for _, pod in rendered.pods():
        for container in all_containers(pod):
            arguments = [text.replace("$(PUSHPULL_SHARD)", "0") for text in container["args"]]
            assert all(isinstance(text, str) for text in container["args"])
            yield container, *parsed(arguments)


def test_the_command_line_knows_every_option(rendered: Rendered) -> None:
    assert {command for _, command, _ in commands(rendered)} == {"server", "worker", "health"}


def test_servers_and_workers_are_told_the_names_that_the_servers_will_have(rendered: Rendered) -> None:
    servers = rendered.the("StatefulSet")
    service = servers["spec"]["serviceName"]
    expected = [
        f"{servers['metadata']['name']}-{shard}.{service}.training.svc:{GRPC_PORT}"
        for shard in range(servers["spec"]["replicas"])
    ]
    lists = [options["servers"] for _, command, options in commands(rendered) if command in ("server", "worker")]
    assert lists
    assert set(lists) == {",".join(expected)}


def test_each_server_learns_its_shard_from_its_place_in_the_set(rendered: Rendered) -> None:
    server = rendered.server()
    assert server["args"][server["args"].index("--shard") + 1] == "$(PUSHPULL_SHARD)"
    (variable,) = [entry for entry in server["env"] if entry["name"] == "PUSHPULL_SHARD"]
    path = variable["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.labels['apps.kubernetes.io/pod-index']"


def test_all_servers_start_at_once_and_none_is_replaced_unasked(rendered: Rendered) -> None:
    servers = rendered.the("StatefulSet")["spec"]
    assert servers["podManagementPolicy"] == "Parallel"
    assert servers["updateStrategy"] == {"type": "OnDelete"}


def test_metrics_are_served_where_the_ports_say(rendered: Rendered) -> None:
    for container, command, options in commands(rendered):
        if command != "health":
            host, _, port = options["metrics_listen"].rpartition(":")
            ports = {entry["name"]: entry["containerPort"] for entry in container["ports"]}
            assert (host, int(port)) == ("0.0.0.0", ports["metrics"])


def test_a_worker_has_a_metrics_port_for_each_of_its_ranks(rendered: Rendered) -> None:
    for container, command, options in commands(rendered):
        if command == "worker":
            ranks = parse_layout(options["layout"]).num_ranks if options["layout"] else 1
            ports = {entry["name"]: entry["containerPort"] for entry in container["ports"]}
            first = METRICS_PORT
            assert sorted(ports.values()) == list(range(first, first + ranks))


def test_the_job_file_is_where_servers_look_for_it(rendered: Rendered) -> None:
    (options,) = [options for _, command, options in commands(rendered) if command == "server"]
    mounts = {mount["name"]: mount["mountPath"] for mount in rendered.server()["volumeMounts"]}
    assert str(options["job"]) == f"{mounts['job']}/job.yaml"


def test_workers_that_are_restarted_when_they_end_stay_when_their_script_ends(rendered: Rendered) -> None:
    for item in rendered.workers():
        _, options = parsed(the_container(item)["args"])
        assert options["linger"] is (item["kind"] == "Deployment")


def test_a_worker_that_comes_back_takes_any_free_place(rendered: Rendered) -> None:
    for _, command, options in commands(rendered):
        assert command != "worker" or options["worker_id"] is None


def test_everything_behind_the_script_reaches_it_unchanged() -> None:
    (pool, *_) = VALUE_SETS["everything"]["workers"]["pools"]
    _, options = parsed(the_container(render(VALUE_SETS["everything"]).worker(pool["name"]))["args"])
    assert options["arguments"] == pool["args"]


def test_the_health_test_asks_shard_0(rendered: Rendered) -> None:
    (options,) = [options for _, command, options in commands(rendered) if command == "health"]
    services = {item["metadata"]["name"]: item for item in rendered.of_kind("Service")}
    name, _, port = options["server"].partition(":")
    assert selected(services[name]["spec"]["selector"], rendered) == {"server 0"}
    assert int(port) == GRPC_PORT
    assert options["service"] == "ready"


def test_threads_follow_the_share_of_the_node_that_a_pod_has(rendered: Rendered) -> None:
    """torch would take all cores of the node; several ranks are given theirs by pushpull."""
    for container, command, options in commands(rendered):
        cpu = {
            f"{kind}.cpu" for kind, amounts in container.get("resources", {}).items() if amounts and "cpu" in amounts
        }
        several = command == "worker" and options["layout"] and parse_layout(options["layout"]).num_ranks > 1
        threads = [entry for entry in container.get("env", []) if entry["name"] == "OMP_NUM_THREADS"]
        if command == "health" or several or not cpu:
            assert threads == []
        else:
            (entry,) = threads
            source = entry["valueFrom"]["resourceFieldRef"]
            assert source["resource"] in cpu
            assert source["containerName"] == container["name"]


def test_each_pool_has_its_own_nodes_resources_and_image() -> None:
    rendered = render(VALUE_SETS["gpu"])
    large, small = (rendered.worker(name)["spec"]["template"]["spec"] for name in ("a100", "l4"))
    assert large["nodeSelector"] != small["nodeSelector"]
    limits = [pod["containers"][0]["resources"]["limits"] for pod in (large, small)]
    assert [limit["nvidia.com/gpu"] for limit in limits] == [2, 1]
    assert [limit["memory"] for limit in limits] == ["64Gi", "16Gi"]
    assert {pod["containers"][0]["image"] for pod in (large, small)} == {"localhost/pushpull:cuda"}
    assert rendered.server()["image"] == "localhost/pushpull:dev"


def test_what_a_pool_says_wins_also_when_it_says_no() -> None:
    rendered = render(VALUE_SETS["everything"])
    first, quiet = (rendered.worker(name)["spec"] for name in ("a-longest-name-0", "b"))
    assert first["parallelism"] == 3
    assert first["backoffLimit"] == 0
    assert render({}).worker("cpu")["spec"]["backoffLimit"] == 12, "6 for each of 2 workers"
    assert quiet["replicas"] == 0
    pod = quiet["template"]["spec"]
    assert "affinity" not in pod, "spot: false"
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp", "script"]


def test_only_tolerations_of_the_user_without_gpus_and_spot() -> None:
    assert "tolerations" not in render({}).worker("cpu")["spec"]["template"]["spec"]


def test_a_script_given_as_text_arrives_as_it_was() -> None:
    rendered = render(VALUE_SETS["everything"])
    (text,) = [item["data"]["train.py"] for item in rendered.of_kind("ConfigMap") if "train.py" in item["data"]]
    assert text == VALUE_SETS["everything"]["workers"]["script"]["inline"]
    for item in rendered.workers():
        _, options = parsed(the_container(item)["args"])
        (mount,) = [m for m in the_container(item)["volumeMounts"] if m["name"] == "script"]
        assert options["script"] == f"{mount['mountPath']}/train.py"


def test_a_script_may_come_from_a_config_map_of_the_user() -> None:
    rendered = render({"workers": {"script": {"configMap": "mine"}}})
    (volume,) = [v for v in rendered.worker("cpu")["spec"]["template"]["spec"]["volumes"] if v.get("configMap")]
    assert volume["configMap"] == {"name": "mine"}
