"""MLPerf's scenarios on targets whose speed is known, and what is sent to a server that errs or goes."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client_fixtures import send, web
from tfship.benchmarks.harness import load_loops, scenarios
from tfship.benchmarks.harness.callers import Callers
from tfship.benchmarks.harness.load_loops import Connect, Load
from tfship.benchmarks.harness.raw_requests import Address, GrpcSender, RestSender
from tfship.benchmarks.suite import serving_backends
from tfship.client.targets.binding import Binding
from tfship.client.targets.connection import Connection, Servable
from tfship.train.common.errors import Refused, ResultError, TargetError, Unreachable

CLASSES = [np.array([number % 10]) for number in range(20)]


class Known(Callers):
    """Callers of what takes `seconds` for each query; a wrong answer to query `errs`.

    Each caller's first queries, one to connect and one that counts, are answered when `together` ask at once.
    """

    def __init__(self, seconds: float, errs: int | None = None, together: int = 1, at_once: int = 8) -> None:
        all_there = threading.Barrier(together)

        @contextlib.contextmanager
        def connect() -> Iterator[Callable[[int], Any]]:
            asked = itertools.count()

            def call(number: int) -> Any:
                if next(asked) < 2:
                    all_there.wait(100)
                time.sleep(seconds)
                return np.eye(10, dtype=np.float32)[[9 if number == errs else number % 10]]

            yield call

        self._name, self._sizes = "known", [1] * len(CLASSES)
        self.connect: Connect = connect
        self._decode = lambda response, _: response
        self.at_once = at_once


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of a target, one that takes 2 ms of a clock of its own for each query, one at a time."""

    def closed(connect: Connect, callers: int, seconds: float, distinct: int) -> Load:
        return Load(np.full(round(seconds / 0.002), 0.002 * callers), seconds, {})

    def opened(
        connect: Connect,
        callers: int,
        due: NDArray[np.float64],
        distinct: int,
        *,
        bound: float,
        most_late: int,
    ) -> Load:
        end, latencies = 0.0, []
        for each in due:
            end = max(end, each) + 0.002
            latencies.append(end - each)
            if np.sum(np.array(latencies) > bound) > most_late:
                break
        return Load(np.array(latencies), end, {})

    monkeypatch.setattr(load_loops, "closed_loop", closed)
    monkeypatch.setattr(load_loops, "open_loop", opened)


@pytest.mark.usefixtures("queue")
def test_the_server_scenario_finds_a_rate_that_is_kept_and_one_that_is_not() -> None:
    # 500 a second at the very most, and fewer if all are to be answered in 50 ms.
    found = scenarios.server(Known(0), CLASSES, bound_ms=50, seconds=2, rates=6)
    assert 400 < found["rate"] < 500
    assert found["p99_ms"] <= 50
    assert found["queries"] >= 662
    kept = [each["rate"] for each in found["trials"] if each["kept"]]
    missed = [each["rate"] for each in found["trials"] if not each["kept"]]
    assert found["rate"] == max(kept)
    assert missed
    assert all(rate > max(kept) or rate in kept for rate in missed)


def test_a_bound_that_nothing_keeps_is_said() -> None:
    found = scenarios.server(Known(0.004), CLASSES, bound_ms=1, seconds=0.1, rates=1)
    assert found["rate"] is None
    assert found["p99_ms"] is None
    # Eight late ones decide it; each caller may have one under way.
    assert all(each["queries"] < 8 + 8 + 8 for each in found["trials"])
    assert not any(each["kept"] for each in found["trials"])


def test_offline_uses_all_callers_and_counts_images() -> None:
    found = scenarios.offline(Known(0.02, together=4, at_once=4), CLASSES, images=64 * 40)
    assert found["images"] == 64 * 40
    assert found["rate"] == pytest.approx(2560 / found["seconds"], rel=0.01)
    # Forty queries of 20 ms by four callers.
    assert found["seconds"] >= 0.2


def test_more_connections_ask_more_at_once() -> None:
    for count in (1, 2, 8):
        (step,) = scenarios.sweep(Known(0.02, together=count), CLASSES, (count,), 0.3)
        assert step["connections"] == count
        assert 0 < step["rate"] <= count / 0.02
        # The 50th percentile needs eleven queries.
        assert step["p50_ms"] is None or step["p50_ms"] >= 20


@pytest.mark.parametrize(
    "run",
    [
        lambda known: scenarios.server(known, CLASSES, bound_ms=50, seconds=0.1, rates=1),
        lambda known: scenarios.offline(known, CLASSES, images=2_000),
        lambda known: scenarios.sweep(known, CLASSES, (1,), 0.2),
    ],
)
def test_a_wrong_answer_under_load_is_an_error(run: Callable[[Callers], object]) -> None:
    with pytest.raises(
        ResultError, match=r"query 7 returned the classes \[9\] under load, and \[7\] in a single request"
    ):
        run(Known(0.001, errs=7, at_once=2))


def test_answers_are_held_against_each_querys_own_classes() -> None:
    load = Load(np.ones(1), 1.0, {3: np.eye(10, dtype=np.float32)[[3]]})
    Known(0).check(load, CLASSES)


def address(server: str) -> Address:
    return Address(Connection(server, timeout=100), Servable("nn"), Binding())


def test_a_sender_reads_where_the_server_says_its_time_went() -> None:
    header = "queue;dur=0.250, decode;desc=JSON;dur=1.5, odd, total;dur=3"
    answer = b'{"predictions": [[0.25, 0.75]]}'
    with web(lambda handler, _: send(handler, 200, answer, Server_Timing=header)) as server:
        sender = RestSender(address(server.address))
        content, timing = sender.send(sender.encode(np.zeros((1, 2, 2, 1), np.float32)))
        assert sender.decode(content, 1).tolist() == [[0.25, 0.75]]
        assert timing == pytest.approx({"queue": 0.00025, "decode": 0.0015, "total": 0.003})
        sender.close()


def test_a_sender_that_is_refused_or_not_answered_says_so() -> None:
    with web(lambda handler, _: send(handler, 400, b'{"error": "no such model"}')) as server:
        sender = RestSender(address(server.address))
        with pytest.raises(Refused, match="HTTP 400: .*no such model"):
            sender.send(b"{}")
        sender.close()
    for kind in (RestSender, GrpcSender):
        gone = kind(address(server.address))
        with pytest.raises(Unreachable):
            gone.send(b"")
        gone.close()


def test_why_the_official_server_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert serving_backends.unavailable() == "docker isn't installed"
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "Cannot connect to the Docker daemon" >&2\nexit 1\n')
    docker.chmod(0o755)
    assert (
        serving_backends.unavailable() == "no Docker engine is running (Cannot connect to the Docker daemon)"
    )
    docker.write_text('#!/bin/sh\necho "Error: No such image: $5" >&2\nexit 1\n')
    assert (
        serving_backends.unavailable() == f"the image is missing: run `docker pull {serving_backends.IMAGE}`"
    )
    docker.write_text("#!/bin/sh\necho sha256:1\n")
    assert serving_backends.unavailable() is None
    docker.write_text('#!/bin/sh\necho "port is already allocated" >&2\nexit 125\n')
    failed = pytest.raises(TargetError, match="docker run .* failed: port is already allocated")
    with failed, serving_backends.OFFICIAL.start(tmp_path, "nn"):
        pytest.fail("it started")
