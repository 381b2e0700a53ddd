"""MLPerf's scenarios on targets whose speed is known, and what is sent to a server that errs or goes."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks import backends, scenarios
from benchmarks.callers import Callers
from benchmarks.loops import Connect, Load
from benchmarks.senders import Address, GrpcSender, RestSender
from client.binding import Binding
from client.connection import Connection, Servable
from client_fixtures import send, web
from train.errors import Refused, ResultError, TargetError, Unreachable

CLASSES = [np.array([number % 10]) for number in range(20)]


class Known(Callers):
    """Callers of what takes `seconds` for each query, so many at a time; a wrong answer to query `errs`."""

    def __init__(self, seconds: float, at_once: int = 1, errs: int | None = None) -> None:
        lanes = threading.Semaphore(at_once)

        def call(number: int) -> Any:
            with lanes:
                time.sleep(seconds)
            return np.eye(10, dtype=np.float32)[[9 if number == errs else number % 10]]

        self._name, self._sizes = "known", [1] * len(CLASSES)
        self.connect: Connect = lambda: contextlib.nullcontext(call)
        self._understood = lambda answer, _: answer


def test_the_server_scenario_finds_a_rate_that_is_kept_and_one_that_is_not() -> None:
    # One at a time and 2 ms each: 500 a second at the very most, and fewer if all are to be answered in 50 ms. A busy
    # machine oversleeps, and stalls: how many fewer isn't said.
    found = scenarios.server(Known(0.002), CLASSES, at_once=8, bound_ms=50, seconds=0.5, rates=4)
    assert 50 < found["rate"] < 500
    assert found["p99_ms"] <= 50
    assert found["queries"] >= 662
    kept = [each["rate"] for each in found["trials"] if each["kept"]]
    missed = [each["rate"] for each in found["trials"] if not each["kept"]]
    assert found["rate"] == max(kept)
    assert all(rate > max(kept) or rate in kept for rate in missed)


def test_a_bound_that_nothing_keeps_is_said() -> None:
    found = scenarios.server(Known(0.004), CLASSES, at_once=8, bound_ms=1, seconds=0.1, rates=1)
    assert found["rate"] is None
    assert found["p99_ms"] is None
    # Eight late ones decide it; each caller may have one under way.
    assert all(each["queries"] < 8 + 8 + 8 for each in found["trials"])
    assert not any(each["kept"] for each in found["trials"])


def test_offline_uses_all_callers_and_counts_images() -> None:
    found = scenarios.offline(Known(0.02, at_once=4), CLASSES, at_once=4, images=64 * 40)
    assert found["images"] == 64 * 40
    assert found["rate"] == pytest.approx(2560 / found["seconds"], rel=0.01)
    # Forty queries of 20 ms by four callers; by one they would take four times as long.
    assert 0.2 <= found["seconds"] < 0.8


def test_more_connections_get_more_through_until_the_target_is_busy() -> None:
    steps = scenarios.sweep(Known(0.02, at_once=2), CLASSES, (1, 2, 8), 0.6)
    assert [step["connections"] for step in steps] == [1, 2, 8]
    one, two, eight = (step["rate"] for step in steps)
    assert two > 1.5 * one
    assert eight < 1.3 * two


@pytest.mark.parametrize(
    "run",
    [
        lambda known: scenarios.server(known, CLASSES, at_once=2, bound_ms=50, seconds=0.1, rates=1),
        lambda known: scenarios.offline(known, CLASSES, at_once=2, images=2_000),
        lambda known: scenarios.sweep(known, CLASSES, (1,), 0.2),
    ],
)
def test_a_wrong_answer_under_load_is_an_error(run: Callable[[Callers], object]) -> None:
    with pytest.raises(ResultError, match=r"query 7 with the classes \[9\]; asked alone it said \[7\]"):
        run(Known(0.001, errs=7))


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
        content, timing = sender.send(sender.encoded(np.zeros((1, 2, 2, 1), np.float32)))
        assert sender.understood(content, 1).tolist() == [[0.25, 0.75]]
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
    assert backends.unavailable() == "no Docker here"
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "Cannot connect to the Docker daemon" >&2\nexit 1\n')
    docker.chmod(0o755)
    assert backends.unavailable() == "no Docker engine answers (Cannot connect to the Docker daemon)"
    docker.write_text('#!/bin/sh\necho "Error: No such image: $5" >&2\nexit 1\n')
    assert backends.unavailable() == f"the image isn't here: docker pull {backends.IMAGE}"
    docker.write_text("#!/bin/sh\necho sha256:1\n")
    assert backends.unavailable() is None
    docker.write_text('#!/bin/sh\necho "port is already allocated" >&2\nexit 125\n')
    failed = pytest.raises(TargetError, match="docker run .* failed: port is already allocated")
    with failed, backends.OFFICIAL.start(tmp_path, "nn"):
        pytest.fail("it started")
