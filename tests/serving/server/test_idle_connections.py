"""Clients that connect and then ask nothing."""

import contextlib
import socket
from pathlib import Path

import numpy as np

from serving_fixtures import ROW, client_of, process, publish
from tfship.serving.server.sockets import allow_connections
from third_party_clients.server import GREETING

_MOST = 10_000
_SETTINGS = 4


def test_idle_http2_connections_keep_nobody_from_answers(tmp_path: Path) -> None:
    count = allow_connections(_MOST)
    publish(tmp_path / "m", 1)
    ready = tmp_path / "ready.json"
    flags = ("--prefer_tflite_model", "--workers=2", "--port=-1", "--rest_api_port=-1")
    with (
        process(f"--model_base_path={tmp_path}/m", *flags, ready=ready) as started,
        contextlib.ExitStack() as stack,
    ):
        client = client_of(started, ready)
        idle = []
        for _ in range(count):
            idle.append(stack.enter_context(socket.create_connection(("127.0.0.1", client.grpc_port))))
            idle[-1].sendall(GREETING)
        for connection in idle:
            assert connection.recv(4)[3] == _SETTINGS  # the type of the server's first frame (RFC 9113, 4.1)
        for _ in range(20):
            np.testing.assert_array_equal(client.predict("default", x=ROW)["y"], ROW)
            assert client.rest("/v1/models/default:predict", {"instances": [[1, 2]]})[0] == 200
        started.terminate()
        # They are told that the server goes, and then the connection ends.
        for connection in idle:
            while connection.recv(2**16):
                pass
        _, err = started.communicate()
    assert (started.returncode, "Error" in err) == (0, False), err
