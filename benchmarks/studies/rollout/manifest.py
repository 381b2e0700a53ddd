"""Values of the rendered Kubernetes manifests that the study applies to processes on this machine."""

from dataclasses import dataclass
from pathlib import Path

from tfship.serving.kubernetes import manifests
from tfship.serving.kubernetes.manifests import Manifest
from tfship.serving.server import flags

__all__ = ["PodSettings", "canary_percent", "pod_settings"]

_MONITORING = "monitoring.config"
# Flags that name the model, which is elsewhere on this machine.
_MODEL = ("--model_name=", "--model_base_path=", "--monitoring_config_file=")


@dataclass(frozen=True, kw_only=True)
class PodSettings:
    """What the manifest of the overlay `volume` says about a pod; periods and times are in seconds.

    `flags` are the server's, without those of the model. `metrics` is the path of the metrics page. `drain` is the
    server's own grace period.
    """

    flags: tuple[str, ...]
    ready_path: str
    ready_period: int
    ready_timeout: int
    ready_failures: int
    wait: int
    drain: int
    metrics: str


def pod_settings(folder: Path) -> PodSettings:
    """Return the settings in the committed manifest, whose config file is written to `folder`."""
    deployment = _of_kind("volume", "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    arguments: list[str] = container["args"]
    kept = [each for each in arguments if not each.startswith(_MODEL)]
    probe = container["readinessProbe"]
    (endpoint,) = _of_kind("volume", "ServiceMonitor")["spec"]["endpoints"]
    (text,) = (
        each["data"][_MONITORING]
        for each in manifests.documents("volume")
        if each["kind"] == "ConfigMap" and _MONITORING in each["data"]
    )
    config = folder / _MONITORING
    config.write_text(text)
    return PodSettings(
        flags=(*kept, f"--monitoring_config_file={config}"),
        ready_path=probe["httpGet"]["path"],
        ready_period=probe["periodSeconds"],
        ready_timeout=probe["timeoutSeconds"],
        ready_failures=probe["failureThreshold"],
        wait=container["lifecycle"]["preStop"]["sleep"]["seconds"],
        drain=flags.parse(arguments).shutdown_grace_seconds,
        metrics=endpoint["path"],
    )


def canary_percent() -> int:
    """Return the share of requests for the new revision in the overlay `kserve-canary`."""
    percent: int = _of_kind("kserve-canary", "InferenceService")["spec"]["predictor"]["canaryTrafficPercent"]
    return percent


def _of_kind(overlay: str, kind: str) -> Manifest:
    (found,) = (each for each in manifests.documents(overlay) if each["kind"] == kind)
    return found
