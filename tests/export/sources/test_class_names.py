"""Files of class names in every encoding and form that people have them, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from export_fixtures import relaxed
from tfship.export.sources import evaluation_data
from tfship.train.common.errors import TfshipError, UsageError

CASES = ROOT.parent / "shared" / "cases" / "labels"


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases aren't here")
def test_label_files_of_other_people() -> None:
    digits = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert evaluation_data.read_labels(CASES / "utf16.txt") == digits
    assert evaluation_data.read_labels(CASES / "teachable.txt") == digits
    names = evaluation_data.read_labels(CASES / "bom.txt")
    assert len(names) == 10
    assert names[:4] == ("zero", "one", "two, too", 'three "3"')


NAMES = ("zero", "Größe 1", "二")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", ["{name}", "{number} {name}", "  {number}\t{name} "])
def test_names_are_plain_in_every_encoding(tmp_path: Path, encoding: str, end: str, form: str) -> None:
    lines = [form.format(number=number, name=name) for number, name in enumerate(NAMES)]
    path = tmp_path / "labels.txt"
    path.write_bytes((end.join(lines) + end * 3).encode(encoding))
    assert evaluation_data.read_labels(path) == NAMES


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_of_either_order_is_read_by_its_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffa\nb\n".encode(encoding))
    assert evaluation_data.read_labels(path) == ("a", "b")


@pytest.mark.parametrize("lines", [["1 a", "2 b"], ["0 a", "b"], ["0 a", "1"], ["00 a", "01 b"], ["0", "1"]])
def test_numbers_that_are_not_all_indices_belong_to_the_names(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(lines))
    assert evaluation_data.read_labels(path) == tuple(lines)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"\n \r\n", "an empty file"),
        (b"a\nb\na\n", "contains 'a' twice, as class 0 and as class 2"),
        (b"0 a\n1 a\n", "contains 'a' twice"),
        ("Größe\n".encode("latin-1"), "can't be read"),
        ("a\nb\n".encode("utf-16-le"), "can't be read (it contains zero bytes)"),
        (b"\xff\xfea", "can't be read"),
        (b"PK\x03\x04\x00\x00", "can't be read"),
        (None, "can't be read (No such file or directory)"),
    ],
)
def test_other_label_files_are_refused(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "labels.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError) as error:
        evaluation_data.read_labels(path)
    assert str(error.value).startswith(f"{path}: {message}")
    with pytest.raises(UsageError, match="can't be read"):
        evaluation_data.read_labels(tmp_path)


@relaxed
@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
def test_any_bytes_are_unique_names_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(data)
    try:
        names = evaluation_data.read_labels(path)
    except TfshipError:
        return
    assert names
    assert len(set(names)) == len(names)
    assert all(name and name == name.strip() and "\ufeff" not in name[:1] for name in names)
