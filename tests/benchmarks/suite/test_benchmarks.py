import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from conftest import ROOT
from processes import command as run_command
from processes import forked
from tfship.benchmarks import command
from tfship.benchmarks.harness import mlperf_loadgen, process_info, timer
from tfship.benchmarks.harness.checkpoint import Journal
from tfship.benchmarks.harness.server_process import embedded
from tfship.benchmarks.suite import (
    mlperf_stage,
    model_probe,
    model_selection,
    runner,
    serving_backends,
    system_under_test,
)
from tfship.benchmarks.suite.measured_model import Bench, Options
from tfship.benchmarks.suite.modes import MODES, Mode
from tfship.benchmarks.suite.system_under_test import OpenSubject, Subject
from tfship.export.conversion.formats import FORMATS
from tfship.serving.server.settings import cores
from tfship.train.common import cli
from tfship.train.data.datasets import Digits

SCHEMA = json.loads((ROOT / "benchmarks" / "report" / "results.schema.json").read_text())
# Everything, as briefly as it goes.
IMAGES, FEWER = 200, 100
BRIEF = Mode(
    "default", "", IMAGES, FEWER, True, True,
    window=22, window_seconds=0.0, most=100, longest=1.0, longest_compared=None, rounds=3,
    patience=0.0, trial_seconds=0.1, trials=1, sweep_seconds=0.1, connections=(1, 4), offline=128,
)  # fmt: skip
TINY = replace(BRIEF, name="quick", variants=False, tensorflow=False, images=100)
# A format in float32, an integer one, one that takes pixels, and one whose layers XNNPACK doesn't run.
MEASURED = ("float32", "int8", "int8_uint8", "int16x8")
# The format that is measured with other threads and without XNNPACK, too.
VARIED = "float32"
SERVED = [
    "embedded TFLite, REST JSON",
    "embedded TFLite, gRPC",
    "embedded SavedModel, REST JSON",
    "embedded SavedModel, REST base64",
    "embedded SavedModel, gRPC",
]


def measured(models: Path, sample: Digits, mode: Mode, out: Path, names: list[str]) -> dict[str, Any]:
    return runner.run(model_selection.of(models, names, sample), mode, Options(), out)


def few_rows(*arguments: Any, **options: Any) -> list[Subject]:
    return [
        row
        for row in system_under_test.in_process(*arguments, **options)
        if row.format == VARIED or (row.plain and row.format in (*MEASURED, "savedmodel", "keras"))
    ]


@pytest.fixture(scope="module")
def probes() -> dict[Path, model_probe.Probe]:
    """What `results` found out about each file in a process of its own, which takes seconds with TensorFlow."""
    return {}


@pytest.fixture(scope="module")
def results(
    models: Path,
    sample: Digits,
    tmp_path_factory: pytest.TempPathFactory,
    probes: dict[Path, model_probe.Probe],
) -> dict[str, Any]:
    """One model, measured for real in windows too short for a 99th percentile, in few of them, with light servers."""
    probe = model_probe.probe

    def kept(kind: model_probe.Kind, path: Path, *arguments: Any, **options: Any) -> model_probe.Probe:
        probes[path] = probe(kind, path, *arguments, **options)
        return probes[path]

    # TensorFlow optimises each signature in its first request: not those that nobody asks.
    light = ("--workers=1", "--enable_model_warmup=false")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timer, "MOST", BRIEF.rounds)
        patch.setattr(timer, "_LEAD_IN_SECONDS", 0.0)
        patch.setattr(model_probe, "probe", kept)
        patch.setattr(runner, "in_process", few_rows)
        patch.setattr(serving_backends, "embedded", lambda *arguments: embedded(*arguments, *light))
        return measured(models, sample, BRIEF, tmp_path_factory.mktemp("out"), ["nn"])


def test_everything_is_measured_that_the_schema_asks_for(results: dict[str, Any]) -> None:
    jsonschema.validate(results, SCHEMA)
    model = results["models"]["nn"]
    rows = {row["name"]: row for row in model["rows"]}
    threads = results["threads"]
    variants = {f"{VARIED}, no XNNPACK", *(f"{VARIED}, {number} threads" for number in threads[1:])}
    assert set(rows) == {*MEASURED, *variants, "savedmodel", "keras", *SERVED}
    assert [row["name"] for row in model["rows"] if row["kind"] == "served"] == SERVED
    for row in rows.values():
        assert row["bytes"] > 50_000
        plain = row["kind"] != "tflite" or row["name"] in FORMATS
        assert row["accuracy"]["images"] == (IMAGES if plain else FEWER)
        assert 0 < row["calibration_error"]["value"] < 0.5
        assert row["load_ms"] > 0
        assert row["first_ms"] > 0
        assert row["peak_bytes"] > 20e6
        assert row["cpu_seconds_per_1000"]["here"] > 0
        assert row["query"]["samples"] >= 66
        assert row["query"]["p50_us"] > 0
        assert list(row["batches"]) == ["1", "8", "64"]
        assert (row["scenarios"]["offline"] or {"images": 0})["images"] == (128 if plain else 0)
        assert row["query"]["p99_us"] is None
        assert row["query"]["missing"]["p99"].startswith("needs 662 samples")
        if row["kind"] == "served":
            assert row["cpu_seconds_per_1000"]["server"] >= 0
            assert [step["connections"] for step in row["sweep"]] == [1, 4]
            assert row["scenarios"]["server"]["trials"]
            assert all(value >= 0 for value in row["parts_us"].values())
            assert row["end_to_end"]["p50_us"] > 0
        else:
            assert row["sweep"] is None
            assert (row["end_to_end"] is not None) == plain
            assert plain or "see the row" in row["empty"]["end_to_end"]
    assert rows["int8"]["arena_bytes"] > 1000 or "arena_bytes" in rows["int8"]["empty"]
    assert rows["float32"]["arena_bytes"] is None
    assert rows["float32"]["scenarios"]["server"]["trials"]
    assert rows["keras"]["peak_bytes"] > 3 * rows["float32"]["peak_bytes"]


def test_the_import_of_tensorflow_is_measured_apart(
    results: dict[str, Any], probes: dict[Path, model_probe.Probe]
) -> None:
    (row,) = (row for row in results["models"]["nn"]["rows"] if row["name"] == "keras")
    (found,) = (each for path, each in probes.items() if path.suffix == ".keras")
    assert (found.first_ms, found.peak_bytes) == (row["first_ms"], row["peak_bytes"])
    # Which is what takes most of the memory.
    assert row["peak_bytes"] > (found.runtime_bytes or 0) > 0.5 * row["peak_bytes"] > 100_000_000


def test_every_format_has_a_row_and_its_variants(models: Path, sample: Digits) -> None:
    """Those above are measured; the others are only listed."""
    (model,) = model_selection.of(models, ["nn"], sample)
    rows = {row.name: row for row in runner.rows(model, BRIEF, {})}
    threads = [f", {number} threads" for number in range(2, cores() + 1) if number == cores()]
    variants = {f"{name}{which}" for name in FORMATS for which in ("", ", no XNNPACK", *threads)}
    assert set(rows) == {*variants, "savedmodel", "keras"}
    assert [row.name for row in runner.rows(model, TINY, {})] == list(FORMATS)
    assert all(row.path is not None and row.path.exists() for row in rows.values())
    assert len(model.limited(None).images.pixels) == len(model.images.pixels) == 1000


def test_one_model_answers_the_same_however_it_is_run(results: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in results["models"]["nn"]["rows"]}
    same = ["float32, no XNNPACK", "savedmodel", "keras", *SERVED]
    for name in same:
        if rows[name]["format"] in ("float32", "savedmodel", "keras"):
            assert rows[name]["against_float32"]["disagreements"] == 0
            if rows[name]["accuracy"]["images"] == IMAGES:
                assert rows[name]["right"] == rows["float32"]["right"]


def test_what_quantization_does_is_told_layer_by_layer_and_image_by_image(results: dict[str, Any]) -> None:
    model = results["models"]["nn"]
    assert set(model["operators"]) == set(MEASURED)
    for name, operators in model["operators"].items():
        assert any(each["operator"] == "FULLY_CONNECTED" for each in operators)
        assert sum(each["us"] for each in operators) > 0
        if name == "int16x8":
            assert not any(each["delegated"] for each in operators if each["operator"] == "FULLY_CONNECTED")
    assert "float32" not in model["layers"]
    assert all(each["snr_db"] is None or each["snr_db"] > 0 for each in model["layers"]["int8"])
    rows = {row["name"]: row for row in model["rows"]}
    for name, changed in model["changed"].items():
        assert changed["count"] == rows[name]["against_float32"]["disagreements"]
    assert model["absent"]["embedded TFLite, REST base64"].startswith("a TFLite file has no signature")


def test_results_say_what_ran(results: dict[str, Any], sample: Digits) -> None:
    assert results["data"]["sha256"] == sample.sha256
    assert results["environment"]["cores"] >= 1
    assert results["environment"]["packages"]["tensorflow"]
    assert results["resumed"] == []


def slowed(seconds: float, which: str) -> Callable[..., list[Subject]]:
    """Return the rows in this process, one of which sleeps before each query."""

    class Sleeping(OpenSubject):
        def run(self, query: Any) -> object:
            time.sleep(seconds)
            return super().run(query)

    def slow(row: Subject) -> Subject:
        def opened(at_once: int) -> OpenSubject:
            asked = row.open(at_once)
            asked.__class__ = Sleeping
            return asked

        return replace(row, open=opened)

    def rows(*arguments: Any, **options: Any) -> list[Subject]:
        found = system_under_test.in_process(*arguments, **options)
        # A slow one, what it is compared with, and one more.
        return [
            slow(row) if row.name == which else row
            for row in found
            if row.name in ("float32", "int8", "int16x8")
        ]

    return rows


def test_a_slowed_format_is_caught_and_the_same_file_passes(
    models: Path,
    sample: Digits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(timer, "_LEAD_IN_SECONDS", 0.0)  # what is slowed is so by tens of times
    monkeypatch.setattr(serving_backends, "SERVERS", ())  # a format in this process is slowed
    monkeypatch.setattr(runner, "in_process", slowed(0.0, ""))
    measured(models, sample, TINY, tmp_path / "old", ["nn"])
    monkeypatch.setattr(runner, "in_process", slowed(0.0005, "int8"))
    measured(models, sample, TINY, tmp_path / "new", ["nn"])
    old, new = (str(tmp_path / each / "results.json") for each in ("old", "new"))
    gate = ["gate", "--baseline", old, "--results"]
    assert cli.run(command.main, [*gate, old]) == 0
    capsys.readouterr()
    assert cli.run(command.main, [*gate, new]) == 1
    said = "".join(capsys.readouterr())
    assert "int8" in said


def quick_benchmark(*argv: str) -> None:
    """Do what `tfship benchmark --quick` does, quicker still: three rows in this process, and a server."""
    timer.MOST, timer._LEAD_IN_SECONDS = 3, 0.0
    runner.in_process = slowed(0.0, "")  # type: ignore[attr-defined]
    serving_backends.embedded = lambda *arguments: embedded(*arguments, "--workers=1")  # type: ignore[attr-defined]
    MODES["quick"] = replace(TINY, connections=(1,), offline=64)
    run_command("benchmark", "--quick", *argv)


def test_a_server_that_dies_half_way_leaves_what_was_measured(
    models: Path, sample: Digits, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ask = ("--model", "nn", "--models", str(models), "--out", str(out))
    with forked(quick_benchmark, *ask) as going:
        going.reaches(lambda: sum(1 for _ in out.glob("partial/*/*/[!.]*.json")) >= 30)
        assert going.process.pid is not None
        (server,) = (
            each
            for each in process_info.children(going.process.pid)
            if b"tfship.serving" in Path(f"/proc/{each}/cmdline").read_bytes()
        )
        os.kill(server, signal.SIGKILL)
        assert going.ends() == 5
        said = going.error
    assert "the model server ended with exit code -9" in said
    assert "the same command resumes the run" in said
    assert "Traceback" not in said
    assert not (out / "results.json").exists()
    kept = [json.loads(path.read_text()) for path in out.glob("partial/*/*/[!.]*.json")]
    assert len(kept) >= 30
    asked = {each["key"]: each["value"] for each in kept if each["part"] == "nn: one image"}
    slices = [asked[f"window 0, slice {turn}"].get("int8") for turn in range(timer.SLICES)]
    window = np.concatenate([each[0] for each in slices if each])

    with forked(quick_benchmark, *ask) as again:
        assert again.ends() == 0, again.error
        assert "resuming an interrupted run" in again.error
    results = json.loads((out / "results.json").read_text())
    jsonschema.validate(results, SCHEMA)
    assert len(results["resumed"]) == 1
    row = next(row for row in results["models"]["nn"]["rows"] if row["name"] == "int8")
    assert row["query"]["windows_p50_us"][0] == pytest.approx(float(np.median(window)) / 1e3, abs=0.01)
    assert not list(out.glob("partial/*"))
    assert (out / "report.html").is_file()


@pytest.mark.skipif(not mlperf_loadgen.AVAILABLE, reason="needs mlcommons-loadgen")
def test_loadgen_counts_as_we_do(models: Path, sample: Digits, tmp_path: Path) -> None:
    (model,) = model_selection.of(models, ["cnn"], sample)
    mode = replace(BRIEF, offline=512)
    rows = runner.rows(model, mode, {})
    (reference,) = [row for row in rows if row.name == "float32"]
    bench = Bench(
        model.version, model.card, model.contract, model.keras, rows, {}, model.images, mode, Options(),
        Journal(tmp_path, {}), lambda stage, row: None,
    )  # fmt: skip
    # Two runs on a busy machine differ, but not by a factor of 3, which another unit or count would make.
    waiting: dict[str, mlperf_loadgen.Scenario] = {"single_stream": "SingleStream", "offline": "Offline"}
    ratios = []
    for _ in range(10):
        for name, found in mlperf_stage.compared(bench, reference, list(waiting.values())).items():
            assert found["valid"]
            assert f"Scenario : {waiting[name]}" in found["summary"]
            ratios.append((name, found["ratio"]))
            if 1 / 3 < found["ratio"] < 3:
                del waiting[name]
        if not waiting:
            break
    assert not waiting, ratios


def test_other_data_than_the_training_data_is_refused(
    models: Path, sample: Digits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.npz"
    np.savez(
        other, x_train=sample.x_train, y_train=sample.y_train, x_test=sample.x_train, y_test=sample.y_train
    )
    code = cli.run(command.main, ["--models", str(models), "--data", str(other), "--out", str(tmp_path)])
    assert code == 3
    assert "was made with sample: 5,000 digits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--model", "flowers"], 4, "run `tfship export` first"),
        (["--model", "nn", "--model", "nn"], 2, "expected each model once"),
        (["--latency-bound", "0"], 2, "expected milliseconds"),
        (["--quick", "--official"], 2, "not allowed with"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    with contextlib.suppress(SystemExit):
        assert cli.run(command.main, ["--models", str(tmp_path), *arguments]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "target",
    [
        "install",
        "demo",
        "train",
        "export",
        "serve",
        "serve-docker",
        "predict",
        "benchmark",
        "report",
        "test",
        "lint",
        "clean",
        "help",
    ],
)
def test_every_make_target_is_listed_and_says_what_it_does(target: str, tmp_path: Path) -> None:
    help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"  make {target} " in help_text
    # Dry, and with an environment that is up to date, so that nothing is installed.
    (tmp_path / ".installed").touch()
    os.utime(tmp_path / ".installed", (2**31, 2**31))
    dry = ["make", "-n", target, f"VENV={tmp_path}", "IMAGE=x.png"]
    lines = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f'echo "{target}: ' in lines or target in ("demo", "help")
    assert "pip" not in lines


def test_make_predict_without_a_picture_says_so(tmp_path: Path) -> None:
    (tmp_path / ".installed").touch()
    os.utime(tmp_path / ".installed", (2**31, 2**31))
    done = subprocess.run(
        ["make", "predict", f"VENV={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no image given; run make predict IMAGE=" in done.stderr


def test_help_is_quick() -> None:
    for started in (["tfship.train.common.entry_point", "benchmark"], ["tfship.benchmarks.demo"]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", *started, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "exit codes" in done.stdout
        assert "keras" not in done.stderr
