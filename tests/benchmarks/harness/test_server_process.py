"""The embedded server in a process of its own: how it ends, and what is said if it does too early."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tfship.benchmarks.harness.server_process import embedded
from tfship.client.targets.connection import Connection, Servable
from tfship.client.targets.rest import Rest
from tfship.train.common.errors import TargetError

# A server without TensorFlow, which starts in a second.
LIGHT = "--prefer_tflite_model"


def test_a_server_that_dies_is_a_clear_error(models: Path) -> None:
    with (  # noqa: PT012
        pytest.raises(TargetError, match="no HTTP server responds"),
        embedded(models, ["nn"], LIGHT) as server,
    ):
        target = Rest(Connection(server.rest), Servable("nn"))
        target.predict(np.zeros((1, 28, 28, 1), np.float32))
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        # Its workers end when they see that it has: soon, and not at once.
        for _ in range(2_000):
            target.predict(np.zeros((1, 28, 28, 1), np.float32))
            time.sleep(0.05)


def test_a_server_that_cannot_start_is_a_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(TargetError, match=r"the model server ended with exit code \d+: .*nn"),
        embedded(tmp_path, ["nn"]),
    ):
        pytest.fail("it started")


def test_the_server_is_stopped_at_the_end(models: Path) -> None:
    with embedded(models, ["nn"], LIGHT, "--workers=1") as server:
        assert server.process.poll() is None
    assert server.process.poll() == 0
