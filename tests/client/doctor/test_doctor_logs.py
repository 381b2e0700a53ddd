"""What the doctor says of a server's log, each fault made for real."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from doctor_fixtures import diagnose, folder_of_models, free_port
from serving_fixtures import poison, process, publish


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models with the version cnn/1."""
    return folder_of_models(tmp_path)


# What a real TensorFlow Serving said.
LOGS = {
    "E file_system_storage_path_source.cc:416] FileSystemStoragePathSource encountered a filesystem access error: "
    "Could not find base path /models/cnn for servable cnn with error NOT_FOUND: /models/cnn not found": (
        "the base path /models/cnn doesn't exist where the server runs",
        "-v /path/on/this/machine:/models/cnn:ro",
    ),
    "W file_system_storage_path_source.cc:268] No versions of servable cnn found under base path /models/cnn. Did you "
    "forget to name your leaf directory as a number (eg. '/1/')?": (
        "the base path /models/cnn holds no folder named by an integer",
        "/models/cnn/1",
    ),
    "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: {{{name: default version: 1} due "
    "to error: OUT_OF_RANGE: Read less bytes than requested}, }": (
        "saved_model.pb is damaged",
        "copy or export",
    ),
    "Failed to start server. Error: INVALID_ARGUMENT: Expected model default to have an absolute path or URI; got "
    "base_path()=models/div": ("the base path 'models/div' is relative", "give an absolute path"),
    "Failed to start server. Error: FAILED_PRECONDITION: Request to assign label to version 124 of model hp2v, which "
    "is not currently available for inference": (
        "a label of model hp2v names version 124",
        "--allow_version_labels_for_unavailable_models",
    ),
    "Failed to start server. Error: INVALID_ARGUMENT: Model a requests unsupported platform foo": (
        "the config requests the platform 'foo'",
        'model_platform: "tensorflow"',
    ),
}


@pytest.mark.parametrize("words", LOGS)
def test_the_servers_log(words: str, models: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"I cc:1] Running initialization op on SavedModel\n{words}\n{words}\n")
    meaning, remedy = LOGS[words]
    last = diagnose(f"--rest=127.0.0.1:{free_port()}", "--models", models, "--log", log).faults[-1]
    assert meaning in last
    assert remedy in last


def test_a_log_of_our_own_server(models: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with process("--model_name=cnn", f"--model_base_path={models / 'none'}", "--port=-1") as server:
        log.write_text(server.communicate()[1])
    last = diagnose(f"--rest=127.0.0.1:{free_port()}", "--models", models, "--log", log).faults[-1]
    assert f"the base path {models / 'none'} doesn't exist" in last


def test_a_port_that_another_process_has(models: Path, tmp_path: Path) -> None:
    log, served = tmp_path / "log", f"--model_base_path={models / 'cnn'}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with process(
            "--model_name=cnn", served, "--port=-1", f"--rest_api_port={port}", "--workers=1"
        ) as server:
            log.write_text(server.communicate()[1])
    last = diagnose(f"--grpc=127.0.0.1:{free_port()}", "--models", models, "--log", log).faults[-1]
    assert "another process uses the port" in last


# A root that may read everything would see no fault: it is one that may not.
AS_ANYONE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


@pytest.mark.skipif(bool(AS_ANYONE) and shutil.which("setpriv") is None, reason="root, and no setpriv")
@pytest.mark.parametrize("closed", ["", "1/model.tflite"], ids=["base path", "file"])
def test_what_the_servers_user_may_not_read(models: Path, tmp_path: Path, closed: str) -> None:
    log, base = tmp_path / "log", tmp_path / "closed"
    publish(base, 1)
    (base / closed).chmod(0)
    try:
        done = subprocess.run(
            [*AS_ANYONE, sys.executable, "-m", "tfship.serving.command",
             f"--model_base_path={base}", "--prefer_tflite_model",
             "--port=-1", "--rest_api_port=-1", "--workers=1"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        (base / closed).chmod(0o755)
    assert done.returncode != 0
    log.write_text(done.stderr)
    last = diagnose(f"--rest=127.0.0.1:{free_port()}", "--models", models, "--log", log).faults[-1]
    assert "the server's user may not read the files" in last
    assert "chmod -R a+rX" in last


def test_a_version_that_ends_the_process(models: Path, tmp_path: Path) -> None:
    log, base = tmp_path / "log", tmp_path / "poison"
    publish(base, 1, poison())
    with process(
        f"--model_base_path={base}", "--prefer_tflite_model", "--rest_api_port=-1", "--port=-1"
    ) as server:
        log.write_text(server.communicate()[1])
    last = diagnose(f"--rest=127.0.0.1:{free_port()}", "--models", models, "--log", log).faults[-1]
    assert "loading the version kills the server's process" in last


def test_a_version_that_does_not_fit_the_memory(models: Path, tmp_path: Path) -> None:
    log, base = tmp_path / "log", tmp_path / "large"
    publish(base, 1)
    with (base / "1" / "model.tflite").open("r+b") as file:
        file.truncate(8 << 30)  # of which the disk holds a few KB
    limit = "import resource, runpy; resource.setrlimit(resource.RLIMIT_AS, (4 << 30,) * 2);"
    serve = "runpy.run_module('tfship.serving.command', run_name='__main__')"
    ports = ("--port=-1", "--rest_api_port=-1", "--workers=1")
    done = subprocess.run(
        [sys.executable, "-c", limit + serve, f"--model_base_path={base}", "--prefer_tflite_model", *ports],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    log.write_text(done.stderr)
    last = diagnose(f"--rest=127.0.0.1:{free_port()}", "--models", models, "--log", log).faults[-1]
    assert "the server has too little memory for the version" in last
