"""What goes wrong while a server runs: with real processes, real sockets and requests all the time."""

import contextlib
import functools
import http.client
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest

from processes import workers_of
from serving_fixtures import Client, client_of, eventually, poison, process, publish, withdraw
from tfship.benchmarks.harness import process_info
from tfship.serving.protos.messages import predict_pb2
from tfship.serving.protos.stubs import PredictionServiceStub
from tfship.serving.protos.tensors import from_proto, to_proto

# Between the requests of a client, where a test waits for seconds: without it, the clients keep both cores busy.
_PAUSE = 0.01


@dataclass
class _Server:
    process: subprocess.Popen[str]
    client: Client
    base_path: Path
    closes: contextlib.ExitStack

    def rest(self) -> "_Rest":
        """Connect over REST."""
        return self.closes.enter_context(contextlib.closing(_Rest(self.client)))

    def grpc(self) -> "_Grpc":
        """Connect over gRPC."""
        return self.closes.enter_context(contextlib.closing(_Grpc(self.client)))

    def workers(self) -> set[int]:
        """Return the process ids of those that live."""
        return workers_of(self.process.pid)

    def publish(self, version: int, content: bytes | None = None) -> None:
        publish(self.base_path, version, content)

    def states(self) -> dict[str, str]:
        """Return each version's state; nothing if a worker that dies was asked."""
        try:
            return self.client.states("m")
        except OSError:
            return {}

    def is_served(self, version: int) -> bool:
        return self.states().get(str(version)) == "AVAILABLE"

    def stop(self) -> str:
        """End it as a service manager does, and return what it has printed."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> str:
        """Wait for its end, and return what it has printed; nothing went wrong unseen."""
        out, err = self.process.communicate()
        # LiteRT says by itself what it has created; of two processes at a time, one's line may be within the other's.
        created = "INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
        complaints = [
            line for line in err.splitlines() if not line.startswith("INFO: ") and line not in created
        ]
        assert (self.process.returncode, complaints) == (0, [])
        assert "Traceback" not in out
        return out


@contextlib.contextmanager
def _served(tmp_path: Path, *flags: str, versions: tuple[int, ...] = (1,)) -> Iterator[_Server]:
    base_path, ready = tmp_path / "m", tmp_path / "ready.json"
    for version in versions:
        publish(base_path, version)
    with process(
        "--model_name=m", f"--model_base_path={base_path}", "--prefer_tflite_model", "--workers=2",
        "--port=-1", "--rest_api_port=-1", *flags, ready=ready,
    ) as started, contextlib.ExitStack() as closes:  # fmt: skip
        yield _Server(started, client_of(started, ready), base_path, closes)


class _LastAnswer(Exception):  # noqa: N818
    """All is well, but the server won't take another request on this connection."""


class _Rest:
    """One kept connection: an answer is the factor that the model multiplies with, which is its version."""

    def __init__(self, client: Client) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", client.rest_port, timeout=100)
        self._connection.connect()
        self._connection.auto_open = 0

    @property
    def port(self) -> int:
        return int(self._connection.sock.getsockname()[1])

    def ask(self, target: str = "m", rows: int = 1) -> float:
        """Return what the model multiplies with. Raises _LastAnswer when the server says it is that."""
        body = b'{"instances": [%b]}' % b",".join([b"[1, 0]"] * rows)
        self._connection.request("POST", f"/v1/models/{target}:predict", body)
        response = self._connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200, answer
        assert len(answer["predictions"]) == rows
        if response.getheader("connection") == "close":
            raise _LastAnswer
        return float(answer["predictions"][0][0])

    def is_closed(self) -> bool:
        """Wait until the server closes the connection; raise what it sends instead, if it is an error."""
        return self._connection.sock.recv(1) == b""

    def close(self) -> None:
        self._connection.close()


class _Grpc:
    """The same over gRPC, on a connection of its own."""

    def __init__(self, client: Client) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{client.grpc_port}", options)
        grpc.channel_ready_future(self._channel).result(30)
        self._stub = PredictionServiceStub(self._channel)

    def ask(self, rows: int = 1) -> float:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        request.inputs["x"].CopyFrom(to_proto(np.tile(np.array([[1, 0]], np.float32), (rows, 1))))
        answer = from_proto(self._stub.Predict(request, timeout=100).outputs["y"])
        assert answer.shape == (rows, 2)
        return float(answer[0, 0])

    def close(self) -> None:
        self._channel.close()


@dataclass
class _Asking:
    """A client that asks all the time, and what it was told."""

    connection: _Rest | _Grpc
    rows: int = 1
    pause: float = 0.0
    answers: list[float] = field(default_factory=list)
    error: Exception | None = None
    begin: float = 0.0  # of the last request
    gap: float = 0.0  # from the begin of the one before

    def run(self, done: threading.Event) -> None:
        try:
            while not done.is_set():
                now = time.monotonic()
                self.begin, self.gap = now, now - self.begin
                self.answers.append(self.connection.ask(rows=self.rows))
                done.wait(self.pause)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test says so
            self.error = error


@contextlib.contextmanager
def _asked(*connections: _Rest | _Grpc, rows: int = 1, pause: float = 0.0) -> Iterator[list[_Asking]]:
    """Ask on all connections all the time, each from a thread, until the context ends."""
    done = threading.Event()
    asking = [_Asking(each, rows, pause) for each in connections]
    threads = [threading.Thread(target=each.run, args=(done,)) for each in asking]
    for thread in threads:
        thread.start()
    try:
        yield asking
    finally:
        done.set()
        for thread in threads:
            thread.join()


def _all_ask_on(asking: list[_Asking]) -> bool:
    """Wait until each client has had an answer more; False if one has failed."""
    before = [len(each.answers) for each in asking]
    eventually(
        lambda: all(
            each.error or len(each.answers) > count for each, count in zip(asking, before, strict=True)
        ),
        30,
    )
    return not any(each.error for each in asking)


def _owner(server: _Server, port: int) -> int:
    """Return the worker at the other end of the connection from our `port`."""
    # Another program's connection may have the same port at its other end.
    local, remote = f":{server.client.rest_port:04X}", f":{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next(each[9] for each in rows if (each[1][-5:], each[2][-5:], each[3]) == (local, remote, "01"))
    for pid in server.workers():
        with contextlib.suppress(OSError):
            for each in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(each.readlink()) == f"socket:[{inode}]":
                        return pid
    raise AssertionError("nobody has it")


def _connections(server: _Server, wanted: int = 2) -> dict[int, list[_Rest]]:
    """Open so many connections to each worker, and return them by its process id."""
    found: dict[int, list[_Rest]] = {pid: [] for pid in server.workers()}
    while not all(len(each) >= wanted for each in found.values()):
        connection = server.rest()
        connection.ask()
        mine = found[_owner(server, connection.port)]
        if len(mine) < wanted:
            mine.append(connection)
        else:
            connection.close()
    return found


def test_versions_are_swapped_every_second_without_a_failed_request(tmp_path: Path) -> None:
    last = 5
    with _served(tmp_path) as server:
        clients: list[_Rest | _Grpc] = [
            *(server.rest() for _ in range(4)),
            *(server.grpc() for _ in range(4)),
        ]
        with _asked(*clients, pause=_PAUSE) as asking:
            for version in range(2, last + 1):
                server.publish(version)
                eventually(functools.partial(server.is_served, version))
                if version > 2:
                    withdraw(server.base_path, version - 2)
            assert _all_ask_on(asking), [each.error for each in asking]
        server.stop()
    seen = [each.answers for each in asking]
    assert all(
        answers == sorted(answers) for answers in seen
    )  # on one connection, never back to an older one
    assert all(answers[-1] == last for answers in seen)
    assert {answer for answers in seen for answer in answers} == set(range(1, last + 1))


def test_a_killed_worker_is_replaced_and_the_others_go_on(tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{tmp_path}/m" model_platform: "tensorflow" '
        'model_version_policy { all {} } version_labels { key: "old" value: 1 } } }'
    )
    with _served(tmp_path, f"--model_config_file={config}", versions=(1, 2)) as server:
        connections = _connections(server)
        victim, other = connections
        with _asked(*connections[other], pause=_PAUSE) as asking:
            os.kill(victim, signal.SIGKILL)
            eventually(lambda: victim not in server.workers())
            # Who connects now isn't even delayed.
            assert server.rest().ask() == 2.0
            eventually(lambda: len(server.workers()) == 2)
            fresh = _connections(server, 1)
            assert _all_ask_on(asking), [each.error for each in asking]
        assert other in fresh
        assert victim not in fresh
        replacement = fresh[(fresh.keys() - {other}).pop()][0]
        assert [replacement.ask(f"m{target}") for target in ("", "/versions/1", "/labels/old")] == [2, 1, 1]
        assert server.states() == {"2": "AVAILABLE", "1": "AVAILABLE"}
        # What comes later comes to both.
        server.publish(3)
        eventually(lambda: server.is_served(3))
        assert [each.ask() for each in (replacement, *_connections(server, 1)[other])] == [3, 3]
        out = server.stop()
    assert "has died (signal 9); starting a replacement" in out
    assert "the replacement is serving" in out


def test_all_workers_killed_at_once_come_back(tmp_path: Path) -> None:
    with _served(tmp_path) as server:
        before = server.workers()
        for pid in before:
            os.kill(pid, signal.SIGKILL)

        def answers() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return server.rest().ask() == 1.0 and server.grpc().ask() == 1.0
            return False

        eventually(answers)
        eventually(lambda: len(server.workers() - before) == 2)
        server.publish(2)
        eventually(lambda: server.is_served(2))
        server.stop()


def test_a_worker_that_hangs_holds_nothing_up_for_ever(tmp_path: Path) -> None:
    with _served(tmp_path, "--worker_timeout_seconds=3") as server:
        connections = _connections(server)
        hung, other = connections
        with _asked(*connections[other], pause=_PAUSE) as asking:
            os.kill(hung, signal.SIGSTOP)
            server.publish(2)
            eventually(lambda: server.is_served(2))
            eventually(lambda: hung not in server.workers())
            assert _all_ask_on(asking), [each.error for each in asking]
        eventually(lambda: len(server.workers()) == 2)
        assert {connection.ask() for each in _connections(server, 1).values() for connection in each} == {2}
        # One that hangs when the server is to end.
        os.kill(other, signal.SIGSTOP)
        out = server.stop()
    assert "no heartbeat for 3 s; killed" in out


def test_a_version_that_kills_its_process_kills_one_and_not_all(tmp_path: Path) -> None:
    with _served(tmp_path, "--load_retry_interval_micros=0") as server:
        server.publish(2, poison())
        eventually(lambda: server.states() == {"2": "END", "1": "AVAILABLE"})
        eventually(lambda: len(server.workers()) == 2)
        _, answer = server.client.rest("/v1/models/m/versions/2")
        status = answer["model_version_status"][0]["status"]
        assert status["error_code"] == "INTERNAL"
        assert status["error_message"].endswith("m/2: the process that loaded it died (signal 11)")
        assert server.rest().ask() == 1.0
        server.publish(3)
        eventually(lambda: server.is_served(3))
        out = server.stop()
    # Each try costs a process: whatever --max_num_load_retries says, a second one is the last.
    assert out.count("has died (signal 11)") == 2
    assert "died (signal 11); no further retries" in out


def test_a_version_that_kills_its_process_at_the_start_is_an_error(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1, poison())
    with process(
        f"--model_base_path={tmp_path}/m", "--prefer_tflite_model", "--workers=2", "--port=-1"
    ) as started:
        _, err = started.communicate()
    assert started.returncode == 4
    assert "error: model default version 1 can't be loaded: " in err
    assert err.endswith("m/1: the process that loaded it died (signal 11)\n")


def test_ctrl_c_during_the_start_ends_all_processes_without_a_word(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1)
    with process(
        f"--model_base_path={tmp_path}/m", "--prefer_tflite_model", "--workers=2", "--port=-1"
    ) as started:
        # The process that forks the workers.
        eventually(lambda: len(process_info.children(started.pid)) == 1)
        # A terminal's goes to all processes.
        for pid in process_info.tree(started.pid):
            # The process that forks may have ended by now.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        out, err = started.communicate()
    assert (started.returncode, err) == (0, "")
    (line,) = out.splitlines()
    assert " INFO server tfship.serving: stopping: " in line


def test_sigterm_under_load_loses_no_request(tmp_path: Path) -> None:
    """In flight is what was sent, or begun to be sent, on an open connection: over REST all of it is answered.

    The exception is a client that the machine lets sleep for a second: its connection counts as idle, and is closed.
    gRPC has nothing to say that a call is a connection's last; those that come too late are told that they haven't
    begun. Whoever connects when nobody listens any more is refused.
    """
    with _served(tmp_path) as server:
        rest = [server.rest() for _ in range(6)]
        calls = [server.grpc() for _ in range(6)]
        idle = server.rest()
        idle.ask()
        with (
            _asked(*rest[:4]) as small,
            _asked(*rest[4:], rows=20_000) as large,
            _asked(*calls[:4]) as small_calls,
            _asked(*calls[4:], rows=200_000) as large_calls,
        ):
            asking = [*small, *large, *small_calls, *large_calls]
            assert _all_ask_on(asking), [each.error for each in asking]
            signalled = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            eventually(lambda: all(each.error for each in asking))
        for each in (*small, *large):
            assert isinstance(each.error, _LastAnswer) or each.gap > 1.0, each.error
        for each in (*small_calls, *large_calls):
            assert isinstance(each.error, grpc.RpcError)
            assert each.error.code() == grpc.StatusCode.UNAVAILABLE
            assert each.begin > signalled - 0.2
        assert idle.is_closed()
        with pytest.raises(ConnectionRefusedError):
            server.rest()
        server.ended()
