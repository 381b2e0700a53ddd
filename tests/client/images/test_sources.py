"""Where pictures come from, and that none of it can make the client wait or take it down."""

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from client_fixtures import RELEASED_MODELS, SEVEN, Web, run, send, web
from conftest import ROOT
from tfship.client.images import download, sources
from tfship.client.images.sources import MOST_BYTES, expand, read_file
from tfship.train.common.errors import DataError

PICTURE = SEVEN.read_bytes()
LOCAL = ("--target", f"tflite:{RELEASED_MODELS / 'cnn.int8.tflite'}", "--json")


def answers(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.PNG", "c.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(PICTURE)
    (tmp_path / "d.png").mkdir()
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_files_folders_and_patterns_in_their_order(folder: Path) -> None:
    names = [each.name for each in expand([str(folder), str(folder / "notes.txt"), str(folder / "[ab].*")])]
    found = ["a.PNG", "b.png", "c.jpg", "notes.txt", "a.PNG", "b.png"]
    assert names == [str(folder / each) for each in found]


def test_a_file_with_a_patterns_characters_is_itself(folder: Path) -> None:
    odd = folder / "[ab].png"
    odd.write_bytes(PICTURE)
    (source,) = expand([str(odd)])
    assert source.read() == PICTURE


def test_a_folder_is_read_when_its_turn_comes(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / f"{number}.png").touch()
    found = expand([str(tmp_path)])
    (tmp_path / "7.png").write_bytes(PICTURE)
    assert len(found) == 1000
    assert next(each for each in found if each.name.endswith("/7.png")).read() == PICTURE


def test_what_is_no_picture_does_not_cost_the_others_their_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket.png"))
        (folder / "loop.png").symlink_to("loop.png")
        (folder / "nothing.png").touch()
        (folder / "text.png").write_text("text")
        with (folder / "large.png").open("wb") as large:
            large.truncate(MOST_BYTES + 1)
        monkeypatch.chdir(folder)
        wrong = {
            "pipe.png": "a pipe, which isn't read",
            "socket.png": "a socket; expected an image file",
            "loop.png": "can't be read (Too many levels of symbolic links)",
            "nothing.png": "an empty file",
            "text.png": "not an image",
            "large.png": "more than 64 MiB",
            "missing.png": "no such file",
            "/dev/zero": "a device; expected an image file",
            "empty": "no images in this folder; looked for .avif, .bmp",
            "*.nothing": "no file matches this pattern",
            "x" * 5000: "can't be read (File name too long)",
        }
        assert run(*wrong, "b.png", *LOCAL) == 3
    *failed, good = answers(capsys)
    assert good["label"] == "7"
    assert [each["image"] for each in failed] == list(wrong)
    for each in failed:
        assert wrong[each["image"]] in each["error"]
        assert each["error"].startswith(f"{each['image']}: ")


@pytest.mark.parametrize("target", ["rest", "grpc", "tflite:nowhere.tflite", "keras:nowhere.keras"])
def test_without_a_picture_nothing_is_asked(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--server", "127.0.0.1:1"] if ":" not in target else []
    assert run("missing.png", "--target", target, *where, "--models", "/nowhere") == 3
    assert capsys.readouterr().err == "error: missing.png: no such file\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(folder: Path) -> None:
    (folder / "b.png").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        read_file(folder / "b.png")


def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "growing.png"
    path.write_bytes(bytes(32 << 20))
    ended = threading.Event()

    def grow() -> None:
        with path.open("ab") as file:
            while not ended.is_set():
                file.write(b"x")
                file.flush()

    thread = threading.Thread(target=grow)
    thread.start()
    while path.stat().st_size == 32 << 20:
        time.sleep(0.01)

    def read_again() -> None:
        # On a busy machine, a whole read may fall between two writes.
        while True:
            read_file(path)

    try:
        with pytest.raises(DataError, match="changed while it was read"):
            read_again()
    finally:
        ended.set()
        thread.join()


def piped(data: bytes | None, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "client/predict.py", *arguments, *LOCAL]
    return subprocess.run(command, cwd=ROOT, input=data, capture_output=True, check=False)


def test_standard_input() -> None:
    done = piped(PICTURE, "-", str(SEVEN))
    first, second = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, first["image"], first["label"], second["image"]) == (0, "-", "7", str(SEVEN))
    # The second time there is nothing left in it.
    again = piped(PICTURE, "-", "-")
    assert again.returncode == 3
    assert b"an empty file" in again.stdout.splitlines()[1]


def test_standard_input_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = expand(["-"])
    near, far = os.openpty()
    with open(far) as terminal, open(near):  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", terminal)
        with pytest.raises(DataError, match="a terminal; expected an image, such as by < digit.png"):
            source.read()
    with pytest.raises(DataError, match="closed; expected"):
        source.read()
    monkeypatch.setattr(sources, "MOST_BYTES", 10)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PICTURE)))
    with pytest.raises(DataError, match="standard input: more than"):
        source.read()


@pytest.fixture
def site() -> Iterator[Web]:
    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        path = handler.path
        if path == "/seven.png":
            send(handler, 200, PICTURE, Content_Type="text/html")
        elif path.startswith("/hop"):
            hop = int(path[4:])
            send(handler, 302, Location="/seven.png" if hop == 1 else f"/hop{hop - 1}")
        elif path == "/large":
            send(handler, 200, bytes(2 << 20))
        elif path == "/page":
            send(handler, 200, b"<html>")
        elif path == "/file":
            send(handler, 302, Location="file:///etc/passwd")
        elif path == "/drip":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            end = time.monotonic() + 60
            while time.monotonic() < end:
                handler.wfile.write(b"x")
                time.sleep(0.05)
        else:
            send(handler, 404)

    with web(answer) as running:
        yield running


def test_urls(site: Web, capsys: pytest.CaptureFixture[str]) -> None:
    urls = [f"{site.url}/{name}" for name in ("seven.png", "hop5", "hop6", "gone", "page", "file")]
    assert run(*urls, "http://127.0.0.1:1/x", "http://[broken/", *LOCAL) == 3
    found = answers(capsys)
    assert [each["image"] for each in found] == [*urls, "http://127.0.0.1:1/x", "http://[broken/"]
    assert [each.get("label") for each in found[:3]] == ["7", "7", None]
    problems = ("more than 5 redirects", "HTTP 404 Not Found; expected an image", "not an image", "can't be downloaded",
                "can't be downloaded (Connection refused)", "can't be downloaded")  # fmt: skip
    for each, problem in zip(found[2:], problems, strict=True):
        assert problem in each["error"]


def test_urls_are_bounded_in_size_and_time(site: Web) -> None:
    with pytest.raises(DataError, match="/large: more than 1 MiB; expected an image"):
        download.download(f"{site.url}/large", 1 << 20)
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"/drip: not downloaded within 0\.5 s"):
        download.download(f"{site.url}/drip", 1 << 20, 0.5)
    assert time.monotonic() - begin < 60
