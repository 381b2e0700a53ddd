"""The client in other people's programs: one `Client`, in threads and in event loops."""

import asyncio
import dataclasses
import io
import json
import pickle
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client_fixtures import SEVEN, counted, digits_served, send, web
from conftest import ROOT
from serving_fixtures import Client as Ports
from serving_fixtures import config_of, serving
from tfship import client as package
from tfship.client import (
    ArtifactError,
    AsyncClient,
    Client,
    Contract,
    DataError,
    Prediction,
    Refused,
    TfshipError,
    Tls,
    Unreachable,
    UsageError,
)
from tfship.client.images import preprocessing
from tfship.client.images.draw_samples import FOLDER
from tfship.export.preprocessing import input_contract as contracts
from tls_fixtures import Certificates

DIGITS = contracts.digits("cnn")
# Prepared already: they take no time.
INK = preprocessing.from_file(SEVEN, DIGITS)
SAMPLES = [(path, label) for name, label in (("five", "5"), ("seven", "7"), ("three", "3"), ("two", "2"))
           for path in FOLDER.glob(f"{name}.*")]  # fmt: skip
BOTH = pytest.mark.parametrize("kind", ["rest", "grpc"])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with digits_served(tmp_path_factory.mktemp("digits")) as ports:
        yield ports


def address(kind: str, ports: Ports) -> str:
    return f"localhost:{ports.grpc_port}" if kind == "grpc" else f"http://localhost:{ports.rest_port}"


def seven(**how: Any) -> bytes:
    buffer = io.BytesIO()
    with Image.open(SEVEN) as picture:
        picture.convert("RGB").save(buffer, **how)
    return buffer.getvalue()


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
            picture.convert("P"),
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
        assert picture.getpixel((0, 0)) is not None, "it has been closed"
        assert client.predict(INK.astype(np.float16)).label == "7"


def test_a_picture_lies_as_people_see_it(digits: Ports) -> None:
    with Image.open(SEVEN) as picture, Client(address("grpc", digits)) as client:
        turned = picture.transpose(Image.Transpose.ROTATE_90)
        assert client.predict(turned).label != "7"
        turned.getexif()[0x0112] = 6
        assert client.predict(turned) == client.predict(picture)


def test_what_a_prediction_is(digits: Ports) -> None:
    with Client(address("grpc", digits)) as over_grpc, Client(address("rest", digits)) as over_rest:
        one, other = over_grpc.predict(SEVEN), over_rest.predict(SEVEN)
    assert (one.label, one.version, other.version) == ("7", 1, None)
    assert one.probabilities == other.probabilities
    ranked = list(one.probabilities.values())
    assert ranked == sorted(ranked, reverse=True)
    assert (one.label, one.probability) == next(iter(one.probabilities.items()))
    assert sorted(one.probabilities) == list("0123456789")
    assert sum(ranked) == pytest.approx(1, abs=0.01)
    assert pickle.loads(pickle.dumps(one)) == one
    assert len({one, one, other}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.label = "1"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/nowhere.png", "/nowhere.png: no such file"),
        (Path("/nowhere.png"), "/nowhere.png: no such file"),
        ("a\0b.png", "not a path"),
        (str(FOLDER), "a folder; expected a picture file"),
        ("https://example.com/a.png", "no such file"),
        (b"", "picture: empty"),
        (b"no picture", "picture: not a picture"),
        (SEVEN.read_bytes()[:200], "picture: a damaged picture"),
        (None, "picture: of type NoneType; expected a path"),
        ([[0, 255]], "picture: a list (predict_many takes several images)"),
        (np.zeros((28, 28), np.int64), "picture: an array int64 [28, 28]; expected a path"),
        (np.zeros((28, 28, 4), np.uint8), "picture: an array uint8 [28, 28, 4]; expected"),
        (np.zeros((1, 28, 28, 1), np.uint8), "picture: an array uint8 [1, 28, 28, 1]; expected"),
        (np.zeros((0, 28), np.uint8), "picture: an array uint8 [0, 28]; expected"),
        (np.zeros((28, 28), np.uint8), "picture: nothing to see on it"),
        (np.zeros((8000, 8000), np.uint8), "picture: more than 50,000,000 pixels"),
        (Image.new("L", (0, 5)), "picture: 0 × 5 pixels"),
        (np.zeros((32, 32, 1), np.float32), "picture: an array float32 [32, 32, 1]; expected"),
        (INK * 255, "picture: values of 0 to 255; expected the model's, 0 to 1, or pixels as uint8"),
        (np.full((28, 28), np.nan), "picture: values of nan to nan"),
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
        pytest.raises(DataError, match="picture: can't be used as a picture"),
    ):
        client.predict(cut)


@BOTH
def test_many_come_back_in_their_order(digits: Ports, kind: str) -> None:
    labels = [label for _, label in SAMPLES]
    values = [preprocessing.from_file(path, DIGITS) for path, _ in SAMPLES]
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
        with pytest.raises(DataError, match="picture 2: not a picture"):
            client.predict_many(mixed)
        first, second, third, fourth = client.predict_many(mixed, errors="return")
        assert isinstance(first, Prediction)
        assert first == third
        assert isinstance(second, DataError)
        assert str(second).startswith("picture 2: not a picture")
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
            assert str(each).startswith(f"picture {number}: ")
        with pytest.raises(Refused, match="picture 2: "):
            client.predict_many(mixed)
        # It isn't the pictures, as far as anyone can tell.
        with pytest.raises(Refused):
            client.predict_many(mixed[1:], errors="return")

    async def asked() -> list[Prediction | TfshipError]:
        async with AsyncClient(address(kind, foreign), **way) as client:
            with pytest.raises(Refused, match="picture 2: "):
                await client.predict_many(mixed)
            return await client.predict_many(mixed, errors="return")

    assert [type(each) for each in asyncio.run(asked())] == [Prediction, Refused, Refused]


@BOTH
def test_threads_share_a_client(digits: Ports, kind: str) -> None:
    with Client(address(kind, digits)) as client, ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda pair: client.predict(pair[0]).label, SAMPLES * 8))
    assert found == [label for _, label in SAMPLES] * 8


def test_threads_share_a_grpc_connection(digits: Ports) -> None:
    # Only one connection is let through.
    with (
        counted(digits.grpc_port) as (port, _),
        Client(f"127.0.0.1:{port}") as client,
        ThreadPoolExecutor(8) as threads,
    ):
        assert {each.label for each in threads.map(client.predict, [INK] * 50)} == {"7"}


def test_a_rest_connection_is_used_again(digits: Ports) -> None:
    with counted(digits.rest_port) as (port, _), Client(f"http://127.0.0.1:{port}") as client:
        assert {client.predict(INK).label for _ in range(10)} == {"7"}


def test_threads_that_decode_leave_the_warnings_as_they_were() -> None:
    damaged = seven(format="JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: preprocessing.pixels(damaged, DIGITS), range(40)))
    assert list(warnings.filters) == before
    assert all(np.array_equal(each, found[0]) for each in found)


@BOTH
def test_many_at_a_time_in_an_event_loop(digits: Ports, kind: str) -> None:
    async def asked() -> list[Prediction]:
        async with AsyncClient(address(kind, digits)) as client:
            assert [each.label for each in await client.predict_many(path for path, _ in SAMPLES)] == [
                label for _, label in SAMPLES
            ]
            with pytest.raises(DataError, match="picture 2: not a picture"):
                await client.predict_many([INK, b"x"])
            returned = await client.predict_many([INK] * 70 + [b"x"], errors="return")
            assert [type(each) for each in returned] == [Prediction] * 70 + [DataError]
            return await asyncio.gather(*(client.predict(INK) for _ in range(200)))

    found = asyncio.run(asked())
    assert {each.label for each in found} == {"7"}
    assert {each.version for each in found} == {1 if kind == "grpc" else None}


def test_an_event_loop_has_one_grpc_connection(digits: Ports) -> None:
    async def asked(port: int) -> set[str]:
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            return {each.label for each in await asyncio.gather(*(client.predict(INK) for _ in range(100)))}

    with counted(digits.grpc_port) as (port, _):
        assert asyncio.run(asked(port)) == {"7"}


@BOTH
def test_preparing_pictures_does_not_block_the_event_loop(digits: Ports, kind: str) -> None:
    async def asked() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.005)
                ticks += 1

        async with AsyncClient(address(kind, digits)) as client:
            await client.predict(INK)
            ticking = asyncio.create_task(tick())
            await client.predict_many([SEVEN] * 10)
            ticking.cancel()
            return ticks

    # Were they prepared in the loop, there would be one at most.
    assert asyncio.run(asked()) > 1


@pytest.fixture
def silent() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@BOTH
def test_a_task_that_waits_can_be_cancelled(digits: Ports, kind: str, silent: int) -> None:
    async def asked() -> None:
        where = f"127.0.0.1:{silent}" if kind == "grpc" else f"http://127.0.0.1:{silent}"
        async with AsyncClient(where, timeout=2, retries=0) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.predict(INK), 0.2)
            # Others who wait for the same are not cancelled with it.
            one, other = (asyncio.create_task(client.predict(INK)) for _ in range(2))
            await asyncio.sleep(0.1)
            one.cancel()
            with pytest.raises(Unreachable):
                await other
            assert one.cancelled()

    asyncio.run(asked())


@BOTH
def test_a_prediction_under_way_can_be_cancelled_and_the_client_goes_on(digits: Ports, kind: str) -> None:
    async def asked() -> str:
        async with AsyncClient(address(kind, digits)) as client:
            await client.predict(INK)
            tasks = [asyncio.create_task(client.predict(INK)) for _ in range(20)]
            await asyncio.sleep(0)
            for each in tasks[::2]:
                each.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(each, asyncio.CancelledError) for each in found] == [True, False] * 10
            return (await client.predict(INK)).label

    assert asyncio.run(asked()) == "7"


def test_an_event_loop_of_its_own(digits: Ports) -> None:
    client = AsyncClient(address("grpc", digits))

    async def asked() -> None:
        await client.predict(INK)

    async def closed() -> None:
        await client.predict(INK)
        await client.close()

    with asyncio.Runner() if sys.version_info >= (3, 11) else pytest.skip("asyncio.Runner") as runner:
        runner.run(asked())
        with (
            ThreadPoolExecutor(1) as other,
            pytest.raises(UsageError, match="belongs to another event loop; make one in each"),
        ):
            other.submit(asyncio.run, asked()).result()
        runner.run(closed())


DESCRIBED = {
    "metadata": {
        "signature_def": {
            "signature_def": {
                "serving_default": {
                    "inputs": {
                        "image": {
                            "name": "image:0",
                            "dtype": "DT_FLOAT",
                            "tensor_shape": {"dim": [{"size": each} for each in ("-1", "28", "28", "1")]},
                        }
                    },
                    "outputs": {
                        "probabilities": {
                            "name": "probabilities:0",
                            "dtype": "DT_FLOAT",
                            "tensor_shape": {"dim": [{"size": "-1"}, {"size": "10"}]},
                        }
                    },
                    "method_name": "tensorflow/serving/predict",
                }
            }
        }
    }
}


def model_server(handler: BaseHTTPRequestHandler) -> None:
    """Answer as a model server does that is sure of a 3."""
    answer = DESCRIBED if handler.path.endswith("/metadata") else {"predictions": [[0, 0, 0, 1.0] + [0] * 6]}
    send(handler, 200, json.dumps(answer).encode(), Content_Type="application/json")


def test_headers_go_along_and_the_signature_is_asked_for_once() -> None:
    async def asked(url: str) -> None:
        async with AsyncClient(url, headers={"x-api-key": "secret"}, version=4) as client:
            assert "secret" not in repr(client)
            found = await asyncio.gather(*(client.predict(INK) for _ in range(10)))
            assert {each.label for each in found} == {"3"}

    with web(lambda handler, _: model_server(handler)) as server:
        asyncio.run(asked(server.url))
    assert [each.path for each in server.asked].count("/v1/models/cnn/versions/4/metadata") == 1
    assert {each.headers["x-api-key"] for each in server.asked} == {"secret"}
    assert len(server.asked) == 11


def test_a_client_that_failed_at_first_goes_on() -> None:
    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before < 2:
            send(handler, 404, b'{"error": "not yet"}')
        else:
            model_server(handler)

    with web(answer) as server, Client(server.url, retries=0) as client:
        for _ in range(2):
            with pytest.raises(Refused, match="HTTP 404: not yet"):
                client.predict(INK)
        assert client.predict(INK).label == "3"


def test_a_gateway_that_lets_only_predictions_through() -> None:
    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        if handler.path.endswith("/metadata"):
            send(handler, 403, b"no")
        else:
            model_server(handler)

    with web(answer) as server:
        with Client(server.url) as client, pytest.raises(Refused, match="HTTP 403"):
            client.predict(INK)
        with Client(server.url, contract=DIGITS) as client:
            assert client.predict(INK).label == "3"


@BOTH
def test_no_server_no_model_no_signature(digits: Ports, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    nowhere = f"127.0.0.1:{port}" if kind == "grpc" else f"http://127.0.0.1:{port}"
    where = address(kind, digits)
    cases: list[tuple[str, dict[str, Any], type[TfshipError], str]] = [
        (nowhere, {"retries": 0}, Unreachable, "nothing answers with"),
        (where, {"model": "nope"}, Refused, "Servable not found for request"),
        (where, {"version": 9}, Refused, "Servable not found for request"),
        (where, {"signature": "nope"}, UsageError, "has no signature nope; there are serving_default"),
    ]

    async def asked(where: str, options: dict[str, Any]) -> None:
        async with AsyncClient(where, **options) as client:
            await client.predict(INK)

    for server, options, error, message in cases:
        with pytest.raises(error, match=message) as caught, Client(server, **options) as client:
            client.predict_many([INK, b"no picture"], errors="return")
        with pytest.raises(error, match=message) as other:
            asyncio.run(asked(server, options))
        assert str(other.value) == str(caught.value)


@pytest.mark.parametrize("made", [Client, AsyncClient])
def test_arguments_that_cannot_be(made: Callable[..., Any], tmp_path: Path) -> None:
    for where, options, error, message in (
        ("localhost", {}, UsageError, "expected host:port for gRPC"),
        ("", {}, UsageError, "expected host:port for gRPC"),
        ("ftp://localhost:1", {}, UsageError, "an address of ftp://"),
        ("http://localhost:1/path", {}, UsageError, "nothing behind it"),
        ("http://localhost:1?a", {}, UsageError, "nothing behind it"),
        ("https://", {}, UsageError, "nothing behind it"),
        ("http://[::1:8501", {}, UsageError, "not a URL"),
        ("http://localhost:1", {"tls": True}, UsageError, "expected https://"),
        ("localhost:1", {"version": 1, "label": "a"}, UsageError, "expected one of them"),
        ("localhost:1", {"timeout": 0}, UsageError, "a timeout of 0"),
        ("localhost:1", {"retries": 9}, UsageError, "9 retries"),
        ("localhost:1", {"headers": {"a": "b\n"}}, UsageError, "header a"),
        ("localhost:1", {"contract": tmp_path}, ArtifactError, "no such file"),
        ("localhost:1", {"contract": SEVEN}, ArtifactError, "not JSON"),
        ("localhost:1", {"tls": Tls(SEVEN)}, UsageError, "holds no certificate"),
    ):
        with pytest.raises(error, match=message):
            made(where, **options)
    with pytest.raises(UsageError) as caught:
        made("https://me:secret@localhost:1")
    assert "secret" not in str(caught.value)


@BOTH
def test_a_client_that_is_closed(digits: Ports, kind: str) -> None:
    client = Client(address(kind, digits))
    client.predict(INK)
    client.close()
    client.close()
    with pytest.raises(UsageError, match="is closed; make another"):
        client.predict(INK)
    Client(address(kind, digits)).close()

    async def asked() -> None:
        other = AsyncClient(address(kind, digits))
        await other.predict(INK)
        target, _ = await other._opened()
        await other.close()
        await other.close()
        with pytest.raises(UsageError, match="is closed; make another"):
            await other.predict(INK)
        # Closed while a picture was being prepared.
        with pytest.raises(UsageError):
            await target.answer(INK[np.newaxis])
        await AsyncClient(address(kind, digits)).close()

    asyncio.run(asked())


@BOTH
def test_a_client_closed_by_another_thread(digits: Ports, kind: str) -> None:
    client = Client(address(kind, digits))
    stop, failures = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            try:
                client.predict(INK)
            except TfshipError as error:
                failures.append(error)
                return

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(ask) for _ in range(4)]
        time.sleep(0.2)
        client.close()
        time.sleep(0.1)
        stop.set()
        for each in running:
            each.result()
    assert len(failures) == 4


@BOTH
def test_encrypted(kind: str, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    tls = Tls(tmp_path / "ca.pem")
    assert Tls(str(tls.ca)) == tls  # type: ignore[arg-type]

    async def asked(where: str) -> str:
        async with AsyncClient(where, tls=tls) as client:
            return (await client.predict(INK)).label

    with digits_served(tmp_path, certificates.tls()) as ports:
        where = address(kind, ports).replace("http:", "https:")
        with Client(where, tls=tls) as client:
            assert client.predict(INK).label == "7"
        assert asyncio.run(asked(where)) == "7"
        with Client(where, tls=True) as client, pytest.raises(Unreachable, match="its certificate is signed"):
            client.predict(INK)


def test_what_the_package_offers_is_imported_when_it_is_asked_for() -> None:
    script = """
import sys, tfship.client as client
heavy = {"numpy", "PIL", "grpc", "requests", "asyncio", "tfship.client.api.client"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
client.Client("localhost:8500"), client.AsyncClient("localhost:8500")
assert not {"grpc", "requests", "tensorflow"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    assert {name for name in package.__all__ if not hasattr(package, name)} == set()
    assert not hasattr(package, "Clinet")


def test_nothing_is_left_open_or_said(digits: Ports) -> None:
    script = """
import asyncio, sys
from tfship.client import AsyncClient, Client

async def main(where):
    async with AsyncClient(where) as client:
        await asyncio.gather(*(client.predict(sys.argv[1]) for _ in range(5)))

for where in sys.argv[2:]:
    with Client(where) as client:
        client.predict_many([sys.argv[1]] * 3)
    asyncio.run(main(where))
"""
    command = [sys.executable, "-W", "error", "-c", script, str(SEVEN)]
    done = subprocess.run(
        [*command, address("grpc", digits), address("rest", digits)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
