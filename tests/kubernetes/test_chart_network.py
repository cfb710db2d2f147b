"""Who may connect to whom: workers need outgoing connections to one port of the servers, and nothing else."""

import pytest
from charts import (
    GRPC_PORT,
    METRICS_PORT,
    VALUE_SETS,
    Object,
    Rendered,
    labels_of_pods,
    render,
    selected,
    servers_of,
    the_container,
    workers_of,
)


@pytest.fixture(params=["default", "gpu", "everything"])
def limited(request: pytest.FixtureRequest) -> Rendered:
    return render(VALUE_SETS[request.param])


def policy_of(rendered: Rendered, pods: set[str]) -> Object:
    policies = rendered.of_kind("NetworkPolicy")
    (policy,) = [p for p in policies if selected(p["spec"]["podSelector"]["matchLabels"], rendered) == pods]
    return policy


def callers(policy: Object, port: int, rendered: Rendered) -> set[str]:
    """Pods of the release that may connect to a port."""
    found: set[str] = set()
    for rule in policy["spec"]["ingress"]:
        if any(entry["port"] <= port <= entry.get("endPort", entry["port"]) for entry in rule["ports"]):
            for peer in rule["from"]:
                if set(peer) == {"podSelector"}:
                    found |= selected(peer["podSelector"]["matchLabels"], rendered)
    return found


def test_servers_are_called_by_workers_by_each_other_and_by_clients_that_say_so(limited: Rendered) -> None:
    policy = policy_of(limited, servers_of(limited))
    (test,) = [name for name in labels_of_pods(limited) if name.startswith("Pod ")]
    assert callers(policy, GRPC_PORT, limited) == servers_of(limited) | workers_of(limited) | {test}
    assert callers(policy, METRICS_PORT, limited) == set()


def test_nobody_in_the_release_calls_a_worker(limited: Rendered) -> None:
    policy = policy_of(limited, workers_of(limited))
    for port in (GRPC_PORT, METRICS_PORT, METRICS_PORT + 3):
        assert callers(policy, port, limited) == set()


def test_prometheus_reaches_every_port_that_serves_metrics(limited: Rendered) -> None:
    for pods, container in [
        (servers_of(limited), limited.server()),
        *((workers_of(limited), the_container(item)) for item in limited.workers()),
    ]:
        rules = policy_of(limited, pods)["spec"]["ingress"]
        ranges = [
            (entry["port"], entry.get("endPort", entry["port"]))
            for rule in rules
            if any("namespaceSelector" in peer for peer in rule["from"])
            for entry in rule["ports"]
        ]
        ports = [p["containerPort"] for p in container["ports"] if p["name"].startswith("metrics")]
        assert all(any(low <= port <= high for low, high in ranges) for port in ports)
        assert not any(low <= GRPC_PORT <= high for low, high in ranges)


@pytest.mark.parametrize("values", ["gpu", "everything"])
def test_limited_workers_reach_the_servers_one_port_and_names(values: str) -> None:
    limited = render(VALUE_SETS[values])
    for pods in (servers_of(limited), workers_of(limited)):
        policy = policy_of(limited, pods)
        assert "Egress" in policy["spec"]["policyTypes"]
        names, servers, *extra = policy["spec"]["egress"]
        assert {(entry["protocol"], entry["port"]) for entry in names["ports"]} == {("UDP", 53), ("TCP", 53)}
        assert [entry["port"] for entry in servers["ports"]] == [GRPC_PORT]
        assert selected(servers["to"][0]["podSelector"]["matchLabels"], limited) == servers_of(limited)
        assert extra == VALUE_SETS[values]["networkPolicy"]["extraEgress"]


def test_workers_may_load_data_from_anywhere_by_default() -> None:
    rendered = render({})
    assert policy_of(rendered, workers_of(rendered))["spec"]["policyTypes"] == ["Ingress"]
