"""Input contracts, constants and refused files of the preparation in JavaScript."""

import ast
import base64
import copy
import io
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from client_fixtures import SEVEN, WEB_SOURCES, module_page
from tfship.export.preprocessing import input_contract
from tfship.export.preprocessing.input_contract import Contract, Scaling
from tfship.train.common.errors import ArtifactError

DIGITS = input_contract.digits("cnn")
PHOTOS = Contract("photos", ("a", "b"), 32, 48, 3, Scaling.of_range(-1, 1, 3), "resize")
CAFFE = Contract("caffe", ("a",), 24, 40, 3, Scaling((1, 1, 0.017), (-103.9, -116.8, 0), True), "resize",
                 "independent", 8)  # fmt: skip

PARSE = """async text => {
  const { parse } = await import("/preparation/contract.js")
  try {
    return parse(text)
  } catch (error) {
    return error.message
  }
}"""
PREPARE = """async ([data, text]) => {
  const { parse } = await import("/preparation/contract.js")
  const { decode } = await import("/preparation/decoding.js")
  const { prepare } = await import("/preparation/preparation.js")
  try {
    return prepare(await decode(await (await fetch(`data:;base64,${data}`)).blob()), parse(text))
  } catch (error) {
    return error.message
  }
}"""


@pytest.fixture(scope="module")
def page(chrome: Browser) -> Page:
    return module_page(chrome, "<!doctype html><title>contract</title>")


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def claiming(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size."""
    data = encoded(Image.new("L", (1, 1)))
    return data[:16] + struct.pack(">II", width, height) + data[24:]


def seven(kind: str) -> bytes:
    return encoded(Image.open(SEVEN).convert("RGB"), kind)


# The file, and how the message begins.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "an empty file; expected PNG, JPEG or another image format: choose another file"),
    "text": (lambda: b"no picture at all " * 100, "not an image; expected PNG"),
    "drawing": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "not an image"),
    "short PNG": (lambda: SEVEN.read_bytes()[:2000], "a damaged image; expected PNG"),
    "PNG without pixels": (lambda: SEVEN.read_bytes()[:40], "a damaged image; expected PNG"),
    "PNG without header": (lambda: SEVEN.read_bytes()[:20], "a damaged image; expected PNG"),
    "short JPEG": (lambda: seven("JPEG")[:-300], "a damaged image; expected PNG"),
    "short WebP": (lambda: seven("WEBP")[:-30], "a damaged image; expected PNG"),
    "TIFF": (lambda: seven("TIFF"), "a TIFF image, which this browser can't read; expected PNG"),
    "HEIC": (lambda: b"\0\0\0\x18ftypheic" + bytes(500), "a HEIC image, which this browser can't read"),
    "blank": (lambda: encoded(Image.new("L", (300, 200), 250)), "nothing to see on the image; expected a digit in one"),
    "dot": (lambda: encoded(Image.new("RGBA", (1, 1))), "nothing to see on the image; expected a digit in one ink"),
    "many pixels": (lambda: claiming(7_072, 7_072), "more than 50,000,000 pixels; expected fewer: scale the image"),
    "wide": (lambda: claiming(32_768, 9), "32,768 × 9 pixels; expected 32,767 per side at most: scale the image"),
    "wide JPEG": (lambda: encoded(Image.new("L", (40_000, 3)), "JPEG"), "40,000 × 3 pixels; expected 32,767"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_images_are_refused_in_words(page: Page, name: str) -> None:
    make, message = REFUSED[name]
    contract = json.dumps(DIGITS.describe())
    assert page.evaluate(PREPARE, [base64.b64encode(make()).decode(), contract]).startswith(message)


@pytest.mark.parametrize("contract", [DIGITS, PHOTOS, CAFFE], ids=lambda each: each.model)
def test_contracts_are_read(page: Page, contract: Contract) -> None:
    assert page.evaluate(PARSE, json.dumps(contract.describe())) == {
        "model": contract.model,
        "labels": list(contract.labels),
        "height": contract.height,
        "width": contract.width,
        "channels": contract.channels,
        "scale": list(contract.scaling.scale),
        "offset": list(contract.scaling.offset),
        "bgr": contract.scaling.bgr,
        "preparation": contract.preparation,
        "outputs": contract.outputs,
        "tfliteBatch": contract.tflite_batch,
    }


def test_contracts_of_earlier_schemas_are_read(page: Page) -> None:
    older = {**copy.deepcopy(PHOTOS.describe()), "schema": 3}
    assert page.evaluate(PARSE, json.dumps(older)) == page.evaluate(PARSE, json.dumps(PHOTOS.describe()))
    del older["outputs"], older["tflite_batch"], older["image"]["scale"], older["image"]["offset"]
    older["image"]["range"] = [-1.0, 1.0]
    older["schema"] = 2
    assert page.evaluate(PARSE, json.dumps(older)) == page.evaluate(PARSE, json.dumps(PHOTOS.describe()))


# The place of a change in a contract, and the value there.
CHANGES: list[tuple[str, Any]] = [
    ("schema", 1),
    ("schema", 5),
    ("model", 5),
    ("labels", "ab"),
    ("labels", ["a", 1]),
    ("labels", ["a"]),
    ("preparation", "crop"),
    ("outputs", "logits"),
    ("image", None),
    ("image/shape", [None, 32, 48]),
    ("image/shape", [None, 32, 48, 4]),
    ("image/shape", [1, 32, 48, 3]),
    ("image/scale", [1.0]),
    ("image/scale", [None, None, None]),
    ("image/offset", ["0", "0", "0"]),
    ("image/channels", "RBG"),
    ("image/layout", "NCHW"),
    ("signatures/serving_bytes", {}),
    ("more", 1),
]


@pytest.mark.parametrize(("place", "value"), CHANGES)
def test_other_contracts_are_refused(page: Page, tmp_path: Path, place: str, value: object) -> None:
    contract = copy.deepcopy(PHOTOS.describe())
    part, name = contract, place
    while "/" in name:
        first, name = name.split("/", 1)
        part = part[first]
    part[name] = value
    (tmp_path / input_contract.CONTRACT).write_text(json.dumps(contract))
    with pytest.raises(ArtifactError, match="not an input contract of this version"):
        input_contract.read(tmp_path)
    refused = r"not an input contract of this version \(.+\); export the model again"
    assert re.fullmatch(refused, page.evaluate(PARSE, json.dumps(contract)))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "{}"])
def test_other_texts_are_refused(page: Page, text: str) -> None:
    assert page.evaluate(PARSE, text).startswith("not an input contract of this version")


def test_constants_are_those_of_the_input_contract() -> None:
    text = (WEB_SOURCES / "preparation" / "rules.js").read_text()
    lines = re.findall(r"^export const (\w+) = (.+);$", text, re.MULTILINE)
    constants = {name: ast.literal_eval(value) for name, value in lines}
    assert len(constants) == text.count("const ")
    assert constants == {name: getattr(input_contract, name) for name in constants}
    numbers = {
        name for name in input_contract.__all__ if isinstance(getattr(input_contract, name), int | float)
    }
    assert numbers <= set(constants)
