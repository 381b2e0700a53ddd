"""What the model saw, drawn and kept."""

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client_fixtures import RELEASED_MODELS, SEVEN, run
from tfship.client.images import preprocessing, preview
from tfship.client.images.sources import STDIN, expand
from tfship.export.preprocessing import input_contract

LOCAL = ("--target", f"tflite:{RELEASED_MODELS / 'cnn.int8.tflite'}")
PIXELS = preprocessing.pixels(SEVEN.read_bytes(), input_contract.digits("cnn"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--show writes where it is called."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_it_is_drawn_above_the_answer_and_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SEVEN, *LOCAL, "--show") == 0
    captured = capsys.readouterr()
    assert captured.err == f"{SEVEN}: wrote the prepared image to seven.seen.png\n"
    np.testing.assert_array_equal(np.asarray(Image.open("seven.seen.png")), PIXELS[..., 0])
    *drawn, answer = captured.out.splitlines()
    assert answer.startswith(f"{SEVEN}: 7 (")
    assert len(drawn) == 14
    # Where there is ink there is a sign, and the other way round.
    mean = PIXELS[..., 0].reshape(14, 2, 28).mean(1)
    signs = np.array([list(line.ljust(28)) for line in drawn]) != " "
    assert signs[mean > 60].all()
    assert not signs[mean == 0].any()
    assert preview.drawing(PIXELS, 80, colour=False).split("\n") == drawn


def test_a_drawing_does_not_get_among_a_machines_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SEVEN, *LOCAL, "--show", "--json") == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert "@" in captured.err


def test_colours_are_the_pixels() -> None:
    colours = np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3)
    lines = preview.drawing(colours, 80, colour=True).splitlines()
    found = [
        [int(number) for number in re.findall(r"38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀", line)[1]]
        for line in lines
    ]
    assert found[0] == [*colours[0, 1], *colours[1, 1]]
    assert found[2] == [*colours[4, 1], 0, 0, 0]
    grey = preview.drawing(np.full((2, 1, 1), 9, np.uint8), 80, colour=True)
    assert grey == "\x1b[38;2;9;9;9;48;2;9;9;9m▀\x1b[0m"


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_picture_is_made_to_fit(channels: int) -> None:
    large = np.zeros((300, 600, channels), np.uint8)
    large[:, 300:] = 255
    lines = preview.drawing(large, 60, colour=False).splitlines()
    assert lines == [" " * 30 + "@" * 30] * 15


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def drawn() -> str:
        terminal = Terminal()
        preview.draw(PIXELS, terminal)
        return terminal.getvalue()

    assert "\x1b[" in drawn()
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b[" not in drawn()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in drawn()


def test_it_is_kept_as_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(SEVEN, tmp_path / "seven.png")
    (tmp_path / "other").mkdir()
    shutil.copy(SEVEN, tmp_path / "other" / "seven.jpg")
    out = tmp_path / "new" / "folder"
    pictures = [tmp_path / "seven.png", tmp_path / "other" / "seven.jpg"]
    for _ in range(2):  # a second run puts its own in the place of the first one's
        assert run(*pictures, *LOCAL, "--seen", out) == 0
        assert sorted(each.name for each in out.iterdir()) == ["seven-2.seen.png", "seven.seen.png"]
    assert f"{pictures[0]}: wrote the prepared image to {out}/seven.seen.png" in capsys.readouterr().err
    with Image.open(out / "seven.seen.png") as kept:
        np.testing.assert_array_equal(np.asarray(kept), PIXELS[..., 0])
    # What the model saw once, it sees again.
    np.testing.assert_array_equal(
        preprocessing.pixels((out / "seven.seen.png").read_bytes(), input_contract.digits("cnn")), PIXELS
    )
    assert run(SEVEN, *LOCAL, "--seen", tmp_path / "one.PNG") == 0
    assert (tmp_path / "one.PNG").read_bytes() == (out / "seven.seen.png").read_bytes()


def test_the_picture_itself_is_never_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, link = tmp_path / "seven.seen.png", tmp_path / "link.png"
    shutil.copy(SEVEN, picture)
    link.symlink_to(picture)
    for arguments, message in (
        ([picture, "--seen", picture], "the input image, which is never overwritten"),
        ([link, "--seen", picture], "the input image, which is never overwritten"),
        ([picture, link, "--seen", tmp_path / "new.png"], "one file for 2 images; expected a folder"),
        (
            [link, "--seen", picture / "below" / "it"],
            "(Not a directory); give a folder",
        ),
    ):
        assert run(*arguments, *LOCAL) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    # The name that it would have in its own folder is taken.
    (tmp_path / "seven.bmp").write_bytes(SEVEN.read_bytes())
    assert run(tmp_path / "seven.bmp", picture, *LOCAL, "--seen", tmp_path) == 0
    assert picture.read_bytes() == SEVEN.read_bytes()
    assert (tmp_path / "seven-2.seen.png").is_file()
    assert (tmp_path / "seven.seen.seen.png").is_file()


def test_names_for_what_has_none(tmp_path: Path) -> None:
    kept = preview.PngWriter(tmp_path, expand([STDIN]))
    names = [STDIN, "http://x/", "http://x/a%2F..%2Fb.jpg?c=/d", "https://x/%00e.png"]
    written = [kept.write(name, preview.png(PIXELS)) for name in names]
    assert [each.name for each in written] == [
        "stdin.seen.png",
        "image.seen.png",
        "b.seen.png",
        "e.seen.png",
    ]
    assert {each.parent for each in written} == {tmp_path}
