"""A published version, as KServe's storage initializer copies it for a pod."""

import subprocess
from pathlib import Path

import pytest

from object_storage.s3_server import moto, s3_bucket
from object_storage.versions import exported
from serving_fixtures import client_of, factor, process
from tfship.export.storage.remote_versions import RemoteServable
from third_party_clients import environments

URL = "s3://kserve/models/m"


def test_the_initializer_makes_a_base_path_that_the_server_verifies(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    python = environments.kserve_storage(tmp_path_factory)
    version = exported(tmp_path / "models", 1)
    with moto() as port, s3_bucket(port, "kserve"):
        RemoteServable(URL).upload(version, lambda count: None)
        copy = f"from kserve_storage import Storage; Storage.download({URL!r}, {str(tmp_path / 'mnt')!r})"
        subprocess.run([python, "-c", copy], check=True, capture_output=True, timeout=600)
    ready = tmp_path / "ready.json"
    flags = ["--model_name=m", f"--model_base_path={tmp_path / 'mnt'}", "--port=-1", "--rest_api_port=-1"]
    with process(*flags, "--runtime=tflite", "--workers=1", "--verify_versions", ready=ready) as started:
        assert factor(client_of(started, ready)) == 1.0
        started.terminate()
        assert "verified 2 files by export.json" in "".join(started.communicate())
