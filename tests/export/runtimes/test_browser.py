"""LiteRT.js in headless Chromium as a runtime: the real browser, and what happens when it fails."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import chromium_found
from serving_fixtures import to_tflite
from tfship.benchmarks.harness import process_info
from tfship.export.conversion import web_file
from tfship.export.runtimes import browser, web_build
from tfship.export.runtimes.browser import Browser
from tfship.train.common.errors import ArtifactError, UsageError

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for browsers whose output is twice its input, float32 [1, 2]."""
    path = tmp_path_factory.mktemp("browser") / "double.tflite"
    path.write_bytes(to_tflite(lambda x: {"y": 2.0 * x}, x=[None, 2]))
    path.write_bytes(web_file.fixed_batch(path))
    return path


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with chromium_found():
        started = Browser()
    with contextlib.closing(started):
        yield started


def test_a_file_is_run_row_by_row(running: Browser, double: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert running.version.startswith("Chromium ")
    assert running.name == "WASM"
    model = running.load(double)
    np.testing.assert_array_equal(model.run("serving_default", {"x": ROWS})["y"], 2 * ROWS)
    monkeypatch.setattr(browser, "_BATCH_BYTES", 20)  # two rows a message
    np.testing.assert_array_equal(model.run("serving_default", {"x": ROWS[:5]})["y"], 2 * ROWS[:5])
    model.hold(ROWS)
    times = model.measure(2, 7, 3)
    assert len(times) == 7
    assert min(times) >= 0
    model.close()
    with pytest.raises(ArtifactError, match=r"double\.tflite \(no model \d+ is loaded\)"):
        model.run("serving_default", {"x": ROWS})


def test_with_threads(chromium: None, double: Path) -> None:
    with contextlib.closing(Browser(threads=True)) as started:
        assert started.name == "WASM threads"
        np.testing.assert_array_equal(started.load(double).run("serving_default", {"x": ROWS})["y"], 2 * ROWS)


def test_a_refused_file_doesnt_stop_the_browser(running: Browser, double: Path, tmp_path: Path) -> None:
    free = tmp_path / "free.tflite"
    free.write_bytes(to_tflite(lambda x: {"y": 2.0 * x}, x=[None, 2]))
    with pytest.raises(ArtifactError, match=r"free\.tflite: LiteRT\.js can't load it \(.*free dimension"):
        running.load(free)
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(b"no model")
    with pytest.raises(ArtifactError, match=r"damaged\.tflite: LiteRT can't load it"):
        running.load(damaged)
    np.testing.assert_array_equal(running.load(double).run("serving_default", {"x": ROWS})["y"], 2 * ROWS)


def test_a_crash_or_a_long_wait_costs_only_that_file(
    running: Browser, double: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = running.load(double)
    for process in process_info.tree(os.getpid()):
        with contextlib.suppress(OSError):
            if b"--type=renderer" in Path(f"/proc/{process}/cmdline").read_bytes():
                os.kill(process, signal.SIGKILL)
    with pytest.raises(ArtifactError, match=r"double\.tflite"):
        model.run("serving_default", {"x": ROWS})
    again = running.load(double)
    monkeypatch.setattr(browser, "_SECONDS", 1e-6)
    with pytest.raises(ArtifactError, match=r"double\.tflite \(.*Timeout"):
        again.run("serving_default", {"x": ROWS})
    monkeypatch.undo()
    np.testing.assert_array_equal(running.load(double).run("serving_default", {"x": ROWS})["y"], 2 * ROWS)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(browser.CHROMIUM, "")
    assert (
        "needs Chromium, which isn't installed; install it, or set TFSHIP_CHROMIUM" in browser.unavailable()
    )
    with pytest.raises(UsageError, match="needs Chromium"):
        Browser()
    monkeypatch.setattr(web_build, "find", lambda: None)
    monkeypatch.setenv(browser.CHROMIUM, "/bin/false")
    assert "aren't built; run `make web`" in browser.unavailable()


def test_a_program_that_is_no_browser(chromium: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(browser.CHROMIUM, "/bin/false")
    with pytest.raises(ArtifactError, match="/bin/false: the browser doesn't start"):
        Browser()
