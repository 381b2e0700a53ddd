"""How a container starts, and, where a Docker engine answers, the small image itself.

To have that one tested: `docker pull debian:trixie-slim` first. The first build takes a minute or more and needs a
network; after that its layers are there, and only what changed here is built again.
"""

import contextlib
import functools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from serving_fixtures import ROW, Client, eventually, publish, run, tiny_models
from tfship.serving.protos.messages import get_model_status_pb2
from tfship.serving.server import healthcheck
from tfship.train.common.errors import Unreachable

SERVING = ROOT / "serving"
DOCKERFILE = (SERVING / "docker" / "Dockerfile").read_text()
READY = "/dev/shm/tfship.json"  # where the entry point has it written
FREE_PORTS = ("--host=127.0.0.1", "--port=-1", "--rest_api_port=-1")


# How they start.


def test_the_entry_point_takes_what_the_official_one_takes(tmp_path: Path) -> None:
    publish(tmp_path / "half", 3)
    ready = tmp_path / "ready.json"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MODEL_NAME": "half", "MODEL_BASE_PATH": str(tmp_path)}
    command = [
        "sh",
        "serving/docker/entrypoint.sh",
        "--prefer_tflite_model",
        *FREE_PORTS,
        f"--ready_file={ready}",
    ]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            eventually(lambda: ready.exists() or process.poll() is not None)
            assert process.poll() is None
            content = json.loads(ready.read_text())
            assert content["pid"] == process.pid  # the shell is gone, or it would get the signals
            client = Client(content["grpc_port"], content["rest_port"])
            assert client.rest("/v1/models/half:predict", {"instances": [[1, 2]]}) == (
                200,
                {"predictions": [[3, 6]]},
            )
            assert healthcheck.main([str(ready)]) == 0
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0
        finally:
            process.kill()


def test_a_server_without_rest_is_asked_over_its_grpc_port(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    ready = tmp_path / "ready.json"
    argv = [f"--model_base_path={tmp_path}/m", "--prefer_tflite_model", "--port=-1", f"--ready_file={ready}"]
    with subprocess.Popen(
        [sys.executable, "-m", "tfship.serving.command", *argv], cwd=ROOT, stdout=subprocess.DEVNULL
    ) as process:
        try:
            eventually(lambda: ready.exists() or process.poll() is not None)
            content = ready.read_text()
            assert json.loads(content)["rest_port"] == 0
            assert healthcheck.main([str(ready)]) == 0
        finally:
            process.kill()
    ready.write_text(content)  # a server that died without removing it; its workers end when they see that
    port = json.loads(content)["grpc_port"]
    eventually(lambda: not _listens(port))
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:\d+: doesn't respond \(.*refused"):
        healthcheck.main([str(ready)])


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_that_is_not_ready_is_not_healthy(tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "tfship.serving.server.healthcheck", tmp_path / "ready.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {tmp_path}/ready.json: no such file\n"


# The small image itself, built and run.


@functools.cache
def missing() -> str | None:
    """Why no image can be built here, or None."""
    if shutil.which("docker") is None:
        return "no `docker` here"
    try:
        engine = run("docker", "info", "--format", "{{.OSType}}", timeout=20)
    except subprocess.TimeoutExpired:
        return "`docker info` doesn't answer in 20 s"
    if engine.stdout.strip() != "linux":
        return f"no Docker engine answers ({engine.stderr.strip() or engine.stdout.strip()})"
    base = re.search(r"^ARG BASE=(.+)$", DOCKERFILE, re.MULTILINE)
    assert base is not None
    if run("docker", "image", "inspect", base[1]).returncode:
        return f"Docker has no {base[1]} here; `docker pull {base[1]}` gets it"
    return None


@pytest.fixture(scope="session")
def image() -> str:
    """The small image's tag. It is left there, so that the next run builds only what has changed."""
    if reason := missing():
        pytest.skip(reason)
    tag = "tfship:test"
    arguments = ["--network=host", "--file=serving/docker/Dockerfile", "--target=tflite", f"--tag={tag}"]
    command = ["docker", "build", *arguments, "."]
    try:
        done = run(*command, timeout=200)
    except subprocess.TimeoutExpired:
        pytest.fail(
            f"not built in 200 s; build it once by hand, then its layers are kept: {shlex.join(command)}"
        )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return tag


@dataclass(frozen=True)
class Container:
    name: str

    def exec(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return run("docker", "exec", self.name, *argv)

    def state(self, field: str) -> str:
        return run("docker", "inspect", "--format", f"{{{{.State.{field}}}}}", self.name).stdout.strip()

    def log(self) -> str:
        done = run("docker", "logs", self.name)
        return done.stdout + done.stderr

    def client(self) -> Client:
        """Wait until it is ready, and return a client."""
        eventually(
            lambda: self.exec("test", "-e", READY).returncode == 0 or self.state("Status") == "exited", 60
        )
        assert self.state("Status") == "running", self.log()
        ready = json.loads(self.exec("cat", READY).stdout)
        return Client(ready["grpc_port"], ready["rest_port"])


@contextlib.contextmanager
def container(image: str, models: Path, *argv: str, options: tuple[str, ...] = ()) -> Iterator[Container]:
    """Run the image as the README does, but on free ports: in this machine's network, which any engine has."""
    command = [
        "docker", "run", "--detach", "--network=host", "--read-only", "--cap-drop=ALL",
        "--security-opt=no-new-privileges:true", "--health-interval=1s", f"--volume={models}:/models:ro", *options,
    ]  # fmt: skip
    done = run(*command, image, *FREE_PORTS, *argv)
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    try:
        yield Container(name)
    finally:
        run("docker", "rm", "--force", name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models as the container mounts them."""
    folder = tmp_path_factory.mktemp("container") / "models"
    for version, name in enumerate(("model", "nn", "cnn"), start=2):
        publish(folder / name, version)
    shutil.copytree(tiny_models() / "double", folder / "double")
    return folder


def test_a_container_serves_read_only_and_unprivileged(image: str, folder: Path) -> None:
    with container(image, folder) as server:
        client = server.client()
        assert client.rest("/v1/models/model:predict", {"instances": [[1, 2]]}) == (
            200,
            {"predictions": [[2, 4]]},
        )
        np.testing.assert_array_equal(client.predict("model", x=ROW)["y"], 2 * ROW)
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "model"
        assert client.call("GetModelStatus", request).model_version_status[0].version == 2
        eventually(lambda: server.state("Health.Status") == "healthy")

        assert server.exec("id", "-u").stdout == "10001\n"
        assert server.exec("touch", "/opt/tfship/x", "/models/x").stderr.count("Read-only file system") == 2

        run("docker", "stop", "-t", "20", server.name)
        assert server.state("ExitCode") == "0"
        assert "stopping: requests in flight have 30 s" in server.log()


def test_a_container_takes_the_config_that_compose_mounts(image: str, folder: Path) -> None:
    config = f"--volume={SERVING / 'models.config'}:/config/models.config:ro"
    with container(image, folder, "--model_config_file=/config/models.config", options=(config,)) as server:
        client = server.client()
        assert client.states("nn") == {"3": "AVAILABLE"}
        assert client.states("cnn") == {"4": "AVAILABLE"}


STOP_WORKERS = """
import os, pathlib, signal
for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if b"tfship.serving.server.worker" in file.read_bytes() and int(file.parent.name) != os.getpid():
        os.kill(int(file.parent.name), signal.SIGSTOP)
"""


def test_a_container_that_hangs_is_unhealthy(image: str, folder: Path) -> None:
    with container(image, folder, options=("--health-retries=1", "--health-timeout=2s")) as server:
        server.client()
        eventually(lambda: server.state("Health.Status") == "healthy")
        # First the process that would replace the others; nothing inside can stop it.
        run("docker", "kill", "--signal=STOP", server.name)
        run("docker", "exec", server.name, "python", "-c", STOP_WORKERS)
        eventually(lambda: server.state("Health.Status") == "unhealthy")


def test_a_wrong_flag_is_the_servers_error(image: str) -> None:
    done = run("docker", "run", "--rm", "--network=none", image, "--no_such_flag")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("error: unrecognized arguments: --no_such_flag\n")


def test_the_small_image_says_that_it_runs_no_saved_models(image: str, folder: Path) -> None:
    with container(image, folder, options=("--env=MODEL_NAME=double",)) as server:
        assert run("docker", "wait", server.name).stdout == "4\n"
        assert "/models/double/1: a SavedModel needs TensorFlow, which can't be imported" in server.log()
