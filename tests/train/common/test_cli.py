import argparse
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence

import pytest

from conftest import ROOT
from tfship.train.common import cli, errors
from tfship.train.common.errors import TfshipError
from tfship.train.common.progress import Progress


def raising(error: BaseException) -> int:
    def main(argv: Sequence[str] | None) -> int:
        raise error

    return cli.run(main)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_one_line_and_its_exit_code(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    error: type[TfshipError] = getattr(errors, name)
    assert raising(error("first\n  second")) == error.exit_code != 0
    assert capsys.readouterr().err == "error: first second\n"


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = dict(re.findall(r"(\w+) +exit (\d)", errors.__doc__ or ""))
    top: list[type[TfshipError]] = [TfshipError, *TfshipError.__subclasses__()]
    assert drawn == {each.__name__: str(each.exit_code) for each in top}
    assert set(errors.__all__) == set(
        re.findall(r"[A-Z]\w+(?:Error|Unreachable|Refused)|Unreachable|Refused", errors.__doc__ or "")
    )


def test_other_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert raising(PermissionError(13, "Permission denied", "models")) == 1
    assert capsys.readouterr().err == "error: models: Permission denied\n"
    with pytest.raises(ZeroDivisionError):  # a bug of ours stays a traceback
        raising(ZeroDivisionError())


def test_a_closed_pipe_is_no_failure() -> None:
    script = "import sys; from tfship.train.common import cli; sys.exit(cli.run(lambda _: print('x' * 100_000) or 0))"
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0
    process.stderr.close()


def test_help_shows_only_defaults_that_say_something() -> None:
    parser = cli.parser("x", "y")
    parser.add_argument("--models", default="models", help="folder")
    parser.add_argument("--data", help="file")
    parser.add_argument("--force", action="store_true", help="again")
    text = parser.format_help()
    assert "folder (default: models)" in text
    assert "None" not in text
    assert "False" not in text
    assert "130 interrupted" in text
    assert isinstance(parser, argparse.ArgumentParser)


def test_progress_in_a_log_is_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("tfship.train.common.progress.time.monotonic", lambda: now)
    log = io.StringIO()
    with Progress("training", 1000, "steps", log) as progress:
        for _ in range(10):
            now += 2.5
            progress.advance(50, note="loss 0.1")
    assert log.getvalue().splitlines() == [
        "training: 200/1,000 steps, 20/s, 40 s left, loss 0.1",
        "training: 400/1,000 steps, 20/s, 30 s left, loss 0.1",
    ]


@pytest.mark.parametrize(("columns", "tqdm"), [(0, True), (100, True), (100, False)])
def test_progress_on_a_terminal_is_a_bar_that_goes_away(
    columns: int, tqdm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tqdm:
        monkeypatch.setitem(sys.modules, "tqdm", None)  # its import fails
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as terminal:
        with Progress("training", 10, "steps", terminal) as progress:
            progress.advance(10, note="loss 0.1")
        terminal.write("the end")
        terminal.flush()
        shown = ""
        while "the end" not in shown:  # a terminal hands over what it has so far
            shown += os.read(ours, 65536).decode()
    os.close(ours)
    if not columns or not tqdm:  # where a bar has no room or isn't installed, plain lines come, in time
        assert shown == "the end"
        return
    assert "training:   0%|" in shown
    assert "\n" not in shown
    assert shown.endswith("\rthe end")
