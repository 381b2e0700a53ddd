"""One model in a process of its own: times, memory, and what it doesn't load.

What needs TensorFlow, a SavedModel and a Keras file, is measured in test_benchmarks.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from tfship.benchmarks.harness import process_info
from tfship.benchmarks.suite import model_probe
from tfship.train.common import cli
from tfship.train.common.errors import TargetError, TfshipError

RELEASED = ROOT / "models" / "released"
TFLITE = RELEASED / "cnn.int8.tflite"
SHAPE = (28, 28, 1)


def check(found: model_probe.Probe, path: Path) -> None:
    assert 0 < found.load_ms < 300_000
    assert 0 < found.first_ms < 300_000
    assert found.runtime_bytes is not None
    assert found.peak_bytes is not None
    assert found.peak_bytes > found.runtime_bytes + path.stat().st_size


def test_a_tflite_file_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with_xnnpack = model_probe.probe("tflite", TFLITE, SHAPE, threads=1)
    check(with_xnnpack, TFLITE)
    check(model_probe.probe("tflite", TFLITE, SHAPE, xnnpack=False), TFLITE)
    # LiteRT takes some ten million bytes, TensorFlow several hundred.
    assert (with_xnnpack.peak_bytes or 0) < 300_000_000


def test_tflite_needs_no_tensorflow() -> None:
    script = (
        "import sys; from tfship.benchmarks.suite import model_probe as probe; code = probe.main(sys.argv[1:]); "
        "print([each for each in sys.modules if each.split('.')[0] in ('tensorflow', 'keras')]); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "tflite", str(TFLITE), *map(str, SHAPE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures, loaded = done.stdout.splitlines()
    assert list(json.loads(figures)) == ["load_ms", "first_ms", "runtime_bytes", "peak_bytes"]
    assert loaded == "[]"
    assert done.stderr == ""


def test_what_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"none.tflite: the process .* exit code 4: .*no such TFLite file"):
        model_probe.probe("tflite", tmp_path / "none.tflite", SHAPE)
    with pytest.raises(TargetError, match=r"ended with exit code 1: .*ValueError"):
        model_probe.probe("tflite", TFLITE, (9, 9, 3))
    with pytest.raises(TargetError, match=r"exit code 2: error: --threads with keras: TensorFlow chooses"):
        model_probe.probe("keras", RELEASED / "cnn.keras", SHAPE, threads=1)
    with pytest.raises(TargetError, match=r"exit code 2: error: --no-xnnpack with savedmodel: XNNPACK runs"):
        model_probe.probe("savedmodel", tmp_path, SHAPE, xnnpack=False)


def test_memory_is_left_out_where_the_kernel_does_not_say_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process_info, "AVAILABLE", False)
    assert cli.run(model_probe.main, ["tflite", str(TFLITE), *map(str, SHAPE)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["load_ms"] > 0
    assert (figures["runtime_bytes"], figures["peak_bytes"]) == (None, None)


def test_the_peak_is_of_the_process_s_whole_life() -> None:
    script = "held = bytes(range(256)) * 400_000; del held; print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    peak = process_info.peak(process.pid)
    assert peak > 100_000_000 > process_info.footprint(process.pid).resident
    process.communicate(b"\n")
    with pytest.raises(TargetError, match="it has ended"):
        process_info.peak(process.pid)


def test_memory_of_no_process_says_where_it_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_info, "AVAILABLE", False)
    monkeypatch.setattr(process_info, "_PROC", Path("/nowhere"))
    for look in (process_info.footprint, process_info.peak):
        with pytest.raises(TfshipError, match="can be measured on Linux only"):
            look(1)
