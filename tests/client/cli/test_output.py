"""What is said of each picture, for a person and for a machine."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from client_fixtures import RELEASED_MODELS, SEVEN, run
from conftest import ROOT
from tfship.client.cli.output import KEYS, rank
from tfship.train.common import cli

LOCAL = ("--target", f"tflite:{RELEASED_MODELS / 'cnn.int8.tflite'}")
TWO = SEVEN.with_name("two.png")


def test_the_line_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SEVEN, *LOCAL, "--top", "1") == 0
    assert run(SEVEN, *LOCAL) == 0
    assert run(SEVEN, *LOCAL, "--top", "3") == 0
    assert run(SEVEN, *LOCAL, "--top", "99") == 0
    one, two, three, all_ = capsys.readouterr().out.splitlines()
    assert one.startswith(f"{SEVEN}: 7 (")
    assert one.endswith("%)")
    assert two.startswith(f"{one}, then ")
    assert three.startswith(f"{two}, ")
    assert all_.startswith(three)
    assert [line.count("%") for line in (one, two, three, all_)] == [1, 2, 3, 10]


def test_json_lines_match_inputs_to_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SEVEN, "missing.png", TWO, *LOCAL, "--json", "--top", "3") == 3
    captured = capsys.readouterr()
    seven, missing, two = map(json.loads, captured.out.splitlines())
    assert tuple(seven) == tuple(two) == KEYS
    assert missing == {"image": "missing.png", "error": "missing.png: no such file"}
    assert (seven["label"], two["label"]) == ("7", "2")
    assert [each["probability"] for each in seven["top"]] == sorted(seven["probabilities"].values())[:-4:-1]
    assert seven["top"][:2] == [{"label": "7", "probability": seven["probability"]}, seven["runner_up"]]
    assert list(seven["probabilities"]) == list("0123456789")
    assert captured.err == "error: 1 of 3 images failed; their lines give the reason\n"


def test_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = tmp_path / 'a "b", c.png'
    odd.write_bytes(SEVEN.read_bytes())
    assert run(odd, "missing.png", *LOCAL, "--csv", "--top", "2") == 3
    seven, missing = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert list(seven) == ["image", "label", "probability", "label_2", "probability_2", "error"]
    assert (seven["image"], seven["label"], seven["error"]) == (str(odd), "7", "")
    assert float(seven["probability"]) > float(seven["probability_2"])
    assert missing == {
        "image": "missing.png", "label": "", "probability": "", "label_2": "", "probability_2": "",
        "error": "missing.png: no such file",
    }  # fmt: skip


def test_more_classes_than_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SEVEN, *LOCAL, "--csv", "--top", "12") == 0
    header, row = csv.reader(io.StringIO(capsys.readouterr().out))
    assert len(header) == len(row) == 2 * 12 + 2


@pytest.mark.parametrize("wrong", [["--top", "0"], ["--json", "--csv"], ["--top", "x"]])
def test_flags_that_cannot_be(wrong: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(SEVEN, *wrong)


def test_help_documents_keys_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    said = " ".join(capsys.readouterr().out.split())
    assert cli.EXIT_CODES in said
    for key in KEYS:
        assert key in said


def test_rank_keeps_the_order_of_equals_and_takes_any_number_of_classes() -> None:
    row = np.array([0.25, 0.5, 0.25], np.float32)
    assert rank(row, ("a", "b", "c")) == [("b", 0.5), ("a", 0.25), ("c", 0.25)]
    assert rank(row, ("a", "b")) == [("1", 0.5), ("0", 0.25), ("2", 0.25)]


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_are_no_text(tmp_path: Path, form: tuple[str, ...], encoding: str) -> None:
    names = [
        os.fsencode(tmp_path) + each for each in (b"/\xff\x1b[31m.png", "/größe.png".encode(), b"/a\nb.png")
    ]
    for name in names:
        Path(os.fsdecode(name)).write_bytes(SEVEN.read_bytes())
    done = subprocess.run(
        [sys.executable, "client/predict.py", *names, *LOCAL, *form],
        cwd=ROOT, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    if form == ("--json",):
        assert [os.fsencode(json.loads(line)["image"]) for line in text.splitlines()] == names
    elif not form:
        assert len(text.splitlines()) == 3
        assert "\x1b" not in text
        assert "\\udcff\\x1b[31m.png: 7 (" in text


def test_errors_hold_no_commands_for_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("\x1b]31m\nred.png", *LOCAL) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: ?]31m red.png: no such file"


def on_a_terminal(*arguments: str, stdout: int) -> str:
    """Return what a run with stderr on a terminal of 100 columns has written there; `stdout` is a descriptor."""
    near, far = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    command = [sys.executable, "client/predict.py", *arguments, *LOCAL]
    with subprocess.Popen(command, cwd=ROOT, stdout=far if stdout < 0 else stdout, stderr=far) as running:
        os.close(far)
        said = b""
        try:
            while block := os.read(near, 1 << 16):
                said += block
        except OSError:  # the other end is closed
            pass
        assert running.wait() == 3
    os.close(near)
    return said.decode()


def test_a_bar_for_many_pictures_unless_answers_run_by(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("x")
    # Of the model's own form, which takes no time to prepare.
    assert run(SEVEN, *LOCAL, "--seen", tmp_path / "seven.png") == 0
    pictures = [str(tmp_path / "seven.png")] * 130
    with (tmp_path / "out").open("wb") as out:
        said = on_a_terminal(*pictures, str(tmp_path / "bad.png"), stdout=out.fileno())
    assert len((tmp_path / "out").read_text().splitlines()) == 130
    assert "predict: " in said
    assert "/131" in said
    assert f"error: {tmp_path}/bad.png: not an image" in said
    said = on_a_terminal(*pictures, str(tmp_path / "bad.png"), stdout=-1)
    assert "predict: " not in said
    assert said.count(": 7 (") == 130
    with (tmp_path / "out").open("wb") as out:
        assert "predict: " not in on_a_terminal(str(SEVEN), str(tmp_path / "bad.png"), stdout=out.fileno())
