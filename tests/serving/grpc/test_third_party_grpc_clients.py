"""gRPC clients of other makers against both HTTP/2 engines."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving_fixtures import eventually
from tfship.serving.grpc import http2
from tfship.serving.server.model_server import Settings
from third_party_clients import environments
from third_party_clients.grpc_clients import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    NOT_FOUND,
    OK,
    UNAVAILABLE,
    ChannelOptions,
    ClientChannel,
    GrpcClient,
    driven,
    sync_grpcio,
)
from third_party_clients.server import ROWS, Server, predict_request, predicted, started
from tls_fixtures import Certificates

# Many times the windows, which are 1 MiB of a call and 4 MiB of a connection; more before a release.
LARGE_BYTES = (64 if environments.asked() else 20) * 2**20
CLIENTS = ("grpcio", "grpcio.aio", "grpclib", "grpc-js")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=CLIENTS)
def maker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(maker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcClient]:
    folder = tmp_path_factory.mktemp(maker)
    with contextlib.ExitStack() as stack:
        if maker == "grpcio":
            yield stack.enter_context(sync_grpcio())
        elif maker == "grpcio.aio":
            yield stack.enter_context(driven(folder, sys.executable, "grpc_aio_driver.py"))
        elif maker == "grpclib":
            python = environments.grpclib(tmp_path_factory)
            yield stack.enter_context(driven(folder, python, "grpclib_driver.py"))
        else:
            node = environments.program("node")
            modules = {"NODE_PATH": str(environments.grpc_js(tmp_path_factory))}
            yield stack.enter_context(driven(folder, node, "grpc_js_driver.cjs", environment=modules))


@pytest.fixture(scope="module", params=["ngh2", "h2"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(engine: str, tmp_path: Path) -> Iterator[Server]:
    # Packed, since large tensors as typed fields take seconds. No test but that of cancellation has more than two
    # held calls, so that a thread is left for others, which run there on a busy machine.
    settings = Settings(http2_engine=engine, grpc_threads=3, packed_answers=True)
    with started(tmp_path, settings) as server:
        yield server


@pytest.fixture
def channel(client: GrpcClient, server: Server) -> ClientChannel:
    return client.connect(ChannelOptions(server.client.grpc_port))


def _assert_answers(channel: ClientChannel) -> None:
    outcome = channel.call(predict_request())
    assert (outcome.code, outcome.message) == (OK, "")
    np.testing.assert_array_equal(predicted(outcome.content), 2 * ROWS)


def test_calls_and_errors(channel: ClientChannel, server: Server) -> None:
    _assert_answers(channel)
    calls = [
        (rows, channel.begin(predict_request(np.full((1 + rows % 3, 2), rows, np.float32))))
        for rows in range(60)
    ]
    for rows, call in calls:
        found = predicted(call.result().content)
        np.testing.assert_array_equal(found, np.full((1 + rows % 3, 2), 2 * rows, np.float32))
    assert len(server.connections) == 1
    for name in ("größe", "50% 模型 ✓ 🙂", "a%20b"):
        outcome = channel.call(predict_request(model=name))
        assert (outcome.code, outcome.message) == (
            NOT_FOUND, f"Servable not found for request: Latest({name})",
        )  # fmt: skip
    # A message at the limit for headers, cut within a letter of several bytes.
    outcome = channel.call(predict_request(model="✓" * 5000))
    assert outcome.code == NOT_FOUND
    assert outcome.message.endswith("✓…")
    assert not server.calls
    _assert_answers(channel)


def test_deadline(channel: ClientChannel, server: Server) -> None:
    assert channel.call(predict_request(model="held"), timeout=1.0).code == DEADLINE_EXCEEDED
    eventually(lambda: not server.calls)
    # The model still runs, and others are served.
    server.gate.has_begun(1)
    _assert_answers(channel)


def test_cancellation(channel: ClientChannel, server: Server) -> None:
    calls = [channel.begin(predict_request(model="held")) for _ in range(5)]
    server.gate.has_begun(3)  # one in each thread
    eventually(lambda: server.calls == 5)
    for call in calls:
        call.cancel()
    assert {call.result().code for call in calls} == {CANCELLED}
    eventually(lambda: not server.calls)
    server.gate.open()
    _assert_answers(channel)
    # Those that waited for a thread weren't run: the next call of the model had to wait for them.
    assert channel.call(predict_request(model="held")).code == OK
    assert server.gate.runs == 4


@pytest.fixture(scope="module")
def large() -> tuple[NDArray[np.float32], bytes]:
    """Rows, and the request with them."""
    rows = np.arange(LARGE_BYTES // 4, dtype=np.float32).reshape(-1, 2)
    return rows, predict_request(rows)


def test_large_messages(
    channel: ClientChannel, server: Server, large: tuple[NDArray[np.float32], bytes]
) -> None:
    rows, request = large
    outcome = channel.call(request)
    assert (outcome.code, outcome.message) == (OK, "")
    assert len(outcome.content) > LARGE_BYTES
    np.testing.assert_array_equal(predicted(outcome.content), 2 * rows)
    assert len(server.connections) == 1
    _assert_answers(channel)


def test_gzip(client: GrpcClient, maker: str, server: Server) -> None:
    if maker == "grpclib":
        return  # it can't compress
    channel = client.connect(ChannelOptions(server.client.grpc_port, gzip=True))
    rows = np.zeros((100_000, 2), np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(predicted(channel.call(predict_request(rows)).content), rows)
    _assert_answers(channel)
    assert channel.call(predict_request(model="größe")).code == NOT_FOUND
    # The server has sent no megabyte.
    (connection,) = server.connections
    assert connection._writes._written < 50_000


def test_keepalive(client: GrpcClient, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pings = 0
    take = http2.Allowance.take

    def count(allowance: http2.Allowance) -> bool:
        nonlocal pings
        pings += 1
        return take(allowance)

    channel = client.connect(ChannelOptions(server.client.grpc_port, keepalive_ms=20))
    _assert_answers(channel)
    before = server.connections
    monkeypatch.setattr(http2.Allowance, "take", count)
    # Without a call, and during one.
    eventually(lambda: pings >= 2)
    call = channel.begin(predict_request(model="held"))
    server.gate.has_begun(1)
    pings = 0
    eventually(lambda: pings >= 2)
    server.gate.open()
    assert call.result().code == OK
    assert server.connections == before


@pytest.mark.parametrize("verified", [False, True])
def test_tls(
    client: GrpcClient, certificates: Certificates, engine: str, tmp_path: Path, verified: bool
) -> None:
    folder = certificates.folder
    own: dict[str, Any] = {"certificate": folder / "client.pem", "key": folder / "client.key"}
    stranger: dict[str, Any] = {"certificate": folder / "stranger.pem", "key": folder / "stranger.key"}
    settings = Settings(http2_engine=engine, tls=certificates.tls(verified=verified))
    with started(tmp_path, settings) as server:
        port = server.client.grpc_port
        _assert_answers(client.connect(ChannelOptions(port, folder / "ca.pem", **own)))
        for other in (dict[str, Any](), stranger):
            channel = client.connect(ChannelOptions(port, folder / "ca.pem", **other))
            if verified:
                assert channel.call(predict_request()).code == UNAVAILABLE
            else:
                _assert_answers(channel)
        # A client that doesn't know the server's authority refuses it.
        channel = client.connect(ChannelOptions(port, folder / "stranger.pem"))
        assert channel.call(predict_request()).code == UNAVAILABLE
        rows = np.arange(2_000_000, dtype=np.float32).reshape(-1, 2)
        channel = client.connect(ChannelOptions(port, folder / "ca.pem", **own))
        np.testing.assert_array_equal(predicted(channel.call(predict_request(rows)).content), 2 * rows)


def test_graceful_end(channel: ClientChannel, maker: str, server: Server) -> None:
    _assert_answers(channel)
    calls = [channel.begin(predict_request(model="held")) for _ in range(2)]
    server.gate.has_begun(2)
    server.begin_stop()
    codes = []

    def is_refused() -> bool:
        codes.append(channel.call(predict_request()).code)
        return codes[-1] == UNAVAILABLE

    eventually(is_refused)
    assert set(codes) <= {OK, UNAVAILABLE}
    server.gate.open()
    # grpclib gives up its calls with the announcement of the end.
    wanted = UNAVAILABLE if maker == "grpclib" else OK
    assert {call.result().code for call in calls} == {wanted}
    assert server.stopped
    server.stopped.result()
    assert channel.call(predict_request()).code == UNAVAILABLE
