"""Images as the library takes them, one and many, and what it refuses."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client_fixtures import BOTH, DIGITS, INK, SAMPLES, SEVEN, address, digits_served, seven
from serving_fixtures import Client as Ports
from serving_fixtures import config_of, serving
from tfship.client import (
    AsyncClient,
    Client,
    Contract,
    DataError,
    Prediction,
    Refused,
    TfshipError,
    UsageError,
)
from tfship.client.api import inputs
from tfship.client.images import preprocessing
from tfship.client.images.draw_samples import FOLDER
from tfship.export.preprocessing import input_contract as contracts
from tfship.export.preprocessing.input_contract import Scaling


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with digits_served(tmp_path_factory.mktemp("digits")) as ports:
        yield ports


@BOTH
def test_an_image_in_any_form(digits: Ports, kind: str) -> None:
    with Image.open(SEVEN) as picture, Client(address(kind, digits)) as client:
        rgb = np.asarray(picture.convert("RGB"))
        grey = np.asarray(picture.convert("L"))
        expected = client.predict(SEVEN)
        assert expected.label == "7"
        for form in (
            str(SEVEN),
            SEVEN.read_bytes(),
            bytearray(SEVEN.read_bytes()),
            memoryview(SEVEN.read_bytes()),
            picture,
            picture.convert("RGBA"),
            rgb,
            rgb[::-1][::-1],
            grey,
            grey[..., np.newaxis],
            INK,
            INK[..., 0],
            INK.astype(np.float64),
        ):
            found = client.predict(form)
            assert found == expected, form
        # A palette is dithered.
        found = client.predict(picture.convert("P"))
        assert found.label == "7"
        assert found.probability == pytest.approx(expected.probability, abs=0.02)
        assert picture.getpixel((0, 0)) is not None, "it has been closed"
        assert client.predict(INK.astype(np.float16)).label == "7"


def test_a_picture_lies_as_people_see_it(digits: Ports) -> None:
    with Image.open(SEVEN) as picture, Client(address("grpc", digits)) as client:
        turned = picture.transpose(Image.Transpose.ROTATE_270)
        assert client.predict(turned).label != "7"
        turned.getexif()[0x0112] = 8
        assert client.predict(turned) == client.predict(picture)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/nowhere.png", "/nowhere.png: no such file"),
        (Path("/nowhere.png"), "/nowhere.png: no such file"),
        ("a\0b.png", "not a path"),
        (str(FOLDER), "a folder; expected an image file"),
        ("https://example.com/a.png", "no such file"),
        (b"", "image: empty"),
        (b"no picture", "image: not an image"),
        (SEVEN.read_bytes()[:200], "image: a damaged image"),
        (None, "image: of type NoneType; expected a path"),
        ([[0, 255]], "image: a list (predict_many takes several images)"),
        (np.zeros((28, 28), np.int64), "image: an array int64 [28, 28]; expected a path"),
        (np.zeros((28, 28, 4), np.uint8), "image: an array uint8 [28, 28, 4]; expected"),
        (np.zeros((1, 28, 28, 1), np.uint8), "image: an array uint8 [1, 28, 28, 1]; expected"),
        (np.zeros((0, 28), np.uint8), "image: an array uint8 [0, 28]; expected"),
        (np.zeros((28, 28), np.uint8), "image: nothing to see on the image"),
        (np.zeros((8000, 8000), np.uint8), "image: more than 50,000,000 pixels"),
        (Image.new("L", (0, 5)), "image: 0 × 5 pixels"),
        (np.zeros((32, 32, 1), np.float32), "image: an array float32 [32, 32, 1]; expected"),
        (INK * 255, "image: values of 0 to 255; expected the model's, 0 to 1, or pixels as uint8"),
        (np.full((28, 28), np.nan), "image: values of nan to nan"),
    ],
)
def test_what_is_no_image(digits: Ports, given: Any, message: str) -> None:
    with Client(address("grpc", digits)) as client, pytest.raises(DataError) as caught:
        client.predict(given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_whose_file_is_cut_off(digits: Ports) -> None:
    with (
        Image.open(io.BytesIO(seven(format="JPEG")[:-400])) as cut,
        Client(address("grpc", digits)) as client,
        pytest.raises(DataError, match="image: Pillow can't read the image"),
    ):
        client.predict(cut)


@BOTH
def test_many_come_back_in_their_order(digits: Ports, kind: str) -> None:
    labels = [label for _, label in SAMPLES]
    values = [preprocessing.from_bytes(path.read_bytes(), DIGITS) for path, _ in SAMPLES]
    with Client(address(kind, digits)) as client:
        assert [each.label for each in client.predict_many(path for path, _ in SAMPLES)] == labels
        # More than one request takes.
        assert [each.label for each in client.predict_many(values * 20)] == labels * 20
        assert [each.label for each in client.predict_many(np.stack(values))] == labels
        assert client.predict_many([]) == []


@BOTH
def test_one_that_cannot_be_used_among_many(digits: Ports, kind: str) -> None:
    mixed: list[Any] = [INK, b"no picture", INK, "/nowhere.png"]
    with Client(address(kind, digits)) as client:
        with pytest.raises(DataError, match="image 2: not an image"):
            client.predict_many(mixed)
        first, second, third, fourth = client.predict_many(mixed, errors="return")
        assert isinstance(first, Prediction)
        assert first == third
        assert isinstance(second, DataError)
        assert str(second).startswith("image 2: not an image")
        assert (type(fourth), str(fourth)) == (DataError, "/nowhere.png: no such file")
        assert all(isinstance(each, DataError) for each in client.predict_many([b"x", b"y"], errors="return"))


def test_what_is_not_many(digits: Ports) -> None:
    with Client(address("grpc", digits)) as client:
        for one in (str(SEVEN), SEVEN, SEVEN.read_bytes(), Image.new("L", (28, 28))):
            with pytest.raises(UsageError, match="one image of type"):
                client.predict_many(one)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="images of type int"):
            client.predict_many(3)  # type: ignore[call-overload]
        with pytest.raises(UsageError, match="errors='ignore': expected 'raise' or 'return'"):
            client.predict_many([], errors="ignore")  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """A model `light` of signatures for pixels and for encoded pictures: how dark and how bright they are."""
    import tensorflow as tf

    def of_pixels(pixels: Any) -> dict[str, Any]:
        mean = tf.reduce_mean(tf.cast(pixels, tf.float32), [1, 2, 3]) / 255.0
        return {"probabilities": tf.stack([1 - mean, mean], 1)}

    def of_bytes(pictures: Any) -> dict[str, Any]:
        def decoded(picture: Any) -> Any:
            return tf.ensure_shape(tf.io.decode_png(picture, channels=1), [28, 28, 1])

        return of_pixels(tf.map_fn(decoded, pictures, fn_output_signature=tf.uint8))

    module = tf.Module()
    module.pixels = tf.function(of_pixels, [tf.TensorSpec([None, 28, 28, 1], tf.uint8, "image")])
    module.bytes = tf.function(of_bytes, [tf.TensorSpec([None], tf.string, "pictures")])
    base = tmp_path_factory.mktemp("foreign") / "light"
    signatures = {"serving_default": module.pixels, "bytes": module.bytes}
    tf.saved_model.save(module, str(base / "3"), signatures=signatures)
    with serving(config_of(light=base)) as ports:
        yield ports


LIGHT = Contract("light", ("dark", "bright"), 28, 28, 1, contracts.Scaling.of_range(0, 1, 1), "resize")
BRIGHT = np.full((28, 28), 255, np.uint8)


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@BOTH
@pytest.mark.parametrize("signature", ["serving_default", "bytes"])
def test_a_model_of_ones_own(foreign: Ports, kind: str, signature: str, tmp_path: Path) -> None:
    LIGHT.write(tmp_path)
    for contract in (LIGHT, tmp_path, str(tmp_path / "contract.json")):
        with Client(address(kind, foreign), model="light", signature=signature, contract=contract) as client:
            for form in (BRIGHT, BRIGHT[..., np.newaxis], png(BRIGHT), Image.fromarray(BRIGHT)):
                found = client.predict(form)
                assert (found.label, found.probability) == ("bright", 1.0)
                assert found.version == (3 if kind == "grpc" else None)
            dark = client.predict(BRIGHT - 192)
            assert dark.label == "dark"
            assert dark.probability == pytest.approx(192 / 255)
            with pytest.raises(DataError, match="but the signature takes .*; expected uint8 pixels"):
                client.predict(np.ones((28, 28), np.float32))


@BOTH
def test_a_picture_that_the_server_cannot_use_among_many(foreign: Ports, kind: str) -> None:
    mixed = [png(BRIGHT), png(BRIGHT[:4]), png(BRIGHT[:5])]
    way: dict[str, Any] = {"model": "light", "signature": "bytes", "contract": LIGHT}
    with Client(address(kind, foreign), **way) as client:
        first, second, third = client.predict_many(mixed, errors="return")
        assert isinstance(first, Prediction)
        assert first.label == "bright"
        for number, each in ((2, second), (3, third)):
            assert isinstance(each, Refused)
            assert str(each).startswith(f"image {number}: ")
        with pytest.raises(Refused, match="image 2: "):
            client.predict_many(mixed)
        # It isn't the pictures, as far as anyone can tell.
        with pytest.raises(Refused):
            client.predict_many(mixed[1:], errors="return")

    async def asked() -> list[Prediction | TfshipError]:
        async with AsyncClient(address(kind, foreign), **way) as client:
            with pytest.raises(Refused, match="image 2: "):
                await client.predict_many(mixed)
            return await client.predict_many(mixed, errors="return")

    assert [type(each) for each in asyncio.run(asked())] == [Prediction, Refused, Refused]


def test_floats_are_checked_against_the_range_of_each_channel() -> None:
    scaling = Scaling((1.0, 1.0, 1.0), (-100.0, 0.0, 50.0), bgr=True)
    rules = Contract("colours", ("a", "b"), 2, 2, 3, scaling, "resize")
    good = np.tile(np.array([-100, 0, 305], np.float32), (2, 2, 1))
    assert inputs.prepared(good, rules, "float32", "image").row is not None
    # Within the range of the model, and not of its channels.
    with pytest.raises(
        DataError, match="image: values of 305 to 305 in channel 0; expected the model's, -100 to 155"
    ):
        inputs.prepared(good[..., ::-1], rules, "float32", "image")
    black = inputs.prepared(np.zeros((2, 2, 3), np.uint8), rules, "float32", "image").row
    assert black[0, 0].tolist() == [-100, 0, 50]
