"""The committed manifests: valid by Kubernetes' schemas, equal to their sources, and consistent in themselves."""

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from conftest import ROOT
from tfship.serving.kubernetes import kustomize, manifests
from tfship.serving.kubernetes.manifests import FOLDER, OVERLAYS, Manifest
from tfship.serving.server import flags

TRAINING = ROOT / "train" / "kubernetes" / "job.yaml"
# The first version with image volumes, and the newest one.
VERSIONS = ("1.33", "1.37")
SERVERS = [name for name, each in OVERLAYS.items() if each.source.startswith("overlays/")]
# Their schemas aren't Kubernetes' own (test_custom_resources.py).
CUSTOM = {"ClusterServingRuntime", "InferenceService", "PrometheusRule", "ScaledObject", "ServiceMonitor"}
METRICS = set(re.findall(r"^\| `([\w:]+)` \|", (ROOT / "serving" / "METRICS.md").read_text(), re.MULTILINE))


def one(overlay: str, kind: str) -> Manifest:
    (found,) = (each for each in manifests.documents(overlay) if each["kind"] == kind)
    return found


def containers() -> Iterator[tuple[str, Manifest]]:
    """Yield all containers of the server, with the overlay's name."""
    for name in OVERLAYS:
        for each in manifests.documents(name):
            if each["kind"] == "Deployment":
                yield name, each["spec"]["template"]["spec"]["containers"][0]
            elif each["kind"] == "ClusterServingRuntime":
                yield f"{name}: {each['metadata']['name']}", each["spec"]["containers"][0]


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_match_the_schemas_of_kubernetes(version: str) -> None:
    found = [each for name in OVERLAYS for each in manifests.documents(name)]
    found += yaml.safe_load_all(TRAINING.read_text())
    # Most overlays have the same Services and more; a schema takes a fifth of a second.
    distinct = [json.loads(each) for each in sorted({json.dumps(each) for each in found})]
    built_in = [each for each in distinct if each["kind"] not in CUSTOM]
    for each in built_in:
        kubernetes_validate.validate(each, version, strict=True)
    assert {each["kind"] for each in built_in} >= {"Deployment", "HorizontalPodAutoscaler", "Job", "Service"}


def test_a_wrong_field_is_found() -> None:
    wrong = one("volume", "Deployment")
    wrong["spec"]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["slep"] = {"seconds": 1}
    with pytest.raises(kubernetes_validate.ValidationError, match="slep"):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_rendered_files_equal_their_sources() -> None:
    """By the kustomize in kubectl, of version 5. `make lint` compares with the locked one, which takes seconds."""
    kubectl, installed = shutil.which("kubectl"), kustomize.program()
    if not (kubectl or installed):
        pytest.skip("no third-party client: neither kubectl nor kustomize is installed")
    command = [kubectl, "kustomize"] if kubectl else [str(installed), "build"]
    for name in OVERLAYS:
        assert manifests.rendered(name).read_text() == kustomize.build(command, name), name
    assert {each.stem for each in (FOLDER / "rendered").iterdir()} == set(OVERLAYS)


def test_flags_are_the_servers() -> None:
    for name, container in containers():
        parsed = flags.parse(container["args"])
        assert parsed.model_base_path, name
        # Flags without effect here would be a mistake, except in the manifest for the official image.
        assert flags.ignored(parsed) == [], name


@pytest.mark.parametrize("overlay", SERVERS)
def test_the_grace_period_fits_the_wait_and_the_drain(overlay: str) -> None:
    pod = one(overlay, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    wait = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    # The official image ends at once.
    drain = 0 if overlay == "official" else flags.parse(container["args"]).shutdown_grace_seconds
    assert wait + drain < pod["terminationGracePeriodSeconds"]
    # The wait is longer than it takes a pod that isn't ready to leave the endpoints by its probe.
    probe = container["readinessProbe"]
    assert wait >= probe["periodSeconds"] * probe["failureThreshold"]


def test_the_grace_period_of_kserve_fits_the_wait_and_the_drain() -> None:
    (drain,) = {
        flags.parse(each["spec"]["containers"][0]["args"]).shutdown_grace_seconds
        for each in manifests.documents("kserve-runtimes")
    }
    for name in ("kserve-volume", "kserve-s3", "kserve-oci"):
        predictor = one(name, "InferenceService")["spec"]["predictor"]
        wait = predictor["model"]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert wait + drain < predictor["terminationGracePeriodSeconds"]
    # Knative accepts neither.
    predictor = one("kserve-canary", "InferenceService")["spec"]["predictor"]
    assert "lifecycle" not in predictor["model"]
    assert "terminationGracePeriodSeconds" not in predictor


@pytest.mark.parametrize("overlay", SERVERS)
def test_selectors_find_the_pods(overlay: str) -> None:
    found = {each["kind"]: each for each in manifests.documents(overlay)}
    template = found["Deployment"]["spec"]["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    ports = {each["name"] for each in pod["containers"][0]["ports"]}
    services = [each for each in manifests.documents(overlay) if each["kind"] == "Service"]
    spreads = pod["topologySpreadConstraints"]
    for selector in (
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        *(each["spec"]["selector"] for each in services),
        *(each["labelSelector"]["matchLabels"] for each in spreads),
    ):
        assert selector == labels
    for service in services:
        assert {each["targetPort"] for each in service["spec"]["ports"]} <= ports
    headless = [each for each in services if each["spec"].get("clusterIP") == "None"]
    assert [[port["name"] for port in each["spec"]["ports"]] for each in headless] == [["grpc"]]
    # One Service is scraped, or pods would count twice.
    wanted = found["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()
    scraped = [each["metadata"]["name"] for each in services if wanted <= each["metadata"]["labels"].items()]
    assert scraped == ["cnn"]


@pytest.mark.parametrize("overlay", SERVERS)
def test_names_that_objects_refer_to_exist(overlay: str) -> None:
    found = manifests.documents(overlay)
    names = {(each["kind"], each["metadata"]["name"]) for each in found}
    pod = one(overlay, "Deployment")["spec"]["template"]["spec"]
    assert ("ServiceAccount", pod["serviceAccountName"]) in names
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert ("ConfigMap", volumes["config"]["configMap"]["name"]) in names
    assert {each["name"] for each in pod["containers"][0]["volumeMounts"]} == set(volumes)
    if overlay == "keda":
        assert ("Deployment", one(overlay, "ScaledObject")["spec"]["scaleTargetRef"]["name"]) in names
        # KEDA makes the other one.
        assert not {each for each in names if each[0] == "HorizontalPodAutoscaler"}
    else:
        target = one(overlay, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in names


@pytest.mark.parametrize("overlay", SERVERS)
def test_pods_are_restricted(overlay: str) -> None:
    """What Kubernetes' Pod Security Standard "restricted" demands, and a read-only root."""
    pod = one(overlay, "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True
        }  # fmt: skip
        assert set(container["resources"]) == {"requests", "limits"}


def test_the_user_is_the_images() -> None:
    (user,) = set(re.findall(r"^USER (\d+):", (ROOT / "serving/docker/Dockerfile").read_text(), re.MULTILINE))
    pod = one("volume", "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == int(user)


def metrics_of(text: str) -> set[str]:
    """Return the names of the server's metrics in PromQL, without the parts of histograms."""
    names = set(re.findall(r"(?<![\w:])(?::[a-z]+(?::[a-z_]+)+|process_[a-z_]+)", text))
    return {each if each in METRICS else re.sub("_(bucket|sum|count)$", "", each) for each in names}


def test_queries_use_the_servers_metrics() -> None:
    adapter = yaml.safe_load((FOLDER / "components/hpa/prometheus_adapter.yaml").read_text())
    board = json.loads((FOLDER / "components/monitoring/dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [each["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    rules = [rule for group in one("volume", "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
    queries += [each["expr"] for each in rules]
    queries += [each["metadata"]["query"] for each in one("keda", "ScaledObject")["spec"]["triggers"]]
    queries += [each["seriesQuery"] for each in adapter["rules"]["custom"]]
    for query in queries:
        # `up` is Prometheus' own.
        assert metrics_of(query) or query.startswith("up{"), query
        assert metrics_of(query) <= METRICS, query
    # The official image has none of the others.
    official = json.dumps(one("official", "PrometheusRule"))
    assert {each for each in metrics_of(official) if each.startswith(":tfship:")} == set()


def test_the_adapter_gives_the_autoscaler_its_metric() -> None:
    adapter = yaml.safe_load((FOLDER / "components/hpa/prometheus_adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert re.fullmatch(rule["name"]["matches"], ":tfship:requests_in_flight")
    metrics: Any = one("volume", "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert [each["pods"]["metric"]["name"] for each in metrics] == [rule["name"]["as"]]
    # Both ways of scaling have the same target.
    trigger = one("keda", "ScaledObject")["spec"]["triggers"][0]["metadata"]
    assert metrics[0]["pods"]["target"]["averageValue"] == trigger["threshold"]
