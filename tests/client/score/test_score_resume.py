"""Jobs of `tfship score` that end in the middle: killed, interrupted, and changed meanwhile."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pyarrow import parquet

from client_fixtures import RELEASED_MODELS
from conftest import ROOT
from tfship.client.score import command
from tfship.train.common import cli
from tfship.train.data.datasets import Digits

TARGET = f"--target=tflite:{RELEASED_MODELS / 'cnn.int8.tflite'}"
NOTICE = "Ctrl-C: ending at the next step; press it again to end at once"
COUNT, PART = 600, 40
SHAPE = ("--batch=10", f"--part-rows={PART}", "--workers=2")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, sample: Digits) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        Image.fromarray(sample.x_test[number]).save(folder / f"{number:03}.png")
    (folder / "100.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The result of a job that nothing interrupts."""
    out = tmp_path_factory.mktemp("expected") / "scores.parquet"
    assert score(images, out) == 0
    return parquet.read_table(out)


def score(images: Path, out: Path, *more: str) -> int:
    return cli.run(command.main, arguments(images, out, *more))


def arguments(images: Path, out: Path, *more: str) -> list[str]:
    return [str(images), TARGET, "--out", str(out), *SHAPE, *more]


@contextlib.contextmanager
def started(images: Path, out: Path, *more: str) -> Iterator["subprocess.Popen[str]"]:
    entry = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    entry += "from tfship.train.common import entry_point; sys.exit(entry_point.run())"
    argv = [sys.executable, "-c", entry, "score", *arguments(images, out, *more)]
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def parts(out: Path) -> list[Path]:
    return sorted(Path(f"{out}.parts").glob("part-*.parquet"))


def ended_midway(images: Path, out: Path, number: signal.Signals, count: int, pause: float = 0.0) -> str:
    """Send a signal to a job once `count` further parts are finished, and return what it wrote to stderr.

    A job that was faster than the signal is started again.
    """
    while True:
        before = len(parts(out))
        with started(images, out) as process:
            while len(parts(out)) < before + count and process.poll() is None:
                time.sleep(0.002)
            time.sleep(pause)
            process.send_signal(number)
            _, error = process.communicate()
        if not out.exists():
            assert process.returncode == (130 if number is signal.SIGINT else -number), error
            return error
        out.unlink()


def test_a_killed_job_goes_on(images: Path, expected: Any, tmp_path: Path) -> None:
    """SIGKILL after a random number of parts, at a random moment of the next one."""
    out, chosen = tmp_path / "scores.parquet", random.Random(0)
    for _ in range(3):
        ended_midway(images, out, signal.SIGKILL, chosen.randint(1, 3), chosen.random() * 0.05)
        assert all(parquet.read_metadata(each).num_rows == PART for each in parts(out))
    assert score(images, out) == 0
    assert parquet.read_table(out).equals(expected)
    assert [each.name for each in tmp_path.iterdir()] == ["scores.parquet"]


def test_going_on_scores_only_what_is_missing(
    images: Path, expected: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.parquet"
    ended_midway(images, out, signal.SIGKILL, 3)
    # A part that a full disk has cut off is scored again, and what the killed process has left is removed.
    first, *finished = parts(out)
    first.write_bytes(first.read_bytes()[:-9])
    (first.parent / ".stage-999999999-part-000000.parquet").touch()
    assert score(images, out, "--json") == 0
    captured = capsys.readouterr()
    assert f"going on from {len(finished) * PART:,} of {COUNT:,} images" in captured.err
    assert json.loads(captured.out)["resumed"] == len(finished) * PART
    assert parquet.read_table(out).equals(expected)


def test_an_interrupted_job_keeps_its_parts(images: Path, expected: Any, tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    error = ended_midway(images, out, signal.SIGINT, 2)
    assert error.replace(f"{NOTICE}\n", "") == "interrupted\n"
    assert len(parts(out)) >= 2
    assert not list(parts(out)[0].parent.glob(".stage-*"))
    assert score(images, out) == 0
    assert parquet.read_table(out).equals(expected)


def test_another_job_is_refused(
    images: Path, expected: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.parquet"
    ended_midway(images, out, signal.SIGKILL, 2)
    kept = parts(out)
    for more, what in ((["--top=2"], "top 5 instead of 2"), (["--batch=20"], "batch 10 instead of 20")):
        assert score(images, out, *more) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"holds parts of another job, with {what}; use --restart to discard them" in line
    changed = images / "001.png"
    before = changed.stat()
    os.utime(changed, ns=(1, 1))
    assert score(images, out) == 2
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ".parts: holds parts of another job, with inputs " in capsys.readouterr().err
    assert parts(out) == kept
    assert score(images, out, "--top=2", "--restart") == 0
    assert parquet.read_table(out).column("label").equals(expected.column("label"))


def test_a_folder_that_is_no_job_is_left_alone(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.parquet"
    other = Path(f"{out}.parts") / "job.json"
    other.parent.mkdir()
    other.write_text("[]")
    for more in ((), ("--restart",)):
        assert score(images, out, *more) == 2
        assert "not the parts of a job" in capsys.readouterr().err
    assert other.read_text() == "[]"
