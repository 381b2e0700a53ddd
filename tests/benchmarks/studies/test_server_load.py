import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfship.benchmarks import command
from tfship.benchmarks.harness import load_generators
from tfship.benchmarks.harness.server_process import embedded
from tfship.benchmarks.studies import cases, reference, server_load, server_load_table, soak, soak_table
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


def result(rate: float = 2000.0, format_name: str = "float32", **changed: Any) -> dict[str, Any]:
    """Results of one cell of the nn and one of the cnn, on a machine half as fast as the first reference."""
    machine = reference.MACHINES[0]
    sticks = {name: {each: 2 * us for each, us in by.items()} for name, by in machine.yardsticks.items()}
    found, yardsticks = server_load._yardsticks(["nn", "cnn"], [sticks, sticks])
    assert found is machine
    row = {"rate": rate, "rates": [rate], "stable": True, "requests": 8000, "p50_ms": 0.5, "p99_ms": 0.9}
    row |= {"batch": 1, "protocol": "rest", "connections": 1, "problems": [], **changed}
    rows = [
        server_load._judged({**row, "model": name}, format_name, machine, yardsticks)
        for name in ("nn", "cnn")
    ]
    return {
        "schema": STUDIES["server"].schema,
        "created": "2026-01-02T00:00:00+00:00",
        "environment": {"cpu": "a processor", "cores": 2},
        "load_before": 0.0,
        "seconds": 4,
        "repeats": 3,
        "server_flags": [],
        "reference": machine.name,
        "yardsticks": yardsticks,
        "memory_mib": {format_name: 150},
        "tables": {format_name: rows},
    }


def test_each_reference_has_every_cell_and_a_bar_for_each() -> None:
    assert len(reference.CELLS) == 8
    for machine in reference.MACHINES:
        assert set(machine.rates) == set(reference.CELLS)
        for cell, figures in machine.rates.items():
            assert list(figures) == [1, 8, 32]
            # Closed loop: requests in flight are rate times latency. The second table has outliers.
            tolerance = 0.2 if machine is reference.MACHINES[0] else 0.45
            for connections, each in figures.items():
                assert each.rate * each.p50 / 1e3 == pytest.approx(connections, rel=tolerance)
                assert each.p50 < each.p99
                for name in ("float32", "savedmodel"):
                    assert reference.bar(cell, connections, name)
    assert reference.bar(LoadCell("cnn", 1, "grpc"), 8, "float32") == 2.5
    assert reference.bar(LoadCell("nn", 1, "grpc"), 1, "savedmodel") == 0.8
    assert reference.bar(LoadCell("nn", 1, "grpc"), 2, "float32") is None
    assert reference.bar(LoadCell("nn", 1, "grpc"), 8, "int8") is None


def test_the_nearest_reference_is_taken_by_the_cnn_if_it_was_measured() -> None:
    slow, fast = reference.MACHINES
    assert reference.nearest({"nn": 6.3, "cnn": 200.0}) is slow
    assert reference.nearest({"nn": 7.6, "cnn": 130.0}) is fast
    assert reference.nearest({"nn": 7.4}) is slow
    assert reference.nearest({"nn": 3.0}) is fast


def test_reference_is_scaled_to_this_machine_by_the_yardstick() -> None:
    """Half as fast a machine: half the rate is a ratio of 1."""
    nn, cnn = result(rate=2243 * 0.8)["tables"]["float32"]
    assert nn["rate_ratio"] == pytest.approx(0.8)
    assert nn["rate_ratio_scaled"] == pytest.approx(1.6)
    assert (nn["met"], cnn["met"]) == (True, True)
    nn, cnn = result(rate=2243 * 0.79)["tables"]["float32"]
    assert (nn["met"], cnn["met"]) == (False, True)
    nn, cnn = result(rate=2243 * 0.79, format_name="savedmodel")["tables"]["savedmodel"]
    assert (nn["met"], cnn["met"]) == (True, True)


def test_what_has_no_reference_or_goes_wrong_is_never_met() -> None:
    for row in result(rate=1e6, problems=["3 responses with an error status"])["tables"]["float32"]:
        assert row["met"] is False
    for row in result(rate=1e6, connections=2)["tables"]["float32"]:
        assert row["met"] is None
        assert row["reference"] is None
    for row in result(rate=1e6, format_name="int8")["tables"]["int8"]:
        assert row["met"] is None
        assert row["rate_ratio"] > 100


@pytest.mark.parametrize("layout", ["simple", "github"])
def test_table_shows_ratios_verdicts_and_what_went_wrong(layout: str) -> None:
    table = server_load_table.render(result(rate=1304 * 0.8, p50_ms=3.0), layout)
    rows = {
        words[0]: " ".join(words[1:])
        for line in table.splitlines()
        if (words := line.replace("|", " ").split()) and words[0].endswith("-1-rest")
    }
    assert rows == {
        "nn-1-rest": "1 1,043 2,243 0.47 0.93 3 / 0.9 0.42 / 0.73 ≥ 1.6 missed",
        "cnn-1-rest": "1 1,043 1,304 0.80 1.60 3 / 0.9 0.72 / 1.23 ≥ 1.6 met",
    }
    assert "1 of 2 bars met" in table
    assert "Reference: TensorFlow Serving 2.20.0 on a two-core AMD EPYC." in table
    assert "float32: the server's processes take 150 MiB (proportional set size) after the runs" in table
    assert (
        "nn float32: 15.2 µs here (median of 15.2, 15.2; drift 0 %), 7.6 µs on the reference machine: × 0.500"
        in table
    )
    wrong = result(problems=["3 responses with an error status"], stable=False, p50_ms=None, connections=2)
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
    arguments += ["--format", "float32,savedmodel"]
    flags = ["--workers=1", "--enable_model_warmup=false"]
    served = ["--models", str(models), "--json", str(file), "--", *flags]
    assert cli.run(command.main, ["server", *arguments, *served]) == 0
    results = STUDIES["server"].read(file)
    assert capsys.readouterr().out.strip() == server_load_table.render(results, "simple").strip()
    assert results["server_flags"] == flags
    assert list(results["models"]) == ["nn"]
    stick = results["yardsticks"]["nn"]["float32"]
    assert len(stick["taken_us"]) == 3
    assert 0 < stick["us"] < 1000
    assert list(results["tables"]) == ["float32", "savedmodel"]
    for rows in results["tables"].values():
        assert [(row["protocol"], row["connections"]) for row in rows] == [("rest", 2), ("grpc", 2)]
        for row in rows:
            assert row["problems"] == []
            assert row["requests"] >= 11
            assert row["rate"] > 0
            assert row["p50_ms"] > 0
    memory = results["memory_mib"]
    assert 20 < memory["float32"] < memory["savedmodel"]  # TensorFlow


@needs_generators
def test_a_real_server_s_memory_is_watched(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "NETWORKS", ("nn",))  # each kind of request takes a second of all cores
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
