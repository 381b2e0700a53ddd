"""Manifests for one's own model: the rendered manifests of an overlay, with names, location and sizes replaced."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tfship.serving.kubernetes import manifests
from tfship.serving.kubernetes.manifests import CLAIM, IMAGE, OBJECTS, OVERLAYS, Manifest
from tfship.train.common.errors import UsageError

__all__ = ["MODEL", "Rendering", "check", "render"]

# The model in the committed manifests.
MODEL = "cnn"
_MODEL = re.compile(rf"(?<![A-Za-z0-9_]){MODEL}(?![A-Za-z0-9_])")
# The longest name of a Service, at most 63 characters, is the model's with the suffix -headless.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,52}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CLAIM = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(/[A-Za-z0-9._-]+)*/?")
_URL = re.compile(r"([a-z0-9]+)://[A-Za-z0-9._-]+(:[0-9]+)?(/[A-Za-z0-9._=+@-]+)*/?")
_IMAGE = re.compile(
    r"([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9._-]+(/[a-z0-9._-]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(@sha256:[0-9a-f]{64})?"
)
_MONITORING = ("ServiceMonitor", "PrometheusRule")
_CLUSTER = "ClusterServingRuntime"


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """The choices of `tfship kubernetes render`; None keeps what the committed manifest has.

    `location` is a claim with a path, a URL or an image, by the overlay. `memory_mib` is the memory to request; the
    limit is twice that. Without `monitoring`, objects of the Prometheus operator and the dashboard are left out.
    """

    overlay: str
    model: str = MODEL
    location: str | None = None
    image: str | None = None
    namespace: str | None = None
    replicas: tuple[int, int] | None = None
    memory_mib: int | None = None
    monitoring: bool = True


def check(choice: Rendering) -> None:
    """Raise UsageError for a choice that is invalid or that the overlay doesn't have."""
    overlay = OVERLAYS[choice.overlay]
    _match(
        _NAME, choice.model, "--model", "lower-case letters, digits and hyphens, at most 54, from a letter on"
    )
    if choice.namespace is not None:
        _match(
            _NAMESPACE, choice.namespace, "--namespace", "lower-case letters, digits and hyphens, at most 63"
        )
    if choice.image is not None:
        if not overlay.serves_image:
            raise UsageError(
                f"--image: the overlay {choice.overlay} names no image of the server; pass it to kserve-runtimes"
            )
        _match(_IMAGE, choice.image, "--image", "an image such as registry.example/tfship:0.1.0")
    if choice.replicas and not overlay.location:
        raise UsageError(f"--replicas: the overlay {choice.overlay} has no replicas; leave it out")
    if choice.location is None:
        if overlay.location in (OBJECTS, IMAGE):
            raise UsageError(f"--location is missing; expected {_expected(choice.overlay)}")
        return
    pattern = {CLAIM: _CLAIM, OBJECTS: _URL, IMAGE: _IMAGE}.get(overlay.location)
    if pattern is None:
        raise UsageError(f"--location: the overlay {choice.overlay} has no models; leave it out")
    location = _plain(choice.location)
    _match(pattern, location, "--location", _expected(choice.overlay))
    scheme = location.partition("://")[0]
    if overlay.schemes and scheme not in overlay.schemes:
        raise UsageError(f"--location {choice.location}: expected {_expected(choice.overlay)}")


def render(choice: Rendering) -> str:
    """Return the manifest as YAML. Raises UsageError if the choice is invalid."""
    check(choice)
    found: list[Manifest] = [_renamed(each, choice.model) for each in manifests.documents(choice.overlay)]
    if not choice.monitoring:
        found = [each for each in found if not _monitors(each)]
    for each in found:
        if edit := _EDITS.get(each["kind"]):
            edit(each, choice)
        if choice.namespace and each["kind"] != _CLUSTER:
            each["metadata"]["namespace"] = choice.namespace
    return manifests.dump(found)


def _expected(overlay: str) -> str:
    found = OVERLAYS[overlay]
    return {
        CLAIM: "CLAIM or CLAIM/PATH, with the model's folder in the volume",
        OBJECTS: f"{', '.join(f'{each}://' for each in found.schemes)}: the URL of the model's folder",
        IMAGE: "the image of `tfship export oci`",
    }[found.location]


def _match(pattern: re.Pattern[str], text: str, flag: str, expected: str) -> None:
    if not pattern.fullmatch(text):
        raise UsageError(f"{flag} {text!r}: expected {expected}")


def _plain(location: str) -> str:
    """Return a location without the schemes that only KServe writes."""
    return location.removeprefix("pvc://").removeprefix("oci://")


def _monitors(manifest: Manifest) -> bool:
    return manifest["kind"] in _MONITORING or "grafana_dashboard" in manifest["metadata"]["labels"]


def _renamed(value: Any, model: str) -> Any:
    """Return parsed YAML with the model's name replaced in names, labels, flags and queries."""
    match value:
        case dict():
            return {_renamed(key, model): _renamed(each, model) for key, each in value.items()}
        case list():
            return [_renamed(each, model) for each in value]
        case str():
            return _MODEL.sub(model, value)
    return value


def _deployment(manifest: Manifest, choice: Rendering) -> None:
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    _container(container, choice)
    if choice.location is None:
        return
    location = _plain(choice.location).rstrip("/")
    match OVERLAYS[choice.overlay].location:
        case "claim":
            claim, _, path = location.partition("/")
            _volume(pod)["persistentVolumeClaim"]["claimName"] = claim
            _flag(container, "model_base_path", f"/models/{path or choice.model}")
        case "objects":
            _flag(container, "model_base_path", location)
            for each in container.get("envFrom", ()):
                each["secretRef"]["name"] = f"{choice.model}-storage"
        case "image":
            _volume(pod)["image"]["reference"] = location


def _volume(pod: Manifest) -> Manifest:
    found: Manifest = next(each for each in pod["volumes"] if each["name"] == "models")
    return found


def _flag(container: Manifest, name: str, value: str) -> None:
    prefix = f"--{name}="
    container["args"] = [prefix + value if each.startswith(prefix) else each for each in container["args"]]


def _container(container: Manifest, choice: Rendering) -> None:
    if choice.image:
        container["image"] = choice.image
    if choice.memory_mib:
        resources = container.setdefault("resources", {"requests": {}, "limits": {}})
        resources["requests"]["memory"] = f"{choice.memory_mib}Mi"
        resources["limits"]["memory"] = f"{2 * choice.memory_mib}Mi"


def _autoscaler(manifest: Manifest, choice: Rendering) -> None:
    if choice.replicas:
        manifest["spec"]["minReplicas"], manifest["spec"]["maxReplicas"] = choice.replicas


def _scaled_object(manifest: Manifest, choice: Rendering) -> None:
    spec = manifest["spec"]
    if choice.replicas:
        spec["minReplicaCount"], spec["maxReplicaCount"] = choice.replicas
        spec["fallback"]["replicas"] = choice.replicas[0]
    if choice.namespace:
        query = spec["triggers"][0]["metadata"]
        query["query"] = query["query"].replace('namespace="default"', f'namespace="{choice.namespace}"')


def _runtime(manifest: Manifest, choice: Rendering) -> None:
    _container(manifest["spec"]["containers"][0], choice)


def _inference_service(manifest: Manifest, choice: Rendering) -> None:
    predictor = manifest["spec"]["predictor"]
    if choice.replicas:
        predictor["minReplicas"], predictor["maxReplicas"] = choice.replicas
    _container(predictor["model"], choice)
    if choice.location is None:
        return
    location = _plain(choice.location).rstrip("/")
    scheme = {CLAIM: "pvc://", OBJECTS: "", IMAGE: "oci://"}[OVERLAYS[choice.overlay].location]
    if OVERLAYS[choice.overlay].location == CLAIM and "/" not in location:
        location += f"/{choice.model}"
    predictor["model"]["storageUri"] = scheme + location


_EDITS: Mapping[str, Callable[[Manifest, Rendering], None]] = {
    "ClusterServingRuntime": _runtime,
    "Deployment": _deployment,
    "HorizontalPodAutoscaler": _autoscaler,
    "InferenceService": _inference_service,
    "ScaledObject": _scaled_object,
}
