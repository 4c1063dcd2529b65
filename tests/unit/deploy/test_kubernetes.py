"""The Kubernetes manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # it ships no types
import pytest
import yaml

from nexus_auth.adapters.proxies.table import PROXIES
from nexus_auth.entrypoints.settings import all_settings

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"
APPLIED = sorted(path for path in FOLDER.iterdir() if path.suffix in {".yaml", ".yml", ".json"})
"""What `kubectl apply -f` reads of a folder."""
GATEWAY = sorted((FOLDER / "gateway").glob("*.yaml"))
"""The proxy, and the way to it through a gateway."""
OF_GATEWAYS = "gateway.networking.k8s.io/"
"""What Kubernetes itself knows nothing of; `scripts/check_manifests.py` checks these."""
EXAMPLES = sorted(FOLDER.glob("*.example"))


def documents() -> list[tuple[str, dict[str, Any]]]:
    """Every document of every manifest, with a name for it."""
    return [
        (f"{path.name}-{document['kind']}", document)
        for path in [*APPLIED, *GATEWAY, *EXAMPLES]
        for document in yaml.safe_load_all(path.read_text())
    ]


DOCUMENTS = documents()


def the(kind: str, name: str = "nexus-auth") -> dict[str, Any]:
    """The one document of a kind and name."""
    (found,) = [
        document
        for _, document in DOCUMENTS
        if document["kind"] == kind and document["metadata"]["name"] == name
    ]
    return found


CORE = [(n, each) for n, each in DOCUMENTS if not each["apiVersion"].startswith(OF_GATEWAYS)]


@pytest.mark.parametrize("document", [each for _, each in CORE], ids=[n for n, _ in CORE])
def test_manifest_follows_the_schema(document: dict[str, Any]) -> None:
    """Strictly: a misspelt field is an error, not a field that is ignored."""
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(document, version, strict=True)


def test_every_kind_that_a_deployment_needs_is_there() -> None:
    """The promised set of manifests is complete."""
    kinds = {document["kind"] for _, document in DOCUMENTS}
    assert kinds >= {
        "Deployment",
        "Service",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "Secret",
        "ConfigMap",
    }


def test_container_is_locked_down() -> None:
    """No root, no writable root file system, no capabilities, no service account."""
    pod = the("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]


def test_every_setting_in_the_manifests_exists() -> None:
    """A misspelt variable would silently do nothing."""
    (container,) = the("Deployment")["spec"]["template"]["spec"]["containers"]
    named = {each["name"] for each in container["env"]} | set(the("ConfigMap")["data"])
    assert named <= {setting.name for setting in all_settings()}


def test_secrets_come_from_a_secret_alone() -> None:
    """No secret setting stands in the config map or as a plain value."""
    (container,) = the("Deployment")["spec"]["template"]["spec"]["containers"]
    secret = {setting.name for setting in all_settings() if setting.secret}
    assert not secret & set(the("ConfigMap")["data"])
    for each in container["env"]:
        assert "secretKeyRef" in each["valueFrom"]
        assert each["valueFrom"]["secretKeyRef"]["key"]


def test_applying_the_folder_applies_no_secret() -> None:
    """An example would take the place of the operator's own secrets, and everybody knows it."""
    kinds = {
        document["kind"] for path in APPLIED for document in yaml.safe_load_all(path.read_text())
    }
    assert "Secret" not in kinds
    assert "Deployment" in kinds


def test_applying_the_folder_leaves_the_number_of_replicas_to_the_autoscaler() -> None:
    """A number in the deployment would end the replicas that the load has called for."""
    assert "replicas" not in the("Deployment")["spec"]
    scaler = the("HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == the("Deployment")["metadata"]["name"]
    assert scaler["minReplicas"] > the("PodDisruptionBudget")["spec"]["minAvailable"]


def test_certificates_are_read_as_the_proxy_sends_them_that_is_let_in() -> None:
    """Otherwise everybody is denied for want of a certificate."""
    proxy = the("ConfigMap")["data"]["NEXUS_AUTH_PROXY"]
    assert proxy in PROXIES
    assert the("Deployment", f"nexus-auth-{proxy}")["spec"]["template"]["metadata"]["labels"] == {
        "app.kubernetes.io/name": f"nexus-auth-{proxy}"
    }


@pytest.mark.parametrize("name", ["nexus-auth", "nexus-auth-app"])
def test_only_the_proxy_reaches_the_auth_port_and_the_application(name: str) -> None:
    """A certificate is public, and the application believes X-Hotkey."""
    proxy = the("ConfigMap")["data"]["NEXUS_AUTH_PROXY"]
    spec = the("NetworkPolicy", name)["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["podSelector"]["matchLabels"]
    (rule,) = [rule for rule in spec["ingress"] if {"port": "admin"} not in rule["ports"]]
    assert rule["from"] == [
        {"podSelector": {"matchLabels": {"app.kubernetes.io/name": f"nexus-auth-{proxy}"}}}
    ]


def test_the_gateway_passes_tls_on_unopened() -> None:
    """The proxy behind it sees the client's own handshake."""
    (listener,) = the("Gateway")["spec"]["listeners"]
    assert (listener["protocol"], listener["tls"]) == ("TLS", {"mode": "Passthrough"})
    (rule,) = the("TLSRoute")["spec"]["rules"]
    service = the("Service", "nexus-auth-nginx")
    (port,) = service["spec"]["ports"]
    assert rule["backendRefs"] == [{"name": service["metadata"]["name"], "port": port["port"]}]


def test_roll_out_never_takes_a_pod_away_first() -> None:
    """A new pod is ready before an old one goes."""
    spec = the("Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    (container,) = spec["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
