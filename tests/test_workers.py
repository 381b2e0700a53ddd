import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from train import cards, cli, workers
from train.__main__ import main
from train.errors import UsageError
from train.workers import ALONE


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def config(addresses: list[str], index: int) -> str:
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


@contextlib.contextmanager
def started(folders: list[Path], *arguments: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a worker for each folder, and see to it that none outlives the test."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(folders))]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "train", "nn", "--models", str(folder), *arguments],
            cwd=ROOT,
            env={**os.environ, "TF_CONFIG": config(addresses, index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, folder in enumerate(folders)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_two_workers_end_with_the_same_weights(tmp_path: Path) -> None:
    """Real processes; one is killed, the other notices, and started again they go on and agree."""
    folders = [tmp_path / "chief", tmp_path / "other"]
    checkpoint = folders[0] / "nn.checkpoint.npz"
    with started(folders, "--epochs", "40") as processes:
        while not checkpoint.exists():
            assert [process.poll() for process in processes] == [None, None]
            time.sleep(0.05)
        processes[1].kill()
        _, error = processes[0].communicate(timeout=60)
        assert processes[0].returncode == 5
        assert re.search(
            r"^error: nn: another worker has gone .* start this command again", error, re.MULTILINE
        )
        assert "Traceback" not in error
    assert checkpoint.exists()

    with started(folders, "--epochs", "40", "--json") as processes:
        outputs = [process.communicate(timeout=200) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], outputs
    chief, other = (json.loads(output)[0] for output, _ in outputs)
    assert re.search(r"nn: goes on from epoch \d+ of 40", outputs[0][1])
    assert chief["weights_sha256"] == other["weights_sha256"]
    assert chief["workers"] == 2
    assert len(chief["history"]) == 40
    assert cards.read(folders[0], "nn").weights_sha256 == chief["weights_sha256"]
    assert list(folders[1].iterdir()) == []  # the chief writes


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        "{}",
        '{"cluster": {"worker": ["localhost:1"]}}',
        config(["localhost"], 0),
        config(["localhost:65536"], 0),
        config(["localhost:1", "localhost:2"], 2),
        config(["localhost:1", "localhost:2"], -1),
        '{"cluster": {"worker": "localhost:1"}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["localhost:1"], "ps": []}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": "0"}}',
    ],
)
def test_what_tf_config_must_be(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match="TF_CONFIG is .*; expected .*cluster"):
        workers.connect(print)


def test_one_worker_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert workers.connect(print) == ALONE
    monkeypatch.setenv("TF_CONFIG", config(["localhost:1"], 0))
    assert workers.connect(print) == ALONE
    values = [np.ones(3, np.float32)]
    assert ALONE.chief
    assert ALONE.mean(values)[0] is values[0]
    assert ALONE.from_chief(values)[0] is values[0]
    assert ALONE.text_from_chief("größer") == "größer"


@pytest.mark.parametrize("interrupt", [False, True])
def test_waiting_for_workers_ends(interrupt: bool) -> None:
    """By itself after a while, and at once by Ctrl-C."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    script = f"""
import sys
from train import cli, workers
def main(argv):
    workers.connect(cli.say, seconds={60 if interrupt else 3})
    return 0
sys.exit(cli.run(main))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "TF_CONFIG": config(addresses, 1)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            waiting = f"worker 1 of 2: waiting for {addresses[0]}\n"
            while (line := process.stderr.readline()) != waiting:
                assert line
            if interrupt:
                process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=30)
        finally:
            process.kill()
    if interrupt:
        assert (process.returncode, error.splitlines()[-1]) == (130, "interrupted")
    else:
        assert process.returncode == 5
        assert error.splitlines()[-1].startswith(f"error: TF_CONFIG: no worker at {addresses[0]} after 3 s")


def test_an_unusable_tf_config_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert cli.run(main, ["nn", "--models", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: TF_CONFIG is '{}'; expected")
