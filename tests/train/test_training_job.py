"""The Kubernetes Job for training on several hosts gives each worker a TF_CONFIG that training accepts."""

import os
import subprocess
import sys
from typing import Any

import pytest
import yaml

from conftest import ROOT
from tfship.train import workers
from tfship.train.workers import Workers

SERVICE, JOB = yaml.safe_load_all((ROOT / "train" / "kubernetes" / "job.yaml").read_text())
POD: dict[str, Any] = JOB["spec"]["template"]["spec"]
SHOW = (sys.executable, "-c", "import os; print(os.environ['TF_CONFIG'])")


@pytest.mark.parametrize("index", [0, 1])
def test_each_worker_gets_its_index_and_all_addresses(index: int) -> None:
    (container,) = POD["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    done = subprocess.run(
        # The manifest's own line, which runs the arguments.
        [*container["command"], *SHOW],
        env={**os.environ, **variables, "JOB_COMPLETION_INDEX": str(index)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    name, (port,) = JOB["metadata"]["name"], SERVICE["spec"]["ports"]
    service = SERVICE["metadata"]["name"]
    addresses = [f"{name}-{each}.{service}:{port['port']}" for each in range(JOB["spec"]["completions"])]
    assert workers._parse(done.stdout) == (Workers(index, 2), addresses)


def test_the_service_finds_the_pods() -> None:
    assert POD["subdomain"] == SERVICE["metadata"]["name"]
    # Kubernetes gives pods this label.
    assert SERVICE["spec"]["selector"] == {"job-name": JOB["metadata"]["name"]}
    assert SERVICE["spec"]["publishNotReadyAddresses"] is True
    (container,) = POD["containers"]
    assert {"name": "WORKERS", "value": str(JOB["spec"]["completions"])} in container["env"]
    assert JOB["spec"]["completions"] == JOB["spec"]["parallelism"]
