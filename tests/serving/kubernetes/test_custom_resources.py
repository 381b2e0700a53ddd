"""Objects that aren't Kubernetes' own, and policies, by packages of other makers in environments made for them."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tfship.serving.kubernetes import manifests
from tfship.serving.kubernetes.manifests import OVERLAYS, Manifest
from tfship.serving.kubernetes.render import Rendering, render
from third_party_clients import environments

# Findings of checkov that are accepted, with the reason.
ACCEPTED = {
    "CKV_K8S_15": "pulling an image by digest always would only make a start depend on the registry",
    "CKV_K8S_35": "the SDKs of object storage read their keys from the environment",
}
DIGEST = f"registry.example/tfship@sha256:{'0' * 64}"


def custom(*groups: str) -> list[Manifest]:
    found = [each for name in OVERLAYS for each in manifests.documents(name)]
    return [each for each in found if each["apiVersion"].startswith(groups)]


def lines(command: Sequence[str | Path], manifests: list[Manifest]) -> list[str]:
    done = subprocess.run(
        command, input=json.dumps(manifests), capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_keda_and_prometheus_operator(tmp_path_factory: pytest.TempPathFactory) -> None:
    modules = environments.kubernetes_models(tmp_path_factory)
    command = (environments.program("node"), environments.DRIVERS / "kubernetes_models.mjs", modules)
    found = custom("keda.sh/", "monitoring.coreos.com/")
    assert {each["kind"] for each in found} == {"PrometheusRule", "ScaledObject", "ServiceMonitor"}
    assert lines(command, found) == []
    for each in found:
        each["spec"] = dict.fromkeys(each["spec"], 5)
    assert len(lines(command, found)) == len(found)


def test_kserve(tmp_path_factory: pytest.TempPathFactory) -> None:
    command = (environments.kserve(tmp_path_factory), environments.DRIVERS / "kserve_models.py")
    found = custom("serving.kserve.io/")
    assert {each["kind"] for each in found} == {"ClusterServingRuntime", "InferenceService"}
    assert lines(command, found) == []
    for each in found:
        each["spec"]["unknown"] = 1
    assert len(lines(command, found)) == len(found)


@pytest.mark.parametrize("overlay", [name for name, each in OVERLAYS.items() if each.serves_image])
def test_policies(overlay: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    python = environments.checkov(tmp_path_factory)
    location = {"oci": "registry.example/cnn:1", "object-storage": "s3://bucket/cnn"}.get(overlay)
    choice = Rendering(overlay=overlay, location=location, namespace="ml", image=DIGEST)
    (tmp_path / f"{overlay}.yaml").write_text(render(choice))
    done = subprocess.run(
        [
            python, "-m", "checkov.main", "--directory", tmp_path, "--framework", "kubernetes", "--output", "json",
            "--skip-download",
        ],
        env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    results: Any = json.loads(done.stdout)
    if overlay == "kserve-runtimes":  # checkov doesn't know the kind
        assert "results" not in results or not results["results"]["failed_checks"]
        return
    failed = {each["check_id"]: each["check_name"] for each in results["results"]["failed_checks"]}
    assert results["summary"]["passed"] > 50
    assert {key: name for key, name in failed.items() if key not in ACCEPTED} == {}
