"""The files for browsers of a version: verified in Chromium, marked without it, left out if they fail."""

import contextlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import TensorType
from ai_edge_litert.tools import flatbuffer_utils

from tfship.export.command import main
from tfship.export.conversion import web_file
from tfship.export.publishing import cards
from tfship.export.publishing.cards import ExportCard
from tfship.export.runtimes import browser
from tfship.train.common import cli

FORMATS = ("float32", "int8", "int8_uint8")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network that is exported in a second, and its images."""
    import keras

    folder = tmp_path_factory.mktemp("web_files")
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    )
    # Sure of itself, so that int8 decides as it does.
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 8)
    model.save(folder / "tiny.keras")
    images = np.random.default_rng(0).integers(0, 256, (1200, 6, 6, 1), np.uint8)
    classes = model.predict(images.astype(np.float32) / 255, verbose=0).argmax(1)
    np.savez(folder / "eval.npz", x=images, y=classes)
    return folder


def export(network: Path, folder: Path, *formats: str) -> ExportCard:
    for name in ("tiny.keras", "eval.npz"):
        shutil.copyfile(network / name, folder / name)
    own = [f"--{flag}={folder / 'eval.npz'}" for flag in ("eval", "calibration")]
    argv = [str(folder / "tiny.keras"), "--formats", ",".join(formats), "--models", str(folder), *own]
    assert cli.run(main, argv) == 0
    return cards.read(folder / "tiny" / "1")


@pytest.fixture(scope="module")
def unseen(network: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder with a version exported without a browser, and what the command printed."""
    folder = tmp_path_factory.mktemp("unseen")
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
        export(network, folder, *FORMATS)
    return folder, out.getvalue(), error.getvalue()


def test_each_format_is_verified_in_the_browser(
    network: Path, tmp_path: Path, chromium: None, capsys: pytest.CaptureFixture[str]
) -> None:
    card = export(network, tmp_path, *FORMATS)
    assert [each["format"] for each in card.web] == list(FORMATS)
    for each in card.web:
        assert each["browser"].startswith("Chromium ")
        assert each["images"] == 1000
        assert each["agreement"] > 0.99
        assert each["accuracy"]["value"] > 0.99
        assert each["native_difference"] < 1e-5
        assert each["file"] in card.files
    edges = {each["format"]: each["input"] for each in card.web}
    assert edges["float32"] == {"dtype": "float32", "quantization": None}
    assert edges["int8_uint8"]["dtype"] == "uint8"
    assert edges["int8_uint8"]["quantization"]["zero_point"] == 0
    printed = capsys.readouterr().out
    assert (
        f"for browsers: 3 files in web/, verified in {card.web[0]['browser']}, on 1,000 images; " in printed
    )


def test_without_a_browser_that_is_said(unseen: tuple[Path, str, str]) -> None:
    folder, printed, said = unseen
    card = cards.read(folder / "tiny" / "1")
    assert [each["browser"] for each in card.web] == [""] * len(FORMATS)
    assert "tiny: the files for browsers weren't run in a browser: " in said
    assert "verified in LiteRT only, in no browser, on 100 images" in printed


def test_what_fails_in_the_browser_is_left_out(
    network: Path,
    tmp_path: Path,
    chromium: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load = browser.Browser.load

    def impatient(self: browser.Browser, path: Path) -> browser.BrowserModel:
        # Nothing is loaded in that time.
        monkeypatch.setattr(browser, "_SECONDS", 1e-6 if path.stem == "int8" else 100.0)
        return load(self, path)

    monkeypatch.setattr(browser.Browser, "load", impatient)
    card = export(network, tmp_path, "float32", "int8")
    assert [each["format"] for each in card.web if "file" in each] == ["float32"]
    (failed,) = (each for each in card.web if "left_out" in each)
    assert failed["left_out"].startswith("LiteRT.js can't load it (")
    assert not (tmp_path / "tiny/1/web/int8.tflite").exists()
    assert (tmp_path / "tiny/1/tflite/int8.tflite").exists()
    assert "for browsers: int8 left out: LiteRT.js can't load it" in capsys.readouterr().out


def test_a_version_without_them_is_not_up_to_date(unseen: tuple[Path, str, str], tmp_path: Path) -> None:
    version = shutil.copytree(unseen[0] / "tiny" / "1", tmp_path / "tiny" / "1")
    card = cards.read(version)
    gate = card.blessing["gate"]
    assert cards.up_to_date(version.parent, card.request, [], None, gate, force=False) == version
    shutil.rmtree(version / "web")
    older = {**{name: getattr(card, name) for name in card.__dataclass_fields__}, "web": []}
    ExportCard(**older | {"files": cards.listing(version)}).write(version)
    assert cards.damage(version) == []
    assert cards.up_to_date(version.parent, card.request, [], None, gate, force=False) is None


def test_a_browser_that_does_not_start_is_none(
    network: Path,
    tmp_path: Path,
    chromium: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(browser.CHROMIUM, "/bin/false")
    card = export(network, tmp_path, "float32")
    assert [each["browser"] for each in card.web] == [""]
    assert "weren't run in a browser: /bin/false: the browser doesn't start (" in capsys.readouterr().err


def test_a_file_that_answers_otherwise_is_left_out(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of another format stands for a browser whose kernels compute something else."""
    fixed = web_file.fixed_batch

    def swapped(path: Path) -> bytes:
        content = fixed(path)
        return _turned(content) if path.stem == "float32" else content

    monkeypatch.setattr(web_file, "fixed_batch", swapped)
    card = export(network, tmp_path, "float32", "int8")
    assert [each["format"] for each in card.web if "file" in each] == ["int8"]
    assert "web/float32: left out: web/float32: agreement with the model: 0." in capsys.readouterr().err
    assert (tmp_path / "tiny/1/tflite/float32.tflite").exists()


def _turned(content: bytes) -> bytes:
    """Return a TFLite file whose float32 weights have the opposite sign."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    for tensor in model.subgraphs[0].tensors:
        buffer = model.buffers[tensor.buffer]
        if buffer.data is not None and tensor.type == TensorType.FLOAT32:
            buffer.data = list((-np.frombuffer(bytes(buffer.data), np.float32)).tobytes())
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
