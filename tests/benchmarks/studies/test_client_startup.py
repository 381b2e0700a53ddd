"""`tfship benchmark client`: whole processes, their medians, and what was asked of them."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tfship.benchmarks import command
from tfship.benchmarks.harness.server_process import Server, embedded
from tfship.benchmarks.studies import client_startup, client_startup_table
from tfship.benchmarks.studies.registry import STUDIES
from tfship.train.common import cli
from tfship.train.common.errors import TargetError
from tfship.train.data.datasets import Digits


def results(rest: list[float], usual: list[float]) -> dict[str, Any]:
    seconds = {"rest": rest, "grpc": rest, "tflite": rest, "usual": usual}
    environment = {"cpu": "a processor", "cores": 2}
    return {
        "schema": STUDIES["client"].schema, "created": "2026-11-24T12:00:00+00:00", "environment": environment,
        "load_before": 0.1, "picture": "seven.png", **client_startup.described(seconds),
    }  # fmt: skip


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    """One server for all, which starts without TensorFlow: the clients are what is measured."""
    with embedded(models, [client_startup.MODEL], "--workers=1", "--prefer_tflite_model") as started:
        yield started


@pytest.fixture
def asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, list[str]]]:
    """With what a server would have been started, had there not been one."""
    found: list[tuple[Path, list[str]]] = []

    def started(models: Path, names: list[str]) -> contextlib.AbstractContextManager[Server]:
        found.append((models, names))
        return contextlib.nullcontext(server)

    monkeypatch.setattr(client_startup, "embedded", started)
    return found


def test_the_whole_way(
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    asked: list[tuple[Path, list[str]]],
) -> None:
    # The usual client takes as long as all others together, and runs twice here; it is tested below.
    *ours, usual = client_startup.ROWS
    quicker = (*ours, replace(usual, command=ours[1].command))
    monkeypatch.setattr(client_startup, "ROWS", quicker)
    file = tmp_path / "client.json"
    code = cli.run(command.main, ["client", "--models", str(models), "--pairs", "1", "--json", str(file)])
    found = STUDIES["client"].read(file)
    output = capsys.readouterr()
    assert output.out.strip() == client_startup_table.render(found, "simple").strip()
    # Whether the bars are met depends on what else this machine does.
    assert code == (6 if client_startup_table.failures(found) else 0), output.err
    assert asked == [(models, [client_startup.MODEL])]
    assert [row["name"] for row in found["rows"]] == ["rest", "grpc", "tflite", "usual"]
    for row in found["rows"]:
        (seconds,) = row["seconds"]
        assert seconds == row["median"]["value"]
        assert row["median"]["interval95"] is None
    rest, _, _, usual = (row["median"]["value"] for row in found["rows"])
    assert min(rest, usual) > 0.05
    assert found["rows"][0]["times"]["value"] == pytest.approx(usual / rest, rel=0.01)


def test_the_usual_client_takes_longer(
    models: Path, server: Server, sample: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A digit in MNIST's form: the usual client's simple preparation of others needs a better network than this one.
    page = tmp_path / "page.png"
    Image.fromarray(255 - sample.x_test[sample.y_test == 7][0]).save(page)
    monkeypatch.setattr(client_startup, "_IMAGE", page)
    rest, usual = (client_startup._timed(client_startup.ROWS[each], server, models) for each in (0, -1))
    assert 0.05 < rest < usual


def test_medians_with_exact_intervals() -> None:
    ten = [0.30, 0.31, 0.32, 0.33, 0.34, 0.36, 0.37, 0.38, 0.39, 9.9]
    row = results(ten[::-1], [4.0] * 10)["rows"][0]
    # Of ten tosses of a coin, less than two are heads with a probability of 11 in 1024.
    assert row["median"] == {"value": 0.35, "interval95": [0.31, 0.39]}
    assert row["times"]["value"] == pytest.approx((4 / 0.34 + 4 / 0.36) / 2, abs=1e-4)
    assert results(ten[:6], [4.0] * 6)["rows"][0]["median"]["interval95"] == [0.30, 0.36]
    assert results(ten[:5], [4.0] * 5)["rows"][0]["median"]["interval95"] is None


def test_multiples_are_of_the_same_round() -> None:
    # Both were three times as slow in the second.
    found = results([0.2, 0.6] * 5, [4.0, 12.0] * 5)["rows"][0]["times"]
    assert found == {"value": 20.0, "interval95": [20.0, 20.0]}


@pytest.mark.parametrize(
    ("rest", "usual", "missed"),
    [
        (0.40, 4.0, []),
        (0.41, 4.2, ["over REST within 0.40 s: 0.41 s"]),
        (0.30, 2.9, ["at least 10 times as fast as the usual client: 9.7 times"]),
        (0.50, 1.0, [
            "over REST within 0.40 s: 0.50 s", "at least 10 times as fast as the usual client: 2.0 times",
        ]),
    ],
)  # fmt: skip
def test_what_is_missed_is_said(rest: float, usual: float, missed: list[str]) -> None:
    found = results([rest] * 10, [usual] * 10)
    assert client_startup_table.failures(found) == missed
    assert client_startup_table.render(found, "simple").count(", missed") == len(missed)
    assert client_startup_table.render(found, "github").count("| the client over REST") == 1


@pytest.mark.usefixtures("asked")
def test_a_client_that_fails_or_answers_wrongly(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(client_startup, "_DIGIT", "8")
        patch.setattr(client_startup, "ROWS", client_startup.ROWS[:1])
        assert cli.run(command.main, ["client", "--models", str(models), "--pairs", "1"]) == 6
    row = client_startup.Row("rest", "the client", "tfship.client.predict nowhere.png --server {rest}")
    monkeypatch.setattr(client_startup, "ROWS", (row,))
    with pytest.raises(TargetError, match=r"the client: exit code 3: error: nowhere\.png: no such file"):
        client_startup.run(models, 1)


def test_nothing_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(command.main, ["client", "--models", str(tmp_path)]) == 4
    assert "run `tfship export` first" in capsys.readouterr().err
