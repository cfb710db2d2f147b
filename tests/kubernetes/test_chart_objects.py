"""What the schemas cannot see: that the objects of a release fit together, are safe, and live and end as they should."""

from charts import (
    GRPC_PORT,
    METRICS_PORT,
    VALUE_SETS,
    Rendered,
    all_containers,
    render,
    selected,
    servers_of,
    the_container,
)

from pushpull.protos.health import PROCESS, READY

ROOT_USER = 0


class TestSelectors:
    def test_workloads_select_their_own_pods_only(self, rendered: Rendered) -> None:
        servers = rendered.the("StatefulSet")
        assert selected(servers["spec"]["selector"]["matchLabels"], rendered) == servers_of(rendered)
        for item in rendered.of_kind("Deployment"):
            assert selected(item["spec"]["selector"]["matchLabels"], rendered) == {
                f"Deployment {item['metadata']['name']}"
            }

    def test_one_service_has_all_servers_and_the_other_shard_0(self, rendered: Rendered) -> None:
        headless, status = sorted(rendered.of_kind("Service"), key=lambda item: "clusterIP" not in item["spec"])
        assert selected(headless["spec"]["selector"], rendered) == servers_of(rendered)
        assert headless["spec"]["clusterIP"] == "None"
        assert headless["spec"]["publishNotReadyAddresses"] is True
        assert headless["metadata"]["name"] == rendered.the("StatefulSet")["spec"]["serviceName"]
        assert selected(status["spec"]["selector"], rendered) == {"server 0"}

    def test_services_name_ports_that_servers_have(self, rendered: Rendered) -> None:
        ports = {port["name"]: port["containerPort"] for port in rendered.server()["ports"]}
        assert ports == {"grpc": GRPC_PORT, "metrics": METRICS_PORT}
        for service in rendered.of_kind("Service"):
            for port in service["spec"]["ports"]:
                assert port["port"] == ports[port["targetPort"]]

    def test_the_disruption_budget_is_for_servers(self, rendered: Rendered) -> None:
        for budget in rendered.of_kind("PodDisruptionBudget"):
            assert selected(budget["spec"]["selector"]["matchLabels"], rendered) == servers_of(rendered)

    def test_servers_spread_with_regard_to_each_other(self, rendered: Rendered) -> None:
        for spread in rendered.the("StatefulSet")["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert selected(spread["labelSelector"]["matchLabels"], rendered) == servers_of(rendered)

    def test_a_release_selects_nothing_of_another_one(self) -> None:
        one, other = render(VALUE_SETS["spot"], name="one"), render(VALUE_SETS["spot"], name="other")
        for item in one.of_kind("StatefulSet", "Deployment", "PodDisruptionBudget", "ServiceMonitor", "PodMonitor"):
            assert selected(item["spec"]["selector"]["matchLabels"], other) == set()
        for service in one.of_kind("Service"):
            assert selected(service["spec"]["selector"], other) == set()
        for policy in one.of_kind("NetworkPolicy"):
            assert selected(policy["spec"]["podSelector"]["matchLabels"], other) == set()


class TestSecurity:
    def test_no_container_runs_as_root_and_none_may_become_root(self, rendered: Rendered) -> None:
        for name, pod in rendered.pods():
            around = pod["spec"]["securityContext"]
            for container in all_containers(pod):
                settings = around | container["securityContext"]
                where = f"{container['name']} of {name}"
                assert settings["runAsNonRoot"] is True, where
                assert settings.get("runAsUser") != ROOT_USER, where
                assert settings.get("runAsGroup") != ROOT_USER, where
                assert settings["allowPrivilegeEscalation"] is False, where
                assert settings["capabilities"] == {"drop": ["ALL"]}, where
                assert settings["readOnlyRootFilesystem"] is True, where
                assert settings["seccompProfile"] == {"type": "RuntimeDefault"}, where
                assert not settings.get("privileged"), where

    def test_pods_share_nothing_with_their_node(self, rendered: Rendered) -> None:
        for _, pod in rendered.pods():
            assert not {"hostNetwork", "hostPID", "hostIPC"} & pod["spec"].keys()
            assert [volume for volume in pod["spec"].get("volumes", []) if "hostPath" in volume] == []

    def test_pods_have_no_token_of_the_cluster(self, rendered: Rendered) -> None:
        for _, pod in rendered.pods():
            assert pod["spec"]["automountServiceAccountToken"] is False
        for account in rendered.of_kind("ServiceAccount"):
            assert account["automountServiceAccountToken"] is False

    def test_pods_use_the_account_that_is_made(self, rendered: Rendered) -> None:
        made = {account["metadata"]["name"] for account in rendered.of_kind("ServiceAccount")} or {"default"}
        assert {pod["spec"]["serviceAccountName"] for _, pod in rendered.pods()} == made

    def test_variables_of_services_do_not_mix_with_ours(self, rendered: Rendered) -> None:
        assert all(pod["spec"]["enableServiceLinks"] is False for _, pod in rendered.pods())


class TestVolumes:
    def test_every_mount_has_a_volume_and_every_volume_a_mount(self, rendered: Rendered) -> None:
        claims = rendered.the("StatefulSet")["spec"].get("volumeClaimTemplates", [])
        for name, pod in rendered.pods():
            volumes = [volume["name"] for volume in pod["spec"].get("volumes", [])]
            if name.startswith("StatefulSet "):
                volumes += [claim["metadata"]["name"] for claim in claims]
            mounts = [mount for container in all_containers(pod) for mount in container.get("volumeMounts", [])]
            assert sorted(mount["name"] for mount in mounts) == sorted(volumes)
            paths = [mount["mountPath"] for mount in mounts]
            assert sorted(set(paths)) == sorted(paths)

    def test_config_maps_that_are_mounted_are_there(self, rendered: Rendered) -> None:
        made = {item["metadata"]["name"] for item in rendered.of_kind("ConfigMap")}
        for _, pod in rendered.pods():
            mounted = {v["configMap"]["name"] for v in pod["spec"].get("volumes", []) if "configMap" in v}
            assert mounted <= made

    def test_programs_may_write_to_tmp(self, rendered: Rendered) -> None:
        for container in [rendered.server(), *map(the_container, rendered.workers())]:
            (tmp,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/tmp"]
            assert not tmp.get("readOnly")


class TestLives:
    def test_probes_ask_for_services_that_servers_have(self, rendered: Rendered) -> None:
        server = rendered.server()
        asked = {name: server[f"{name}Probe"]["grpc"] for name in ("startup", "liveness", "readiness")}
        assert {name: probe["service"] for name, probe in asked.items()} == {
            "startup": PROCESS,
            "liveness": PROCESS,
            "readiness": READY,
        }
        assert {probe["port"] for probe in asked.values()} == {GRPC_PORT}

    def test_a_server_that_is_slow_to_answer_is_not_killed_for_minutes(self, rendered: Rendered) -> None:
        liveness = rendered.server()["livenessProbe"]
        assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 120

    def test_there_is_time_to_leave_in_order_also_on_spot_nodes(self, rendered: Rendered) -> None:
        for item in [rendered.the("StatefulSet"), *rendered.workers()]:
            assert item["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= 12
        default = render({})
        for item in [default.the("StatefulSet"), *default.workers()]:
            assert item["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 15

    def test_a_job_takes_preemption_and_sigterm_for_no_failure(self, rendered: Rendered) -> None:
        for item in rendered.of_kind("Job"):
            spec = item["spec"]
            assert spec["template"]["spec"]["restartPolicy"] == "Never", "what policies of failure need"
            assert "completions" not in spec, "a work queue: nobody starts again when the first has finished"
            ignored, asked = spec["podFailurePolicy"]["rules"]
            assert ignored == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
            assert asked["action"] == "Ignore"
            assert asked["onExitCodes"]["values"] == [128 + 15]
            assert asked["onExitCodes"]["containerName"] == the_container(item)["name"]

    def test_servers_keep_away_from_spot_nodes_that_spot_pools_look_for(self) -> None:
        rendered = render(VALUE_SETS["spot"])
        affinity = rendered.the("StatefulSet")["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        avoided = {(e["key"], e["operator"], *e["values"]) for e in term["matchExpressions"]}
        pod = rendered.worker("spot")["spec"]["template"]["spec"]
        wanted = {
            (e["key"], "NotIn", *e["values"])
            for preference in pod["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
            for e in preference["preference"]["matchExpressions"]
        }
        assert avoided == wanted
        assert len(avoided) == 5
        tolerated = {entry["key"] for entry in pod["tolerations"]}
        assert {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority", "nvidia.com/gpu"} <= tolerated

    def test_every_alternative_of_the_users_affinity_keeps_away_from_spot_nodes(self) -> None:
        rendered = render(VALUE_SETS["everything"])
        affinity = rendered.the("StatefulSet")["spec"]["template"]["spec"]["affinity"]
        terms = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        zones = [next(e["values"] for e in term["matchExpressions"] if e["key"] == "zone") for term in terms]
        assert zones == [["a"], ["b"]]
        assert all(len(term["matchExpressions"]) == 6 for term in terms)
        assert "podAntiAffinity" in affinity


class TestVolumeOfServers:
    def test_it_is_an_empty_folder_unless_asked_for(self) -> None:
        servers = render({}).the("StatefulSet")["spec"]
        assert "volumeClaimTemplates" not in servers
        (data,) = [v for v in servers["template"]["spec"]["volumes"] if v["name"] == "data"]
        assert data == {"name": "data", "emptyDir": {}}

    def test_each_server_claims_one_when_asked_for(self) -> None:
        servers = render(VALUE_SETS["everything"]).the("StatefulSet")["spec"]
        (claim,) = servers["volumeClaimTemplates"]
        assert claim["spec"]["storageClassName"] == "fast"
        assert claim["spec"]["resources"] == {"requests": {"storage": "1.5Gi"}}
        assert servers["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete"


def test_notes_say_what_to_type_next(rendered: Rendered) -> None:
    services = [item["metadata"]["name"] for item in rendered.of_kind("Service")]
    assert any(f"port-forward service/{name} 7077:7077" in rendered.notes for name in services)
    assert "pushpull status --servers localhost:7077" in rendered.notes
    for item in rendered.workers():
        if item["kind"] == "Job":
            assert f"patch job {item['metadata']['name']}" in rendered.notes
