"""The chart renders to objects that Kubernetes accepts, and that ask for no right they do not need."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.config import load

KUBERNETES = "1.34.0"
Objects = dict[str, dict[str, Any]]

OPTIONS = [
    *("--set", "resources.limits.cpu=2"),
    *("--set", "secretEnv[0].name=KAFKA_PASSWORD,secretEnv[0].secret=pumps-kafka,secretEnv[0].key=password"),
    *("--set", "secretFiles[0].secret=pumps-tls,secretFiles[0].mountPath=/etc/penstock-tls"),
    *("--set", "networkPolicy.kafka.to[0].ipBlock.cidr=10.0.0.0/8"),
    *("--set", "networkPolicy.extraEgress[0].ports[0].port=8081"),
    *("--set", "files.statistics\\.json=[]"),
    *("--set", "image.pullSecrets[0]=registry"),
]


def call(helm: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm, *map(str, arguments)], check=False, capture_output=True, text=True)


def render(helm: str, root: Path, *options: str) -> Objects:
    done = call(helm, "template", "pumps", root / "helm", "--kube-version", KUBERNETES, *options)
    assert done.returncode == 0, done.stderr
    return {thing["kind"]: thing for thing in yaml.safe_load_all(done.stdout)}


@pytest.fixture(scope="module")
def objects(helm: str, root: Path) -> Objects:
    return render(helm, root)


@pytest.fixture(scope="module")
def pod(objects: Objects) -> dict[str, Any]:
    spec: dict[str, Any] = objects["StatefulSet"]["spec"]["template"]["spec"]
    return spec


def test_strict_lint_has_nothing_to_say(helm: str, root: Path) -> None:
    done = call(helm, "lint", "--strict", root / "helm", "--kube-version", KUBERNETES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("options", [[], OPTIONS], ids=["defaults", "options"])
def test_kubernetes_accepts_every_object(helm: str, root: Path, options: list[str]) -> None:
    rendered = render(helm, root, *options)
    assert set(rendered) == {
        *("ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount", "StatefulSet"),
    }
    for thing in rendered.values():
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)


def test_the_container_has_no_right_it_does_not_need(objects: Objects, pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert objects["ServiceAccount"]["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["/tmp"]


def test_the_pods_name_is_the_instance(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    names = {variable["name"]: variable for variable in container["env"]}
    assert names["HOSTNAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_the_network_is_closed_but_for_name_resolution_and_kafka(objects: Objects) -> None:
    policy = objects["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 9092}


def test_metrics_are_reachable_where_the_configuration_serves_them(helm: str, root: Path, tmp_path: Path) -> None:
    served = tmp_path / "served.yaml"
    served.write_text((root / "service" / "demo" / "pumps.yaml").read_text() + "metrics: {port: 9090, host: 0.0.0.0}\n")
    prometheus = "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring"
    rendered = render(helm, root, "--set-file", f"config={served}", "--set", prometheus)
    (container,) = rendered["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "metrics", "containerPort": 9090}]
    (rule,) = rendered["NetworkPolicy"]["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == ["metrics"]


def test_selectors_find_the_pods(objects: Objects) -> None:
    labels = objects["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        objects["StatefulSet"]["spec"]["selector"]["matchLabels"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)


def test_the_configuration_arrives_as_it_was_written(helm: str, root: Path) -> None:
    pumps = root / "service" / "demo" / "pumps.yaml"
    rendered = render(helm, root, "--set-file", f"config={pumps}")["ConfigMap"]
    assert rendered["data"]["config.yaml"].strip() == pumps.read_text().strip()


def test_another_configuration_starts_the_pods_again(helm: str, root: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.yaml"
    changed.write_text((root / "service" / "demo" / "pumps.yaml").read_text().replace("app: pumps", "app: other"))
    checksums = {
        render(helm, root, *options)["StatefulSet"]["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        for options in ([], ["--set-file", f"config={changed}"])
    }
    assert len(checksums) == 2


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("replicass=2", "replicass"),
        ("config=app: pumps", "config has no `kafka`"),
        ("config=app: [", "config is not YAML"),
        ("replicas=some", "/replicas"),
    ],
)
def test_a_wrong_value_is_refused_by_name(helm: str, root: Path, option: str, complaint: str) -> None:
    done = call(helm, "template", "pumps", root / "helm", "--kube-version", KUBERNETES, "--set", option)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_pods_of_one_name_are_refused(helm: str, root: Path, tmp_path: Path) -> None:
    fixed = tmp_path / "fixed.yaml"
    fixed.write_text((root / "service" / "demo" / "pumps.yaml").read_text().replace("${HOSTNAME:-local}", "one"))
    done = call(helm, "template", "pumps", root / "helm", "--kube-version", KUBERNETES, "--set-file", f"config={fixed}")
    assert done.returncode != 0
    assert "config needs `instance: ${HOSTNAME}`" in done.stderr


def test_the_default_configuration_is_the_demos(root: Path, tmp_path: Path) -> None:
    demo = root / "service" / "demo"
    text = yaml.safe_load((root / "helm" / "values.yaml").read_text())["config"]
    default = tmp_path / "default.yaml"
    default.write_text(text.replace("/opt/penstock/demo", str(demo)))
    found = load(default, environment={"HOSTNAME": "pumps-0"})
    wanted = load(demo / "pumps.yaml", environment={})
    same = {"inputs", "model", "normalization", "postprocess", "output", "app"}
    assert found.model_dump(include=same) == wanted.model_dump(include=same)
    assert found.instance == "pumps-0"
