"""The zoo: its judgements one by one, and the whole command on one small network."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfship.benchmarks import command
from tfship.benchmarks.harness import child_terminal
from tfship.benchmarks.studies.registry import STUDIES
from tfship.benchmarks.studies.zoo import study, table
from tfship.export.preprocessing import range_detection
from tfship.train.common import cli

GIGABYTE = 1_000_000_000


def row(export: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return the row of a network that was exported rightly, with changes."""
    behaviour = {
        "code": 0, "timed_out": False, "seconds": 30.0, "peak_bytes": GIGABYTE, "lines": 20, "traceback": False,
        "last_line": "float32  104 KiB",
    }  # fmt: skip
    right = {"value": 1.0, "decisions": 300, "wrong": 0}
    return {
        "model": "vit",
        "says": "a vision transformer",
        "trained_on": "0…1",
        "export": behaviour | (export or {}),
        "values": "0…1",
        "values_right": True,
        "formats": ["float32", "int8"],
        "left_out": {},
        "agreement": {"savedmodel": right, "float32": right, "int8": {**right, "value": 0.96, "wrong": 12}},
        **changes,
    }


def judged(found: dict[str, Any], refused: str = "") -> dict[str, Any]:
    architecture = study.Architecture("a vision transformer", 32, 3, "0…1", refused=refused)
    return found | study.judge(architecture, found)


def agreement(name: str, value: float, wrong: int) -> dict[str, Any]:
    return {**row()["agreement"], name: {"value": value, "decisions": 300, "wrong": wrong}}


def test_right() -> None:
    found = judged(row())
    assert (found["verdict"], found["problems"]) == ("right", [])
    # A tie decided otherwise is none, and formats may be missing.
    assert judged(row(agreement=agreement("savedmodel", 0.997, 0)))["verdict"] == "right"
    only = {"savedmodel": row()["agreement"]["savedmodel"]}
    alone = judged(row(formats=[], left_out={"int8": "no calibration"}, agreement=only))
    assert alone["verdict"] == "right"
    assert "agreement with Keras 1.000, 0 formats" in table.line(alone)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (row(values="0…255", values_right=False), "detected values 0…255; trained on 0…1"),
        (
            row(agreement=agreement("savedmodel", 0.997, 1)),
            "savedmodel decides 1 of 300 differently from Keras",
        ),
        (row(agreement=agreement("float32", 0.5, 150)), "float32 decides 150 of 300 differently"),
        (row(agreement=agreement("int8", 0.94, 18)), "int8 agrees with Keras on 0.940; expected 0.95"),
        (row(answers="killed by SIGABRT"), "the published version can't be run: killed by SIGABRT"),
        (row({"lines": 41}), "41 lines on the terminal; expected at most 40"),
        (row({"seconds": 601.0}), "took 601 s; expected at most 600"),
        (row({"code": -9, "timed_out": True, "seconds": 600.2}), "took 600 s"),
        (row({"peak_bytes": 6_100_000_000}), "6.1 GB; expected at most 6"),
        (row({"code": -6}), "the export was killed by SIGABRT"),
        (row({"traceback": True}), "a traceback: "),
        (row({"code": 1, "last_line": "KeyError: 3"}), "exit 1 without a reason: KeyError: 3"),
        (
            row({"code": 6, "last_line": "error: vit: no reason"}),
            "unexpectedly refused, error: vit: no reason",
        ),
    ],
)
def test_failures(found: dict[str, Any], problem: str) -> None:
    failed = judged(found)
    assert failed["verdict"] == "FAILED"
    assert problem in "; ".join(failed["problems"])
    machine = {"cpu": "a processor", "cores": 2}
    results = {"environment": machine, "data": {"label": "digits"}, "models": [failed, judged(row())]}
    shown = table.render(results, "simple")
    assert "2 networks (digits): 1 right, 1 FAILED." in shown
    assert f"- vit: FAILED: {failed['problems'][0]}" in shown
    assert table.line(failed).startswith("vit: FAILED: ")


def test_refusals() -> None:
    refused = row({"code": 6, "last_line": "error: vit: no better than guessing on 200 images"})
    found = judged(refused, refused="no better than guessing")
    assert (found["verdict"], found["problems"]) == ("refused", [])
    assert judged(refused, refused="regression")["verdict"] == "FAILED"
    assert judged(row(), refused="regression")["problems"] == ["exported; expected a refusal: regression"]
    # The right reason doesn't excuse the rest.
    loud = row(refused["export"] | {"lines": 90})
    assert judged(loud, refused="no better than guessing")["verdict"] == "FAILED"


def test_agreement() -> None:
    keras = np.array([[0.7, 0.3], [0.505, 0.495], [0.1, 0.9], [0.2, 0.8]], np.float32)
    assert study.agreement(keras, keras) == {"value": 1.0, "decisions": 4, "wrong": 0}
    other = keras[:, ::-1].copy()
    other[0] = keras[0]
    # The second is a tie.
    assert study.agreement(other, keras) == {"value": 0.25, "decisions": 4, "wrong": 2}
    # Each label counts: 0.505 and 0.495 are ties.
    assert study.agreement(1 - keras, keras, several=True) == {"value": 0.0, "decisions": 8, "wrong": 6}
    for bad in (keras[:, :1], np.full_like(keras, np.nan)):
        assert study.agreement(bad, keras) == {"value": 0.0, "decisions": 4, "wrong": 4}


def python(script: str, tmp_path: Path, seconds: float = 60) -> child_terminal.Ended:
    return child_terminal.run([sys.executable, "-c", script], tmp_path, seconds)


def test_a_command_at_a_terminal(tmp_path: Path) -> None:
    script = (
        "import sys; print(sys.stdout.isatty(), sys.stderr.isatty()); print('x' * 250); "
        r"sys.stderr.write('\r 10 %|# \r 20 %|##\r          \r'); print('done'); print(); sys.exit(3)"
    )
    ended = python(script, tmp_path)
    assert (ended.code, ended.timed_out) == (3, False)
    assert ended.shown == ["True True", "x" * 250, "done", ""]
    # The long line takes three.
    assert (ended.lines, ended.last) == (6, "done")
    # What the command starts counts, too.
    block = "import time; block = bytearray(100_000_000); block[::4096] = b'x' * len(block[::4096]); time.sleep(2)"
    assert 0.1 * GIGABYTE < python(block, tmp_path).peak_bytes < 0.2 * GIGABYTE
    started = f"import subprocess, sys; other = subprocess.Popen([sys.executable, '-c', {block!r}])"
    assert python(f"{started}\n{block}\nother.wait()", tmp_path).peak_bytes > 0.2 * GIGABYTE


def test_commands_that_are_killed(tmp_path: Path) -> None:
    assert python("import os; os.abort()", tmp_path).code == -6
    ended = child_terminal.run(["sh", "-c", "sleep 1000 & wait"], tmp_path, 0.5)
    assert (ended.code, ended.timed_out) == (-9, True)
    # What it leaves behind is killed; else reading its output would never end.
    assert python("import subprocess; subprocess.Popen(['sleep', '1000'])", tmp_path).code == 0


def test_the_networks_and_their_images() -> None:
    from tfship.benchmarks.studies.zoo import networks

    assert list(networks.BUILDERS) == list(study.ARCHITECTURES)
    assert len(study.ARCHITECTURES) >= 20
    # What the zoo trains on is, by its name, what the export tries.
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    tried = {each.name: each.scaling for each in range_detection.candidates(3)}
    assert set(tried) == set(networks.VALUES)
    for name, prepare in networks.VALUES.items():
        np.testing.assert_allclose(
            prepare(pixels), tried[name].apply(pixels.astype(np.float32)), rtol=1e-5, atol=1e-4
        )
    ink, classes = np.full((10, 28, 28), 255, np.uint8), np.arange(10)
    images = networks.coloured(ink, classes, 71, 3, seed=1)
    assert images.shape == (10, 71, 71, 3)
    assert images.dtype == np.uint8
    assert images[:, 0].max() <= 60  # the frame is paper
    # Red is the first hue, green the fourth, blue the seventh.
    assert [images[each, 35, 35].argmax() for each in (0, 3, 7)] == [0, 1, 2]
    grey = networks.coloured(ink, classes, 28, 1, seed=1)
    np.testing.assert_array_equal(grey, ink[..., np.newaxis])


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "out", tmp_path / "zoo.json"
    argv = ["zoo", "--only", "nested", "--formats", "float32", "--out", str(out), "--json", str(file)]
    assert cli.run(command.main, argv) == 0
    captured = capsys.readouterr()
    assert "1 networks (sample: 5,000 digits of MNIST's training set): 1 right." in captured.out
    assert "nested: right, values 0…255, agreement with Keras" in captured.err
    results = STUDIES["zoo"].read(file)
    (found,) = results["models"]
    assert (found["verdict"], found["values"], found["values_right"]) == ("right", "0…255", True)
    assert set(found["agreement"]) == {"savedmodel", "float32"}
    for each in found["agreement"].values():
        assert (each["value"] > 0.99, each["decisions"], each["wrong"]) == (True, 300, 0)
    assert 0 < found["export"]["lines"] <= study.MOST_LINES
    assert found["export"]["peak_bytes"] > 100_000_000
    assert "| nested: Rescaling in a model within the model | 0…255" in table.render(results, "github")
    assert "10 classes, probabilities" in (out / "nested" / "export.log").read_text()
    assert {path.name for path in (out / "nested").iterdir()} == {
        "networks.log",
        "export.log",
        "answers.log",
    }

    monkeypatch.setattr(study, "_MOST_SECONDS_OF_FITTING", 0.3)
    assert cli.run(command.main, argv) == 6
    captured = capsys.readouterr()
    assert "error: nested: wrong export" in captured.err
    (found,) = json.loads(file.read_text())["models"]
    assert found["verdict"] == "FAILED"
    assert found["problems"][0].startswith("fitting failed: still running after")
    assert cli.run(command.main, ["zoo", "--only", "nested,unicorn"]) == 2
    assert "--only unicorn: no such network; expected some of mobilenet_v2" in capsys.readouterr().err


def test_architectures_are_what_they_say() -> None:
    """Whether a network is a file or a folder follows from how it is brought."""
    one = study.ARCHITECTURES["vit"]
    assert (one.file, dataclasses.replace(one, saved_model=True).file) == ("model.keras", "model")
