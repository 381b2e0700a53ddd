"""The target `web`: files for browsers, in headless Chromium, by the client's commands."""

import importlib.util
from pathlib import Path

import pytest

from compare_fixtures import compared, run
from tfship.export.conversion.formats import FORMATS

SEVEN = "client/samples/seven.png"


def test_every_format_answers_as_tflite_does(models: Path, chromium: None) -> None:
    code, targets, verdict = compared(models, "tflite,web", "--model=nn")
    assert code == 0, verdict
    assert {f"web:{name}" for name in FORMATS} < targets.keys()
    for name in FORMATS:
        web, tflite = targets[f"web:{name}"], targets[f"tflite:{name}"]
        assert web["difference"] == pytest.approx(tflite["difference"], abs=1e-3)
    assert targets["tflite:float32"]["difference"] == 0  # the reference


def test_a_format_or_a_file_is_chosen(models: Path, chromium: None) -> None:
    version = models / "nn" / "1"
    for path in ("int8", version / "web/int8.tflite", version, models / "nn"):
        code, out, error = run(SEVEN, "--models", models, "--model=nn", f"--target=web:{path}")
        assert (code, error) == (0, "")
        assert out.startswith(f"{SEVEN}: 7 (")


def test_what_is_missing_is_one_line(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, error = run(SEVEN, "--models", models, "--model=nn", "--target=web")
    assert code == 2
    assert error.startswith("error: the target web needs Chromium, which isn't installed; install it")
    (tmp_path / "nn" / "1").mkdir(parents=True)
    code, _, error = run(SEVEN, "--models", tmp_path, "--model=nn", "--target=web:int8")
    assert code == 4
    assert "nn/1/web/int8.tflite: no such file for browsers; if export.json doesn't say why" in error
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, error = run(SEVEN, "--models", models, "--model=nn", "--target=web")
    assert (code, error) == (
        2,
        "error: --target web needs playwright, which isn't installed: pip install 'tfship[web]'\n",
    )


def test_a_comparison_without_a_browser_says_so_once(models: Path) -> None:
    code, out, _ = run(SEVEN, "--compare=tflite,web", "--models", models, "--model=nn")
    (line,) = (each for each in out.splitlines() if each.startswith("not available: "))
    assert line.startswith(
        f"not available: {', '.join(f'web:{name}' for name in FORMATS)}: the target web needs Chromium"
    )
    assert code == 0
