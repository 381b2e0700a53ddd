"""Several digits in one picture: found, read in order, with boxes."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client_fixtures import RELEASED_MODELS, SEVEN, run
from tfship.client.images import multi_digit
from tfship.client.images.segmentation import Box
from tfship.export.preprocessing import input_contract
from tfship.train.common.errors import DataError
from tfship.train.data.datasets import Digits

LOCAL = ("--target", f"tflite:{RELEASED_MODELS / 'cnn.int8.tflite'}")
DIGITS = input_contract.digits("cnn")
# Each is read rightly by the released network when it is alone; what is tested here is the finding.
CELL = 90


def page(
    sample: Digits, lines: Sequence[str], *, inverted: bool = False
) -> tuple[bytes, list[tuple[str, Box]]]:
    """Return a page with these digits of the sample in one shadow, and where each one's ink is, in reading order."""
    dice = np.random.default_rng(3)
    ink = np.zeros((CELL * len(lines) + 60, CELL * max(map(len, lines)) + 60))
    placed = []
    for row, line in enumerate(lines):
        for column, label in enumerate(line):
            pixels = sample.x_test[np.flatnonzero(sample.y_test == int(label))[2 + column % 3]]
            side = int(dice.integers(60, 80))
            large = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)) / 255
            top, left = 30 + row * CELL + int(dice.integers(8)), 30 + column * CELL + int(dice.integers(8))
            ink[top : top + side, left : left + side] = np.maximum(
                ink[top : top + side, left : left + side], large
            )
            rows, columns = np.flatnonzero((large > 0.5).any(1)), np.flatnonzero((large > 0.5).any(0))
            box = (top + rows[0], top + rows[-1] + 1, left + columns[0], left + columns[-1] + 1)
            placed.append((label, box))
    paper = np.linspace(120, 240, ink.shape[1])
    grey = paper * (1 - 0.85 * ink) + dice.normal(0, 3, ink.shape)
    picture = Image.fromarray((255 - grey if inverted else grey).clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue(), placed


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("lines", [["75136"], ["31415926", "2718", "16180339"], ["8"]])
def test_they_are_found_in_reading_order(sample: Digits, lines: list[str], inverted: bool) -> None:
    data, placed = page(sample, lines, inverted=inverted)
    found = multi_digit.find(data, DIGITS)
    assert [len(line) for line in found] == [len(line) for line in lines]
    boxes = [digit.box for line in found for digit in line]
    # The pixels that the edge of a stroke goes over.
    assert np.abs(np.array(boxes) - [box for _, box in placed]).max() <= 4
    for line in found:
        for digit in line:
            assert digit.pixels.shape == (28, 28, 1)
            assert digit.pixels.dtype == np.uint8


def test_they_are_read_and_boxed(sample: Digits, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["31415926", "2718", "16180339"]
    data, placed = page(sample, lines)
    picture, boxed = tmp_path / "page.jpg", tmp_path / "boxed.png"
    picture.write_bytes(data)
    assert run(picture, SEVEN, *LOCAL, "--all-digits") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"{SEVEN}: 7"
    texts = [line.removeprefix(f"{picture}:{number}: ") for number, line in enumerate(said[:-1], 1)]
    assert sum(a != b for a, b in zip("".join(texts), "".join(lines), strict=True)) <= 1
    assert run(picture, *LOCAL, "--all-digits", "--json", "--boxed", boxed) == 0
    captured = capsys.readouterr()
    assert captured.err == f"{picture}: wrote the image with boxes to {boxed}\n"
    answer = json.loads(captured.out)
    assert answer["lines"] == texts
    assert "".join(each["label"] for each in answer["digits"]) == "".join(texts)
    assert [each["line"] for each in answer["digits"]] == [1] * 8 + [2] * 4 + [3] * 8
    with Image.open(boxed) as before, Image.open(picture) as after:
        assert before.size == after.size
        drawn = np.asarray(before.convert("RGB")).astype(int)
    red = drawn[..., 0] - drawn[..., 1] > 150
    for each, (_, (top, bottom, left, right)) in zip(answer["digits"], placed, strict=True):
        assert all(
            abs(each["box"][side] - at) <= 4
            for side, at in zip(each["box"], (top, bottom, left, right), strict=True)
        )
        middle = (top + bottom) // 2
        # A line of red on either side of the digit, and none through it.
        assert red[middle, left - 8 : left].any()
        assert red[middle, right : right + 8].any()
        assert not red[middle, left + 4 : right - 4].any()


def test_a_hint_where_one_is_read_of_several(
    sample: Digits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "several.jpg"
    for inverted in (False, True):
        picture.write_bytes(page(sample, ["75136"], inverted=inverted)[0])
        assert run(picture, SEVEN, *LOCAL) == 0
        captured = capsys.readouterr()
        assert captured.out.startswith(f"{picture}: ")
        assert captured.err == f"{picture}: more than one digit found; --all-digits predicts each\n"


def test_rows_for_a_machine(sample: Digits, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, empty = tmp_path / "page.jpg", tmp_path / "empty.png"
    picture.write_bytes(page(sample, ["75136"])[0])
    Image.new("L", (300, 200), 200).save(empty)
    assert run(picture, empty, *LOCAL, "--all-digits", "--csv") == 3
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert "".join(row["label"] for row in rows) == "75136"
    assert [float(row["left"]) for row in rows[:5]] == sorted(float(row["left"]) for row in rows[:5])
    assert rows[5]["image"] == str(empty)
    assert "nothing to see on the image" in rows[5]["error"]


def test_dust_and_lines_are_no_digits(sample: Digits) -> None:
    data, _ = page(sample, ["75136"])
    pixels = np.array(Image.open(io.BytesIO(data)))
    pixels[20:24, 60:64] = 10
    pixels[-18:-15, 40:-40] = 10
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    assert [len(line) for line in multi_digit.find(buffer.getvalue(), DIGITS)] == [5]


def test_a_bar_apart_belongs_to_its_five() -> None:
    page = np.full((200, 200), 230, np.uint8)
    page[40:52, 70:130] = 20  # the bar
    page[60:100, 70:82] = 20
    page[88:100, 70:130] = 20
    page[100:150, 118:130] = 20
    page[140:152, 70:130] = 20
    buffer = io.BytesIO()
    Image.fromarray(page).save(buffer, "PNG")
    ((five,),) = multi_digit.find(buffer.getvalue(), DIGITS)
    assert np.abs(np.array(five.box) - (40, 152, 70, 130)).max() <= 2


def test_what_is_not_for_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, reason in (
        (["--boxed", tmp_path / "x.png"], "--boxed without --all-digits"),
        (["--all-digits", "--show"], "are for images of one digit"),
        (["--all-digits", "--boxed", SEVEN], "the input image, which is never overwritten"),
        (["--all-digits", "--compare"], "--all-digits with --compare"),
    ):
        assert run(SEVEN, *LOCAL, *arguments) == 2
        assert reason in capsys.readouterr().err
    # Marks of four pixels, twenty apart: 4,096 of them.
    marks = np.tile(np.pad(np.zeros((4, 4), np.uint8), 8, constant_values=255), (64, 64))
    buffer = io.BytesIO()
    Image.fromarray(marks).save(buffer, "PNG")
    with pytest.raises(DataError, match="image: more than 1,000 components found"):
        multi_digit.find(buffer.getvalue(), DIGITS)
