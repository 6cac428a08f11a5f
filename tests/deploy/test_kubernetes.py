"""The manifests: what they name exists, in the service and in each other."""

import pytest
import yaml

from support.commandlines import trouble_of
from support.operated import (
    GRPC_PORT,
    HEALTH,
    HTTP_PATHS,
    HTTP_PORT,
    ROOT,
    environment_of,
    settings_from,
    unknown_settings,
)

FOLDER = ROOT / "deploy" / "kubernetes"
MANIFESTS = {
    str(path.relative_to(FOLDER)): yaml.safe_load(path.read_text())
    for path in sorted(FOLDER.rglob("*.yaml"))
}
DEPLOYMENT, JOB = MANIFESTS["deployment.yaml"], MANIFESTS["migrate/job.yaml"]
PODS = {"deployment": DEPLOYMENT["spec"]["template"], "job": JOB["spec"]["template"]}
LABELS = {"app.kubernetes.io/name": "tillsync-service"}


def container_of(pod):
    (container,) = pod["spec"]["containers"]
    return container


def settings_of(pod):
    """The settings that a pod's container would start with."""
    given = {
        variable["name"]: variable.get("value", "postgresql://login:secret@db/tillsync")
        for variable in container_of(pod)["env"]
    }
    return settings_from(environment_of("docker/service.Dockerfile") | given)


def test_every_manifest_is_applied_and_names_no_namespace():
    """What lies in the folder is what runs, in the namespace that the operator says."""
    for kustomization, prefix in (
        ("kustomization.yaml", ""),
        ("migrate/kustomization.yaml", "migrate/"),
    ):
        applied = [prefix + name for name in MANIFESTS[kustomization]["resources"]]
        beside = {name for name in MANIFESTS if name.rpartition("/")[0] == prefix.rstrip("/")}
        assert set(applied) == beside - {kustomization}
        (image,) = MANIFESTS[kustomization]["images"]
        assert image["name"] == container_of(PODS["deployment"])["image"]
    assert (
        MANIFESTS["kustomization.yaml"]["images"]
        == MANIFESTS["migrate/kustomization.yaml"]["images"]
    )
    assert [
        name for name, manifest in MANIFESTS.items() if "namespace" in manifest.get("metadata", {})
    ] == []


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_starts_a_command_with_settings_that_there_are(pod):
    """A rollout does not end at a slip: command and settings exist, and the service takes them."""
    container = container_of(PODS[pod])
    text = yaml.safe_dump(PODS[pod])

    assert trouble_of(["tillsync-service", *container["args"]]) == ""
    assert unknown_settings(text) == set()
    assert settings_of(PODS[pod]).database_url is not None
    assert (pod == "job") == (settings_of(PODS[pod]).migration_url is not None)


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_may_do_nothing(pod):
    """Who breaks into a pod holds no right over its node, its files or the cluster."""
    spec, container = PODS[pod]["spec"], container_of(PODS[pod])

    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] == 10001  # the image's
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_each_probe_asks_a_health_service_that_there_is():
    """A pod is restarted when it is stuck and not when the database is away, and gets calls when it
    is ready: each probe asks the right one of health's services, on the port that speaks gRPC."""
    container = container_of(PODS["deployment"])
    probes = {
        name: container[f"{name}Probe"]["grpc"] for name in ("startup", "liveness", "readiness")
    }

    assert {name: probe["service"] for name, probe in probes.items()} == {
        name: name for name in probes
    }
    assert {probe["service"] for probe in probes.values()} <= HEALTH
    assert {probe["port"] for probe in probes.values()} == {GRPC_PORT}
    # The kubelet speaks no TLS.
    assert settings_of(PODS["deployment"]).allow_plaintext
    assert settings_of(PODS["deployment"]).tls_certificate is None


def test_ports_and_labels_are_the_same_everywhere():
    """Calls and scrapes arrive: ports, names and labels of the manifests agree."""
    container = container_of(PODS["deployment"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    service = MANIFESTS["service.yaml"]["spec"]
    metadata = PODS["deployment"]["metadata"]
    scrape = metadata["annotations"]
    inward = MANIFESTS["networkpolicy.yaml"]["spec"]["ingress"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}

    assert ports == {"grpc": GRPC_PORT, "http": HTTP_PORT}
    assert environment["TILLSYNC_LISTEN"] == f"0.0.0.0:{GRPC_PORT}"
    assert environment["TILLSYNC_HTTP_LISTEN"] == f"0.0.0.0:{HTTP_PORT}"
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports
    assert (scrape["prometheus.io/port"], scrape["prometheus.io/path"]) == (
        str(HTTP_PORT),
        "/metrics",
    )
    assert scrape["prometheus.io/path"] in HTTP_PATHS
    assert [port["port"] for rule in inward for port in rule["ports"]] == [GRPC_PORT, HTTP_PORT]
    assert all("from" in rule for rule in inward)
    assert metadata["labels"] == service["selector"] == LABELS
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == LABELS
    assert MANIFESTS["poddisruptionbudget.yaml"]["spec"]["selector"]["matchLabels"] == LABELS
    (chosen,) = MANIFESTS["networkpolicy.yaml"]["spec"]["podSelector"]["matchExpressions"]
    assert chosen["values"] == [
        LABELS["app.kubernetes.io/name"],
        PODS["job"]["metadata"]["labels"]["app.kubernetes.io/name"],
    ]


def test_a_pod_is_given_the_time_that_it_takes_to_stop():
    """No call is cut by a deployment: a pod leaves the balancer, finishes, and only then ends."""
    container = container_of(PODS["deployment"])
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    notice = float(environment["TILLSYNC_DRAIN_NOTICE_SECONDS"])
    readiness = container["readinessProbe"]

    stops_within = notice + settings_of(PODS["deployment"]).stop_grace_seconds
    assert PODS["deployment"]["spec"]["terminationGracePeriodSeconds"] > stops_within
    assert notice > readiness["periodSeconds"] * readiness["failureThreshold"]
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert (
        MANIFESTS["poddisruptionbudget.yaml"]["spec"]["maxUnavailable"]
        < DEPLOYMENT["spec"]["replicas"]
    )


def test_the_keys_are_where_the_service_looks_and_for_its_group():
    """The service refuses keys that others can read: the secret is mounted for its group, whole, so
    that rotated keys arrive."""
    spec, container = PODS["deployment"]["spec"], container_of(PODS["deployment"])
    (keys,) = [volume for volume in spec["volumes"] if "secret" in volume]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == keys["name"]]

    assert keys["secret"]["defaultMode"] == 0o440
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]
    assert str(settings_of(PODS["deployment"]).signing_keys.parent) == mount["mountPath"]
    assert "subPath" not in mount
