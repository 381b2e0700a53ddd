"""REST against a running server."""

import gzip
import http.client
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from serving_fixtures import Client, config_of, eventually, only_new_objects, serving, slow_steps, tiny_models
from tfship.serving.http.protocol import HttpConnection
from tfship.serving.server.settings import Limits, Settings

_BAD_CHUNK = b"POST /v1/models/double:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    names = ("double", "texts", "conv", "pair")
    with serving(config_of(**{name: tiny_models() / name for name in names})) as client:
        yield client


def test_predict_row_and_columnar(client: Client) -> None:
    assert client.rest("/v1/models/double:predict", {"instances": [[1, 2], [3, 4]]}) == (
        200,
        {"predictions": [[2.0, 4.0], [6.0, 8.0]]},
    )
    assert client.rest("/v1/models/double/versions/1:predict", {"inputs": {"x": [[1, 2]]}}) == (
        200,
        {"outputs": [[2.0, 4.0]]},
    )


def test_several_inputs_and_outputs(client: Client) -> None:
    assert client.rest("/v1/models/pair:predict", {"instances": [{"a": 1.5, "b": 2}, {"a": 0, "b": -1}]}) == (
        200,
        {"predictions": [{"a": 1.5, "total": 3.5}, {"a": 0.0, "total": -1.0}]},
    )


def test_strings_nested_too_deep_are_refused_and_the_server_lives(client: Client) -> None:
    for depth, expected in ((32, 200), (33, 400), (64, 400)):
        nested: Any = "NaN"
        for _ in range(depth):
            nested = [nested]
        status, answer = client.rest("/v1/models/texts:predict", {"instances": nested})
        assert status == expected, depth
        assert status == 200 or "more than 32 nested lists" in answer["error"]
    assert client.rest("/v1/models/texts:predict", {"inputs": ["a"]})[0] == 200


def test_strings(client: Client) -> None:
    assert client.rest("/v1/models/texts:predict", {"inputs": ["ab", {"b64": "/w=="}]}) == (
        200,
        {"outputs": {"upper": ["AB", {"b64": "/w=="}], "copy_bytes": [{"b64": "YWI="}, {"b64": "/w=="}]}},
    )


def test_status_and_metadata(client: Client) -> None:
    available = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert client.rest("/v1/models/double") == (200, {"model_version_status": [available]})
    status, answer = client.rest("/v1/models/double/versions/1/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "double", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert [each["size"] for each in signature["inputs"]["x"]["tensor_shape"]["dim"]] == ["-1", "2"]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/models/nope:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(nope)"),
        ("/v1/models/double/versions/7:predict", {"instances": [1]}, 404, "Specific(double, 7)"),
        (
            "/v1/models/double/labels/new:predict",
            {"instances": [1]},
            400,
            "Unrecognized servable version label",
        ),
        ("/v1/models/double:predict", {"signature_name": "no", "instances": [1]}, 400, '"no" not found'),
        ("/v1/models/double:predict", b"{", 400, "JSON Parse error"),
        ("/v1/models/double:predict", b'{"instances": [[[[]}', 400, "Missing a comma or ']'"),
        ("/v1/models/double:predict", b"\xff", 400, "not UTF-8"),
        (
            "/v1/models/double:classify",
            {"examples": [{}]},
            400,
            "No classification inputs found in SignatureDef",
        ),
        ("/v1/models/double:regress", {"examples": [{}]}, 400, "No regression inputs found in SignatureDef"),
        ("/v1/models/double", {}, 400, "Malformed request: POST /v1/models/double"),
        ("/v1/models/double:predict?a=b", {}, 400, "Malformed request"),
        ("/v1/models/double/versions/99999999999999999999:predict", {}, 400, "larger than an int64"),
        (f"/v1/models/double/versions/{'9' * 5000}", None, 400, "larger than an int64"),
        (f"/v1/models/double/versions/{'0' * 5000}9", None, 404, "version 9"),
        ("/v1/models/double:predict", b'{"signature_name": "\\ud800", "instances": [1]}', 400, "surrogate"),
        ("/v1/models/double:classify", b'{"signature_name": "\\ud800", "examples": [{}]}', 400, "surrogate"),
        ("/v1/models/../double", None, 400, "Malformed request"),
        ("/v1/models/%2e%2e%2fdouble", None, 404, "any versions of model ../double"),
        ("/v1/models/%ff", None, 400, "not UTF-8"),
        ("/v1/models/versions/1", None, 400, "Missing model name"),
    ],
)
def test_refusals(client: Client, path: str, body: Any, status: int, message: str) -> None:
    found, answer = client.rest(path, body)
    assert (found, list(answer)) == (status, ["error"])
    assert message in answer["error"]


@pytest.mark.parametrize(
    ("path", "method", "status", "phrase"),
    [
        ("/v1/models/%7", "GET", 400, "Bad Request"),
        ("/nothing", "GET", 404, "Not Found"),
        ("/", "POST", 404, "Not Found"),
        ("/v1/models/double", "FROB", 501, "Not Implemented"),
    ],
)
def test_what_is_not_the_api_gets_a_page(
    client: Client, path: str, method: str, status: int, phrase: str
) -> None:
    found, page = client.rest(path, method=method)
    assert found == status
    assert f"<TITLE>{status} {phrase}</TITLE>" in page


def test_shapes_that_abort_tensorflow_are_refused(client: Client) -> None:
    for shape in ((4, 4, 1), (1, 4, 4), (4,), (), (1, 4, 4, 1, 1), (1, 5, 4, 1), (1, 0, 4, 1)):
        status, answer = client.rest("/v1/models/conv:predict", {"inputs": np.zeros(shape).tolist()})
        assert status == 400, answer
    assert client.rest("/v1/models/conv:predict", {"inputs": np.ones((1, 4, 4, 1)).tolist()}) == (
        200,
        {"outputs": np.full((1, 2, 2, 1), 9.0).tolist()},
    )


def test_shapes_that_the_graph_can_take_are_let_through(client: Client) -> None:
    # As TensorFlow Serving: its documentation sends [1.0, 2.0, 5.0] to a [-1, 1] input.
    assert client.rest("/v1/models/double:predict", {"instances": [1.0, 2.0, 5.0]}) == (
        200,
        {"predictions": [2.0, 4.0, 10.0]},
    )


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"/v1/models/double HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        (b"HTTP/1.1\r\n\r\n", 400),
        (b"/ HTTP/1.1\r\nX: " + b"x" * 600_000, 431),
        (b"/ HTTP/1.1\r\n: x\r\n\r\n", 400),
        (b"/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx", 400),
    ],
    ids=["whole", "target", "large", "header", "chunk"],
)
def test_head_has_no_body(client: Client, rest: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", client.rest_port), 10) as connection:
        connection.sendall(b"HEAD " + rest)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 %d" % status)
    assert answer.endswith(b"\r\n\r\n")


def test_gzip_requests(client: Client) -> None:
    body = json.dumps({"instances": [[1, 2]]}).encode()
    packed = gzip.compress(body)
    path = "/v1/models/double:predict"
    assert client.rest(path, packed, Content_Encoding="gzip") == (200, {"predictions": [[2.0, 4.0]]})
    for broken in (body, packed[:-3], packed + packed, b""):
        assert client.rest(path, broken, Content_Encoding="gzip")[0] == 400
    assert client.rest(path, body, Content_Encoding="br")[0] == 400


def test_gzip_answers_are_for_long_ones(client: Client) -> None:
    path = "/v1/models/double:predict"
    rows = np.arange(8000, dtype=np.float32).reshape(-1, 2)
    connection = http.client.HTTPConnection("127.0.0.1", client.rest_port, timeout=100)
    body = json.dumps({"instances": rows.tolist()})
    connection.request("POST", path, body, {"Accept-Encoding": "gzip, deflate"})
    response = connection.getresponse()
    assert response.getheader("Content-Encoding") == "gzip"
    answer = json.loads(gzip.decompress(response.read()))
    np.testing.assert_array_equal(np.array(answer["predictions"], np.float32), rows * 2)
    connection.close()
    short = client.headers(path, {"instances": [[1, 2]]}, Accept_Encoding="gzip")
    assert "content-encoding" not in short
    assert "content-encoding" not in client.headers(path, body.encode())


@pytest.mark.parametrize("whole", [1, 2, 3])
@pytest.mark.parametrize(
    "broken", [b"GET / X\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", _BAD_CHUNK]
)
def test_what_comes_before_something_broken_is_answered(client: Client, whole: int, broken: bytes) -> None:
    body = b'{"instances": [[1, 2]]}'
    good = b"POST /v1/models/double:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    head = b"HEAD /v1/models/double HTTP/1.1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.rest_port), 10) as connection:
        connection.sendall(good * whole + head + broken)
        answers = b"".join(iter(lambda: connection.recv(4096), b""))
    found = [int(each) for each in re.findall(rb"HTTP/1\.1 (\d+) ", answers)]
    assert found == [200] * whole + [400, 400]
    assert answers.count(b"<TITLE>400") == 1  # the answer to HEAD has no body


@pytest.mark.parametrize(
    "start",
    [
        b"X: ",
        b"",
        b": ",
        b"Transfer-Encoding: chunked\r\n\r\n1;",
        b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ",
    ],
)
def test_headers_that_never_end(client: Client, start: bytes) -> None:
    with socket.create_connection(("127.0.0.1", client.rest_port), 10) as connection:

        def go_on() -> None:
            while True:
                connection.sendall(b"a" * 65536)
                time.sleep(0.005)  # the server takes it for two seconds, and both would be busy

        connection.sendall(b"POST /v1/models/double:predict HTTP/1.1\r\n" + start)
        # No more than it takes and what is on the way: a server that reads on would make this last for ever.
        with pytest.raises(OSError, match="reset|Broken pipe"):
            go_on()


def test_long_headers_in_pieces(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.rest_port), 10) as connection:
        connection.sendall(b"GET /v1/models/double HTTP/1.1\r\nConnection: close\r\nX: ")
        for _ in range(4):
            connection.sendall(b"a" * 60_000)
            time.sleep(0.01)
        connection.sendall(b"\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("wish", ["h2c", "websocket", "TLS/1.2"])
def test_a_wish_for_another_protocol_is_not_granted(client: Client, wish: str) -> None:
    """`curl --http2` and Java's HttpClient have it in each first request."""
    body = b'{"instances": [[1, 2]]}'
    request = (
        f"POST /v1/models/double:predict HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        f"Upgrade: {wish}\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    with socket.create_connection(("127.0.0.1", client.rest_port), 30) as connection:
        # The connection goes on as it was.
        connection.sendall(request + request)
        answers = b""
        while answers.count(b"[[2.0,4.0]]") < 2:
            answers += (piece := connection.recv(4096))
            assert piece, answers
    assert answers.count(b"HTTP/1.1 200 OK") == 2


def test_connections_that_are_reset_are_forgotten(client: Client) -> None:
    with only_new_objects() as new:

        def known() -> int:
            return sum(isinstance(each, HttpConnection) for each in new())

        for _ in range(5):
            with socket.create_connection(("127.0.0.1", client.rest_port), 10) as connection:
                connection.sendall(b"GET /v1/models/double HTTP/1.1\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
                assert known() >= 1
                # To be reset by `close`, not ended.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        eventually(lambda: known() == 0)


def test_a_client_that_does_not_wait_to_be_told_to_go_on(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", client.rest_port), 10) as connection:
            connection.sendall(_BAD_CHUNK.replace(b"\r\n", b"\r\nExpect: 100-continue\r\n", 1))
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 400 ")
    assert not caplog.records


@pytest.mark.parametrize(
    "head", [b"POST /x HTTP/1.0\r\nContent-Length: 10000000", b"POST /x HTTP/1.1\r\nHost: x\0"]
)
def test_who_is_refused_while_still_sending_gets_the_answer(client: Client, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", client.rest_port), 10) as connection:
        connection.sendall(head + b"\r\n\r\n")
        for _ in range(100):
            connection.sendall(bytes(100_000))
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 4")
    assert answer.endswith(b"</HTML>\n")


def test_bodies_have_a_limit(client: Client) -> None:
    path = "/v1/models/double:predict"
    too_much = Limits().body_bytes + 1
    connection = http.client.HTTPConnection("127.0.0.1", client.rest_port, timeout=100)
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", str(too_much))
    connection.endheaders()
    assert connection.getresponse().status == 413  # at once, without waiting for the body
    connection.close()
    settings = Settings(limits=Limits(body_bytes=100_000))
    with serving(config_of(double=tiny_models() / "double"), settings) as small:
        for size, status in ((100_000, 400), (100_001, 413)):
            assert small.rest(path, gzip.compress(b" " * size), Content_Encoding="gzip")[0] == status


def test_more_requests_than_the_limit_are_refused_at_once() -> None:
    settings = Settings(rest_threads=1, limits=Limits(requests=2))
    with serving(config_of(m=tiny_models() / "slow"), settings) as client:
        path, answers = "/v1/models/m:predict", []
        body = {"inputs": [slow_steps(client, 1.0)]}
        slow = [threading.Thread(target=lambda: answers.append(client.rest(path, body))) for _ in range(2)]
        for thread in slow:
            thread.start()
        time.sleep(0.5)
        assert client.rest(path, {"inputs": [1]})[0] == 429
        for thread in slow:
            thread.join()
        assert [status for status, _ in answers] == [200, 200]
        assert client.rest(path, {"inputs": [1]})[0] == 200


def test_connections_are_kept_and_answers_come_at_once(client: Client) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.rest_port, timeout=100)
    seconds = []
    for _ in range(20):
        begin = time.perf_counter()
        connection.request("POST", "/v1/models/double:predict", b'{"instances": [[1, 2]]}')
        assert json.loads(connection.getresponse().read()) == {"predictions": [[2.0, 4.0]]}
        seconds.append(time.perf_counter() - begin)
        assert connection.sock is not None
    connection.close()
    # Nagle's algorithm against delayed acknowledgements costs each 0.04; a busy machine doesn't disturb all.
    assert min(seconds) < 0.03


PATHS = st.sampled_from(
    [
        "/v1/models/double:predict",
        "/v1/models/texts:predict",
        "/v1/models/conv:predict",
        "/v1/models/pair:predict",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just({"b64": "/w=="}),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "s", "a", "b", "image"]), inner, max_size=2)
    ),
    max_leaves=10,
)
BODIES = st.binary(max_size=40) | st.builds(
    lambda key, value: json.dumps({key: value}).encode(), st.sampled_from(["inputs", "instances"]), JSON
)


@given(PATHS, BODIES)
@bounded(max_examples=200)
def test_whatever_is_sent_is_answered_in_json(client: Client, path: str, body: bytes) -> None:
    status, answer = client.rest(path, body)
    assert status == 200 or (status, list(answer)) == (400, ["error"])


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc", "Zs"]), max_size=20))
@bounded(max_examples=100)
def test_whatever_is_asked_for_is_answered(client: Client, tail: str) -> None:
    status, answer = client.rest(f"/v1/models/{tail}")
    assert status in (200, 400, 404)
    # Only a malformed escape is no question to the API.
    assert isinstance(answer, dict) or (status, "Bad Request" in answer) == (400, True)
