"""What `pip install` makes of the repository: commands, and nothing in anyone's way."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from serving_fixtures import Client, eventually, publish


@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools isn't installed")
def test_the_server_is_a_command_and_its_packages_are_out_of_the_way(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = (
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--quiet",
    )
    subprocess.run([*command, "--target", site, _copy(tmp_path / "source")], check=True)
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {"tfship", "bin"}
    publish(tmp_path / "m", 1)
    ready = tmp_path / "ready.json"
    server = subprocess.Popen(
        [
            site / "bin" / "tfship-model-server",
            f"--model_base_path={tmp_path}/m",
            "--prefer_tflite_model",
            "--port=-1",
            "--rest_api_port=-1",
            f"--ready_file={ready}",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        stdout=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: ready.exists() or server.poll() is not None)
        client = Client.of(ready)
        assert client.rest("/v1/models/default:predict", {"instances": [[1, 2]]})[0] == 200
    finally:
        server.terminate()
    assert server.wait() == 0


def _copy(folder: Path) -> Path:
    """Copy what is committed or new: a build leaves files behind, and this folder isn't the test's."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if name.startswith(("train/", "export/", "serving/", "pyproject.toml", "README.md", "LICENSE")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    return folder
