"""The server as its users start it: a process, its files, its signals."""

import contextlib
import ctypes
import http.client
import json
import os
import platform
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from processes import workers_of
from serving_fixtures import ROOT, ROW, SERVE, eventually, publish, slow_steps, tiny_models
from serving_fixtures import client_of as _client
from serving_fixtures import process as _process
from tfship.serving.server.settings import cores


def test_a_tflite_server_never_loads_tensorflow(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    ready = tmp_path / "ready.json"
    with _process(
        f"--model_base_path={tmp_path}/m",
        "--port=-1",
        "--rest_api_port=-1",
        "--prefer_tflite_model",
        ready=ready,
    ) as process:
        client = _client(process, ready)
        assert client.rest("/v1/models/default:predict", {"instances": [[1, 2]]})[0] == 200
        np.testing.assert_array_equal(client.predict("default", x=ROW)["y"], ROW)
        workers = workers_of(process.pid)
        assert len(workers) == cores()
        for pid in workers:
            loaded = Path(f"/proc/{pid}/maps").read_text()
            assert "ai_edge_litert" in loaded
            assert "site-packages/tensorflow/" not in loaded
        # The main process imports only what it needs, so that workers start early.
        loaded = Path(f"/proc/{process.pid}/maps").read_text()
        assert "ai_edge_litert" not in loaded
        assert "numpy" not in loaded
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert not ready.exists()
    form = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO server (tfship\.serving[.\w]*): (.*)")
    lines = [match[2] for match in map(form.fullmatch, out.splitlines()) if match]
    assert len(lines) == len(out.splitlines())
    assert lines[0].startswith("model default version 1: loading from ")
    assert lines[1].startswith("model default version 1: available after ")
    assert f"  try: curl http://127.0.0.1:{client.rest_port}/v1/models/default" in lines
    assert lines.index("ready") < lines.index("stopping: requests in flight have 30 s")


def test_a_log_of_json_says_when_who_and_what(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    ready = tmp_path / "ready.json"
    flags = ("--prefer_tflite_model", "--port=-1", "--rest_api_port=-1", "--workers=1")
    with _process(
        f"--model_base_path={tmp_path}/m", *flags, "--log_format=json", "--log_requests", "--mixed_precision=x",
        ready=ready,
    ) as process:  # fmt: skip
        client = _client(process, ready)
        assert client.rest("/v1/models/default:predict", {"instances": [[1, 2]]})[0] == 200
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert all({"time", "level", "worker", "logger"} < set(line) for line in lines)
    assert lines[0]["message"].startswith("--mixed_precision: accepted and ignored: ")
    assert {line["worker"] for line in lines if "message" in line} == {None}
    (request,) = (line for line in lines if "request" in line)
    assert (request["worker"], request["logger"]) == (0, "tfship.serving.requests")
    assert (request["request"]["api"], request["request"]["status"]) == ("Predict", "OK")


def test_sigterm_lets_requests_finish(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    answers: list[Any] = []
    with _process(
        f"--model_base_path={tiny_models()}/slow",
        "--workers=1",
        "--port=-1",
        "--rest_api_port=-1",
        ready=ready,
    ) as process:
        client = _client(process, ready)
        steps = slow_steps(client, 2.5, "default")
        array = np.array([steps], np.int32)
        threads = [
            threading.Thread(target=lambda: answers.append(client.predict("default", n=array)["n"].tolist())),
            threading.Thread(
                target=lambda: answers.append(
                    client.rest("/v1/models/default:predict", {"inputs": [steps]})[1]["outputs"]
                )
            ),
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.4)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", client.rest_port), 1)
        assert not answers
        for thread in threads:
            thread.join()
        assert process.wait() == 0
    assert answers == [[steps], [steps]]


def test_health_says_no_before_the_server_goes(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    ready = tmp_path / "ready.json"
    arguments = ("--prefer_tflite_model", "--enable_grpc_healthcheck_service", "--port=-1")
    with _process(f"--model_base_path={tmp_path}/m", *arguments, ready=ready) as process:
        client = _client(process, ready)
        with client.channel() as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            states = stub.Watch(health_pb2.HealthCheckRequest(service="ModelService"), timeout=100)
            assert next(states).status == health_pb2.HealthCheckResponse.SERVING
            process.send_signal(signal.SIGTERM)
            assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
            states.cancel()
        assert process.wait() == 0


# The system call that sends a signal to one thread, by machine.
_TGKILL = {"x86_64": 234, "aarch64": 131}.get(platform.machine())


@pytest.mark.skipif(_TGKILL is None, reason="tgkill's number isn't known for this machine")
def test_a_signal_that_another_thread_takes_ends_it(tmp_path: Path) -> None:
    """The kernel may give a signal to any thread; the main thread's wait then goes on."""
    publish(tmp_path / "m", 1)
    ready = tmp_path / "ready.json"
    arguments = ("--prefer_tflite_model", "--workers=0", "--port=-1")
    with _process(f"--model_base_path={tmp_path}/m", *arguments, ready=ready) as process:
        _client(process, ready)
        time.sleep(0.5)  # the main thread then waits
        threads = sorted(int(each.name) for each in Path(f"/proc/{process.pid}/task").iterdir())
        assert ctypes.CDLL(None).syscall(_TGKILL, process.pid, threads[-1], signal.SIGTERM) == 0
        assert process.wait() == 0


def _catches(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["SigCgt"], 16) >> (number - 1) & 1)


def test_a_full_disk_for_the_log_fails_no_request(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    ready = tmp_path / "ready.json"
    flags = ("--port=-1", "--rest_api_port=-1", "--prefer_tflite_model", "--workers=2", "--log_requests")
    command = [*SERVE, f"--model_base_path={tmp_path}/m", *flags, f"--ready_file={ready}"]
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True) as process,
    ):
        client = _client(process, ready)

        def answers() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException, grpc.RpcError):
                status, _ = client.rest("/v1/models/default:predict", {"instances": [[1, 2]]})
                return status == 200 and np.array_equal(client.predict("default", x=ROW)["y"], ROW)
            return False

        assert all(answers() for _ in range(20))
        before = workers_of(process.pid)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(workers_of(process.pid) - before) == 2 and answers())
        process.terminate()
        _, err = process.communicate()
    assert (process.returncode, "Error" in err) == (0, False), err


def test_sigterm_during_the_start_ends_it(tmp_path: Path) -> None:
    with _process(f"--model_base_path={tiny_models()}/double", "--port=-1") as process:
        while not _catches(process.pid, signal.SIGTERM):
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)  # the workers import TensorFlow, which takes longer
        _, err = process.communicate()
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("flag", ["port", "rest_api_port"])
def test_a_port_in_use_is_found_before_anything_is_loaded(flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = "--port=-1" if flag == "rest_api_port" else "--rest_api_port=-1"
        with _process(f"--{flag}={port}", other, f"--model_base_path={tiny_models()}/double") as process:
            out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert (
        err
        == f"error: 127.0.0.1:{port}: can't listen there (Address already in use); choose another address or port\n"
    )


def test_two_servers_can_not_share_a_grpc_port(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    ready = tmp_path / "ready.json"
    argv = (f"--model_base_path={tmp_path}/m", "--prefer_tflite_model")
    with _process(*argv, "--port=-1", ready=ready) as first:
        port = _client(first, ready).grpc_port
        with _process(*argv, f"--port={port}") as second:
            _, err = second.communicate()
        assert (second.returncode, "can't listen" in err) == (2, True)
