import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from processes import Forked, command, forked
from tfship.train import cards, workers
from tfship.train.command import main
from tfship.train.common import cli
from tfship.train.common.errors import UsageError
from tfship.train.workers import ALONE


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
def started(folders: list[Path], *arguments: str) -> Iterator[list[Forked]]:
    """Start a worker for each folder."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(folders))]
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                forked(
                    command,
                    *("train", "nn", "--models", str(folder), *arguments),
                    environment={"TF_CONFIG": config(addresses, index)},
                )
            )
            for index, folder in enumerate(folders)
        ]


def test_two_workers_end_with_the_same_weights(tmp_path: Path) -> None:
    """Real processes; one is killed, the other notices, and started again they go on and agree."""
    folders = [tmp_path / "chief", tmp_path / "other"]
    checkpoint = folders[0] / "nn.checkpoint.npz"
    with started(folders, "--epochs", "8") as (chief, other):
        for process in (chief, other):
            process.reaches(checkpoint.exists)
        other.kill()
        assert chief.ends() == 5, chief.error
        assert re.search(
            r"^error: nn: another worker has ended .* start this command again", chief.error, re.MULTILINE
        )
        assert "Traceback" not in chief.error
    assert checkpoint.exists()

    with started(folders, "--epochs", "8", "--json") as (chief, other):
        assert (chief.ends(), other.ends()) == (0, 0), (chief.error, other.error)
        assert re.search(r"nn: resumes from epoch \d+ of 8", chief.error)
        (card,), (others,) = json.loads(chief.out), json.loads(other.out)
    assert card["weights_sha256"] == others["weights_sha256"]
    assert card["workers"] == 2
    assert len(card["history"]) == 8
    assert cards.read(folders[0], "nn").weights_sha256 == card["weights_sha256"]
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
    # Nobody listens there, and nobody else may: a port that is only free may be another test's server's by now.
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{port}" for port in (taken.getsockname()[1], *free_ports(1))]
    script = f"""
import signal, sys
from tfship.train.common import cli; from tfship.train import workers
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
def main(argv):
    workers.connect(cli.say, seconds={60 if interrupt else 1})
    return 0
sys.exit(cli.run(main))
"""
    with (
        taken,
        subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "TF_CONFIG": config(addresses, 1)},
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stderr is not None
        try:
            waiting = f"worker 1 of 2: waiting for {addresses[0]}\n"
            while (line := process.stderr.readline()) != waiting:
                assert line
            if interrupt:
                process.send_signal(signal.SIGINT)
            _, error = process.communicate()
        finally:
            process.kill()
    if interrupt:
        assert (process.returncode, error.splitlines()[-1]) == (130, "interrupted")
    else:
        assert process.returncode == 5
        assert error.splitlines()[-1].startswith(f"error: TF_CONFIG: no worker at {addresses[0]} after 1 s")


def test_an_unusable_tf_config_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert cli.run(main, ["nn", "--models", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: TF_CONFIG is '{}'; expected")
