"""Workers that are replaced while something is missing: file descriptors, or the files of a version."""

import contextlib
import http.client
import os
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processes import workers_of
from serving_fixtures import Client, client_of, eventually, poison, process, publish
from tfship.serving.server.model_server import ANY_PORT, Settings
from tfship.serving.server.worker_pool import WorkerPool
from tfship.train.common.errors import TfshipError


@contextlib.contextmanager
def _served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """Serve the models m, version 1, and n, version 2, by one worker."""
    publish(tmp_path / "m", 1)
    publish(tmp_path / "n", 2)
    entries = (
        f'config {{ name: "{name}" base_path: "{tmp_path / name}" model_platform: "tensorflow" }}'
        for name in "mn"
    )
    config, ready = tmp_path / "models.config", tmp_path / "ready.json"
    config.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    flags = ("--prefer_tflite_model", "--workers=1", f"--port={ANY_PORT}", f"--rest_api_port={ANY_PORT}")
    with process(f"--model_config_file={config}", *flags, ready=ready) as started:
        yield started, client_of(started, ready)


def _kill_worker(started: subprocess.Popen[str]) -> int:
    (worker,) = workers_of(started.pid)
    os.kill(worker, signal.SIGKILL)
    return worker


def _ask(client: Client, model: str) -> tuple[int, Any]:
    """Return the status and the answer, or 0 where no worker listens."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return client.rest(f"/v1/models/{model}:predict", {"instances": [[1, 0]]})
    return 0, None


def _ended(started: subprocess.Popen[str]) -> str:
    started.send_signal(signal.SIGTERM)
    out, _ = started.communicate()
    assert started.returncode == 0
    return out


def test_a_replacement_serves_what_it_can_load_and_later_the_rest(tmp_path: Path) -> None:
    with _served(tmp_path) as (started, client):
        (tmp_path / "n").rename(tmp_path / "gone")
        _kill_worker(started)
        eventually(lambda: _ask(client, "m")[0] == 200)
        status, answer = _ask(client, "n")
        assert (status, "Model n version 2 could not be loaded by the worker" in answer["error"]) == (
            503,
            True,
        )
        assert client.rest("/v1/models/n/metadata")[0] == 503
        (tmp_path / "gone").rename(tmp_path / "n")
        eventually(lambda: _ask(client, "n") == (200, {"predictions": [[2.0, 0.0]]}))
        # New versions replace one that was loaded late.
        publish(tmp_path / "n", 3)
        eventually(lambda: _ask(client, "n") == (200, {"predictions": [[3.0, 0.0]]}))
        out = _ended(started)
    (line,) = (each for each in out.splitlines() if "can't be loaded" in each)
    assert f"worker 0: {tmp_path}/n/2: can't be loaded: {tmp_path}/n/2: no such directory" in line
    assert f"worker 0: {tmp_path}/n/2: loaded" in out


def test_a_version_that_a_worker_lacks_can_be_unloaded(tmp_path: Path) -> None:
    with _served(tmp_path) as (started, client):
        (tmp_path / "n" / "2" / "model.tflite").unlink()
        _kill_worker(started)
        eventually(lambda: _ask(client, "m")[0] == 200)
        assert _ask(client, "n")[0] == 503
        publish(tmp_path / "n", 3)
        eventually(lambda: _ask(client, "n") == (200, {"predictions": [[3.0, 0.0]]}))
        eventually(lambda: client.states("n") == {"3": "AVAILABLE", "2": "END"})
        assert "Traceback" not in _ended(started)


def test_a_version_that_kills_every_replacement_is_left_out(tmp_path: Path) -> None:
    with _served(tmp_path) as (started, client):
        (tmp_path / "n" / "2" / "model.tflite").write_bytes(poison())
        _kill_worker(started)
        eventually(lambda: _ask(client, "m")[0] == 200)
        assert _ask(client, "n")[0] == 503
        out = _ended(started)
    assert out.count("has died (signal 11)") == 2
    assert "n/2: not loaded, because 2 workers died while they loaded it" in out


def test_a_worker_that_cannot_be_started_is_tried_again_ever_more_slowly(tmp_path: Path) -> None:
    with _served(tmp_path) as (started, client):
        assert started.stdout
        limits = resource.prlimit(started.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(started.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        _kill_worker(started)
        lines: list[str] = []
        for line in started.stdout:
            if "worker 0" in line:
                lines.append(line)
            if "next try in 2 s" in line or len(lines) > 4:
                break
        died, *tries = lines
        assert "has died (signal 9); starting a replacement" in died
        assert [re.findall("can't be started: .*; next try in (.*) s", each) for each in tries] == [
            ["0.5"],
            ["1"],
            ["2"],
        ]
        resource.prlimit(started.pid, resource.RLIMIT_NOFILE, limits)
        eventually(lambda: _ask(client, "m")[0] == _ask(client, "n")[0] == 200)
        _ended(started)


def test_workers_that_cannot_be_started_at_all_are_an_error() -> None:
    pool = WorkerPool(Settings(workers=2), lambda config: None)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(
            TfshipError, match="2 worker processes can't be started .*; pass a smaller --workers"
        ):
            pool.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        pool.close()
