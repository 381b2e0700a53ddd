import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfship.benchmarks import command
from tfship.benchmarks.harness import load_generators
from tfship.benchmarks.harness.server_process import embedded
from tfship.benchmarks.studies import cases, reference, server_load, server_load_table, soak_table
from tfship.benchmarks.studies.reference import LoadCell
from tfship.benchmarks.studies.registry import STUDIES
from tfship.export.publishing import store
from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError, ResultError, Unreachable
from tfship.train.data.datasets import Digits

needs_generators = pytest.mark.skipif(
    shutil.which("wrk") is None or shutil.which("h2load") is None,
    reason="needs wrk and h2load: apt-get install wrk nghttp2-client",
)


def result(rate: float = 2000.0, p50: float | None = 0.5, **changed: Any) -> dict[str, Any]:
    """Results of one cell of the nn and one of the cnn, on a machine half as fast as the reference's."""
    sticks = {name: {each: 2 * us for each, us in by.items()} for name, by in reference.YARDSTICKS.items()}
    yardsticks = server_load._yardsticks(["nn", "cnn"], [sticks, sticks])
    row = {"rate": rate, "rates": [rate], "stable": True, "requests": 8000, "p50_ms": p50, "p99_ms": 0.9}
    row |= {"batch": 1, "protocol": "rest", "connections": 1, "problems": [], **changed}
    rows = [server_load._judged({**row, "model": name}, "float32", yardsticks) for name in ("nn", "cnn")]
    return {
        "schema": STUDIES["server"].schema,
        "created": "2026-01-02T00:00:00+00:00",
        "environment": {"cpu": "a processor", "cores": 2},
        "load_before": 0.0,
        "seconds": 4,
        "repeats": 3,
        "server_flags": [],
        "yardsticks": yardsticks,
        "tables": {"float32": rows},
    }


def test_reference_has_every_cell_and_a_bar_for_each() -> None:
    assert len(reference.RATES) == 8
    for cell, figures in reference.RATES.items():
        assert list(figures) == [1, 8, 32]
        assert all(reference.bar(cell, connections) for connections in figures)
        # Closed loop: requests in flight are rate times latency.
        for connections, each in figures.items():
            assert each.rate * each.p50 / 1e3 == pytest.approx(connections, rel=0.2)
            assert each.p50 < each.p99
    assert reference.bar(LoadCell("cnn", 1, "grpc"), 1) == reference.Bar("p50", 1.0)
    assert reference.bar(LoadCell("cnn", 1, "grpc"), 8) == reference.Bar("rate", 1.0)
    assert reference.bar(LoadCell("nn", 1, "grpc"), 32) == reference.Bar("rate", 0.6)
    assert reference.bar(LoadCell("nn", 1, "grpc"), 2) is None


def test_reference_is_scaled_to_this_machine_by_the_yardstick() -> None:
    """Half as fast a machine: half the rate is a ratio of 1, twice the latency is one too."""
    nn, cnn = result(rate=2243 * 0.4, p50=1.44)["tables"]["float32"]
    assert nn["rate_ratio"] == pytest.approx(0.4)
    assert nn["rate_ratio_scaled"] == pytest.approx(0.8)
    assert nn["met"]
    assert cnn["p50_ratio"] == pytest.approx(2.0)
    assert cnn["p50_ratio_scaled"] == pytest.approx(1.0)
    assert cnn["met"]
    nn, cnn = result(rate=2243 * 0.39, p50=1.46)["tables"]["float32"]
    assert not nn["met"]
    assert not cnn["met"]


def test_what_has_no_reference_or_goes_wrong_is_never_met() -> None:
    for row in result(rate=1e6, problems=["3 responses with an error status"])["tables"]["float32"]:
        assert row["met"] is False
    nn, cnn = result(rate=1e6, p50=None)["tables"]["float32"]
    assert nn["met"] is True
    assert cnn["met"] is False
    for row in result(rate=1e6, connections=2)["tables"]["float32"]:
        assert row["met"] is None
        assert row["reference"] is None


@pytest.mark.parametrize("layout", ["simple", "github"])
def test_table_shows_ratios_verdicts_and_what_went_wrong(layout: str) -> None:
    table = server_load_table.render(result(rate=2243 * 0.4, p50=3.0), layout)
    (line,) = [line for line in table.splitlines() if "nn-1-rest" in line and "cnn" not in line]
    assert " ".join(line.replace("|", " ").split()) == (
        "nn-1-rest 1 897 2,243 0.40 0.80 3 / 0.9 0.42 / 0.73 3.57 rate ≥ 0.8 met"
    )
    assert "missed" in table
    assert "1 of 2 bars met" in table
    assert (
        "nn float32: 15.2 µs here (median of 15.2, 15.2; drift 0 %), 7.6 µs on the reference machine: × 0.500"
        in table
    )
    wrong = result(problems=["3 responses with an error status"], stable=False, p50=None, connections=2)
    faulty = server_load_table.render(wrong, layout)
    assert faulty.count(" FAULTY") >= 2
    assert "float32 nn-1-rest at 2 connections: 3 responses with an error status" in faulty
    assert "~ 2,000" in faulty
    assert "too few / 0.9" in faulty


def test_percentiles_are_left_out_below_their_sample_size() -> None:
    few = load_generators.Run(300, 4.0, np.arange(5001.0), 0)
    row = server_load._row(LoadCell("nn", 1, "rest"), 8, [few, few])
    assert (row["p50_ms"], row["p99_ms"]) == (2.5, None)
    row = server_load._row(LoadCell("nn", 1, "rest"), 8, [few, few, few])
    assert row["p99_ms"] == 4.95
    assert (row["rate"], row["stable"], row["requests"]) == (75.0, True, 900)
    none = load_generators.Run(0, 4.0, np.array([]), 0, problem="no request got a response")
    row = server_load._row(LoadCell("nn", 1, "rest"), 8, [few, none])
    assert row["stable"] is False
    assert row["problems"] == ["no request got a response"]


@needs_generators
def test_a_real_server_is_measured(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "speed.json"
    arguments = ["--only", "nn-1-*", "--connections", "2", "--seconds", "1", "--repeats", "1"]
    served = ["--models", str(models), "--json", str(file), "--", "--tensorflow_session_parallelism=1"]
    assert cli.run(command.main, ["server", *arguments, *served]) == 0
    results = STUDIES["server"].read(file)
    assert capsys.readouterr().out.strip() == server_load_table.render(results, "simple").strip()
    assert results["server_flags"] == ["--tensorflow_session_parallelism=1"]
    assert list(results["models"]) == ["nn"]
    stick = results["yardsticks"]["nn"]["float32"]
    assert len(stick["taken_us"]) == 2
    assert 0 < stick["us"] < 1000
    rows = results["tables"]["float32"]
    assert [(row["protocol"], row["connections"]) for row in rows] == [("rest", 2), ("grpc", 2)]
    for row in rows:
        assert row["problems"] == []
        assert row["requests"] >= 11
        assert row["rate"] > 0
        assert row["p50_ms"] > 0


@needs_generators
def test_a_real_server_s_memory_is_watched(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "soak.json"
    little = ["--seconds=1", "--starts=1", "--seconds-each=1", "--connections=2"]
    served = ["--models", str(models), "--json", str(file), "--", "--workers=1"]
    assert cli.run(command.main, ["soak", *little, *served]) == 0
    results = STUDIES["soak"].read(file)
    assert capsys.readouterr().out.strip() == soak_table.render(results, "simple").strip()
    assert results["server_flags"] == ["--prefer_tflite_model", "--workers=1"]
    assert results["problems"] == []
    assert results["requests"] > results["refused"] > 0
    assert [row["process"] for row in results["processes"]] == ["parent", "worker 1"]
    for row in results["processes"]:
        assert 0 < row["resident_mib"]["start"] <= row["resident_mib"]["most"]
        # Two rounds at least are needed, and a slope takes more.
        assert row["growth"] == "unknown"
    for protocol in ("rest", "grpc"):
        assert 0 < results["start"][protocol]["median"] < 60


@needs_generators
def test_wrong_answers_are_found(models: Path, sample: Digits, tmp_path: Path) -> None:
    """A request that is refused, under load and between the runs; and an answer that isn't the file's."""
    with embedded(models, ["nn"], "--prefer_tflite_model") as server:
        images = sample.x_test[:1, ..., np.newaxis] / 255
        asked = {
            protocol: cases.prepare(
                LoadCell("nn", 1, protocol), store.latest(models / "nn"), "float32", server, images, tmp_path
            )
            for protocol in ("rest", "grpc")
        }
        for protocol, case in asked.items():
            size = case.verify()
            case.expected[0, 0] += 0.001
            with pytest.raises(ResultError, match=f"nn-1-{protocol}: .* differs from the model file's"):
                case.verify()
            case.file.write_bytes(bytes(5))  # no JSON; a message that names no model
            with pytest.raises(
                ResultError, match=f"nn-1-{protocol}: expected predictions; the server returned"
            ):
                case.verify()
            run = case.load(2, 1, size)
            assert run.requests > 0
            assert (
                "responses with an error status" if protocol == "rest" else "some are errors"
            ) in run.problem
    for protocol, case in asked.items():
        with pytest.raises(Unreachable, match=f"nn-1-{protocol}: the server doesn't respond"):
            case.verify()


def test_wrong_answers_under_load_are_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server_load, "run", lambda *_: result(problems=["3 responses with an error status"]))
    monkeypatch.setattr(load_generators, "require", lambda: None)
    assert cli.run(command.main, ["server"]) == 6
    captured = capsys.readouterr()
    assert "FAULTY" in captured.out
    assert "wrong responses in 2 cells" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nn-2-rest"], "no cell is called 'nn-2-rest'; there are nn-1-rest, "),
        (["--connections", "8,0"], "'0': expected a whole number, 1 or more"),
        (["--seconds", "0.5"], "'0.5': expected a whole number, 1 or more"),
        (["--format", "float64"], "unknown format: float64"),
        (["--format", "int8_uint8"], "takes other tensors than the reference"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.run(command.main, ["server", *arguments])
    except SystemExit as error:  # argparse
        code = int(error.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err


@needs_generators
def test_what_is_not_exported_is_refused(tmp_path: Path, sample: Digits) -> None:
    with pytest.raises(ArtifactError, match="run `tfship export` first"):
        server_load.run(tmp_path, server_load.LoadPlan(), sample)
    (tmp_path / "nn" / "1").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"float32.tflite: no such file; run `tfship export`"):
        server_load.run(tmp_path, server_load.LoadPlan([LoadCell("nn", 1, "rest")]), sample)
