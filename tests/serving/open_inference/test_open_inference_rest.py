"""The REST API, without a network."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from numpy.typing import NDArray

from open_inference_fixtures.arrays import assert_same, vectors
from open_inference_fixtures.server import LENGTH, Server, server, view
from tfship.serving.models.snapshot import ModelView, State, VersionStatus
from tfship.serving.open_inference import json_data
from tfship.serving.open_inference.datatypes import DATATYPES
from tfship.serving.open_inference.rest import find_route
from tfship.serving.protos.status import Code
from tfship.serving.server.settings import Limits


def x(values: Any, shape: list[Any], **members: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": shape, "data": values, **members}


def binary_body(document: Any, *data: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(document).encode()
    return b"".join([text, *data]), {LENGTH: str(len(text))}


def test_server() -> None:
    status, found = server().get("/v2")
    assert (status, found["name"], found["extensions"]) == (200, "tfship", ["binary_tensor_data"])
    assert server().get("/v2/") == (200, found)
    assert server().get("/v2/health/live") == (200, {"live": True})
    assert server().get("/v2/health/ready") == (200, {"ready": True})


def test_models_that_are_not_available() -> None:
    loading = ModelView((VersionStatus(3, State.LOADING, Code.UNKNOWN, "no such file"),))
    ended = ModelView((VersionStatus(1, State.END),))
    removed = ModelView((VersionStatus(1, State.END),), is_configured=False)
    with view({"late": loading, "empty": ModelView(), "gone": ended, "removed": removed}) as changed:
        assert changed.get("/v2/health/ready") == (
            503, {"error": "models without an available version: empty, gone, late"},
        )  # fmt: skip
        assert changed.get("/v2/health/live")[0] == 200
        assert changed.get("/v2/models/late/ready") == (
            503, {"error": "model late version 3 is in state LOADING (no such file); expected AVAILABLE"},
        )  # fmt: skip
        assert changed.get("/v2/models/removed/ready")[0] == 503
        assert changed.get("/v2/models/late")[0] == 404
    assert server().get("/v2/models/none/ready")[0] == 404
    assert server().get("/v2/models/times/versions/3/ready")[0] == 404
    assert server().get("/v2/models/times/versions/2/ready") == (200, {"name": "times", "ready": True})


def test_model_metadata() -> None:
    times = {
        "name": "times",
        "versions": ["2", "10"],
        "platform": "tflite",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert server().get("/v2/models/times") == (200, times)
    assert server().get("/v2/models/times/versions/2") == (200, times)
    status, pair = server().get("/v2/models/pair")
    assert (status, pair["platform"]) == (200, "tensorflow_savedmodel")
    assert {each["name"]: each["datatype"] for each in pair["inputs"]} == {"a": "FP32", "b": "INT64"}
    status, found = server().get("/v2/models/examples")
    assert status == 400
    assert found["error"].startswith("model examples has no signature serving_default, but ")
    for version in ("x", "-1", "1" * 5000, str(2**63), "%c2%b2"):
        status, found = server().get(f"/v2/models/times/versions/{version}")
        assert status == 400
        assert found["error"].startswith('model "times": version ')


def test_routes() -> None:
    assert find_route("/v1/models/a") is None
    assert find_route("/v20") is None
    route = find_route("/v2/models/a%2Fb%20%C3%A9/versions/7/infer")
    assert route is not None
    assert (route.api, route.method, route.model, route.version) == ("ModelInfer", "POST", "a/b é", "7")
    assert route.is_inference
    for method, path, status in (
        ("GET", "/v2/models/times/infer", 405),
        ("POST", "/v2/models/times", 405),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models/times/versions", 404),
        ("GET", "/v2/models/%ff", 400),
    ):
        reply = server().ask(method, path)
        assert reply.status == status, path
        assert json.loads(reply.content)["error"]
    assert server().ask("GET", "/v2/models/times/infer").headers["allow"] == "POST"


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]])
def test_infer_json(data: Any) -> None:
    request = {"id": "é", "inputs": [x(data, [2, 2])], "unknown": 1}
    assert server().infer("times", request) == (
        200,
        {
            "model_name": "times",
            "model_version": "10",
            "id": "é",
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [10.0, 20.0, 30.0, 40.0]}],
        },
    )
    status, found = server().infer("times/versions/2", {"inputs": [x(data, [2, 2])]})
    assert (status, found["model_version"], found["outputs"][0]["data"]) == (200, "2", [2, 4, 6, 8])
    assert "id" not in found


def test_call_has_the_timings() -> None:
    shared = server()
    shared.infer("times", {"inputs": [x([1, 2], [1, 2])]})
    call = shared.calls[-1]
    assert (call.api, call.model, call.runtime) == ("ModelInfer", "times", "TFLite")
    assert min(call.decode, call.inference, call.encode) > 0


@pytest.mark.parametrize("kind", [float, int])
def test_long_arrays_are_read_in_place(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    values: NDArray[Any] = np.arange(784).reshape(392, 2).astype(kind)
    monkeypatch.setattr(json_data, "decode", None)
    for data in (values.tolist(), values.ravel().tolist()):
        status, found = server().infer("times", {"inputs": [x(data, [392, 2])], "id": "data"})
        assert status == 200, found
        assert found["outputs"][0]["data"] == (values * 10).ravel().tolist()


@given(
    st.lists(st.floats(width=32) | st.integers(-1000, 1000), min_size=200, max_size=220),
    st.sampled_from([0, None]),
    st.sampled_from(["a", "\\", 'x"data": [1]']),
)
@bounded(max_examples=25)
def test_long_arrays_and_other_members(values: list[float], indent: int | None, text: str) -> None:
    # Arrays called "data" elsewhere, and strings that look like one, don't change the result.
    request = {
        "parameters": {"data": values, text: "data"},
        "inputs": [
            {
                "data": values,
                "name": "a",
                "datatype": "FP32",
                "shape": [len(values)],
                "parameters": {"data": values},
            },
            {"name": "b", "datatype": "INT64", "shape": [len(values)], "data": [1] * len(values)},
        ],
        "outputs": [{"name": "a"}],
    }
    reply = server().post("pair", json.dumps(request, indent=indent).encode())
    assert reply.status == 200, reply
    found = np.array(json.loads(reply.content)["outputs"][0]["data"], np.float32)
    assert_same(found, np.array(values, np.float32))


@pytest.mark.parametrize(
    "text", ["[1, 2", "[1, 2]]", "[1 2]", "[1,, 2]", "[1, 2] 3", "[[1], [2]", "[1, 2}", '[1, "2"]', "[1, -]"]
)
def test_long_arrays_that_are_invalid(text: str) -> None:
    padded = text.replace(",", "," + " " * 300, 1) if "," in text else text + " " * 300
    body = f'{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": {padded}}}]}}'
    assert server().refusal("times", body.encode())


def test_outputs_in_the_requested_order() -> None:
    inputs = [
        {"name": "b", "datatype": "INT64", "shape": [2], "data": [1, 2]},
        {"name": "a", "datatype": "FP32", "shape": [2], "data": [0.5, 1.5]},
    ]
    for names in (["a", "total"], ["total", "a"], ["total"]):
        status, found = server().infer(
            "pair", {"inputs": inputs, "outputs": [{"name": name} for name in names]}
        )
        assert status == 200, found
        assert [each["name"] for each in found["outputs"]] == names
        assert found["outputs"][names.index("total")]["data"] == [1.5, 3.5]


@given(vectors(), st.integers(0, 3))
def test_binary_and_signatures(vector: tuple[str, NDArray[Any]], padding: int) -> None:
    name, array = vector
    data = array.tobytes()
    if name == "BYTES":
        data = b"".join(struct.pack("<I", len(each)) + each for each in array)
    document = {
        # The id moves the data to addresses of any alignment.
        "id": "." * padding,
        "parameters": {"signature_name": name, "binary_data_output": True},
        "inputs": [
            {
                "name": "x",
                "datatype": name,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": len(data)},
            }
        ],
    }
    reply = server().post("echo", *binary_body(document, data))
    assert reply.status == 200, reply
    assert reply.media_type == "application/octet-stream"
    length = int(reply.headers[LENGTH])
    (output,) = json.loads(reply.content[:length])["outputs"]
    assert output == {
        "name": "y",
        "datatype": name,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": len(data)},
    }
    if name == "BYTES":
        assert reply.content[length:] == data
    else:
        assert_same(np.frombuffer(reply.content[length:], DATATYPES[name].dtype.numpy), array)


@given(vectors())
def test_json_of_every_datatype(vector: tuple[str, NDArray[Any]]) -> None:
    name, array = vector
    if name in ("BF16", "BYTES"):
        return
    data = json.loads(json_data.encode("x", array))
    document = {
        "parameters": {"signature_name": name},
        "inputs": [{"name": "x", "datatype": name, "shape": list(array.shape), "data": data}],
    }
    status, found = server().infer("echo", document)
    assert status == 200, found
    assert_same(np.array(found["outputs"][0]["data"], array.dtype), array)


def test_json_and_binary_outputs_together() -> None:
    a, b = np.array([1.5], np.float32), np.array([2], np.int64)
    document = {
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}},
            {"name": "b", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}},
        ],
        "outputs": [{"name": "total", "parameters": {"binary_data": True}}, {"name": "a"}],
    }
    reply = server().post("pair", *binary_body(document, a.tobytes(), b.tobytes()))
    length = int(reply.headers[LENGTH])
    outputs = json.loads(reply.content[:length])["outputs"]
    assert outputs[1]["data"] == [1.5]
    assert struct.unpack("<f", reply.content[length:]) == (3.5,)
    document["parameters"] = {"binary_data_output": True}
    document["outputs"] = [{"name": "a", "parameters": {"binary_data": False}}]
    reply = server().post("pair", *binary_body(document, a.tobytes(), b.tobytes()))
    assert (reply.media_type, reply.headers) == ("application/json", {})


def test_strings() -> None:
    document = {"inputs": [{"name": "s", "datatype": "BYTES", "shape": [2], "data": ["ab", "é"]}]}
    status, found = server().infer("texts", document)
    assert status == 200
    outputs = {each["name"]: each["data"] for each in found["outputs"]}
    assert outputs["copy_bytes"] == ["ab", "é"]
    assert outputs["upper"][0] == "AB"


_SIZE = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "Is not object"),
        ({}, "the request has no member inputs; expected an array of objects"),
        ({"inputs": {}}, "inputs is {}; expected an array of objects"),
        ({"inputs": [1]}, "inputs is [1]; expected an array of objects"),
        ({"inputs": []}, "missing x; signature serving_default expects inputs x"),
        ({"inputs": [x([1, 2], [1, 2])] * 2}, "input x is given twice; expected once"),
        ({"inputs": [x([1, 2], [1, 2], name="z")]}, 'unknown input "z"; signature serving_default expects x'),
        ({"inputs": [x([1, 2], [1, 2], name=None)]}, "the name of an input is null; expected a string"),
        ({"inputs": [x([1, 2], [1, 2], name="\ud800")]}, "surrogate"),
        ({"inputs": [x([1, 2], [1, 2], datatype="FP64")]}, 'input x has datatype "FP64"; expected FP32'),
        ({"inputs": [x([1, 2], [1, 2], datatype=7)]}, 'the datatype of input "x" is 7; expected a string'),
        ({"inputs": [x([1, 2], [1.0, 2])]}, 'the shape of input "x" is [1.0, 2]; expected an array of integers'),
        ({"inputs": [x([1, 2], [True, 2])]}, "expected an array of integers"),
        ({"inputs": [x([1, 2], [2])]}, "input x has shape [2]; expected [-1, 2] (-1: any size)"),
        ({"inputs": [x([1, 2, 3], [1, 2])]}, "data of input x has shape [3]; expected [2] or [1, 2]"),
        ({"inputs": [x([1], [2**40, 2])]}, "elements; expected at most 268435456"),
        ({"inputs": [_SIZE]}, "expected the header Inference-Header-Content-Length"),
        ({"inputs": [{**_SIZE, "data": []}]}, "has data and the parameter binary_data_size; expected one of them"),
        ({"inputs": [{**_SIZE, "parameters": {}}]}, "has neither data nor the parameter binary_data_size"),
        ({"inputs": [{**_SIZE, "parameters": 1}]}, 'parameters of input "x" are 1; expected an object'),
        ({"inputs": [], "outputs": [{"name": "z"}]}, 'unknown output "z"; signature serving_default returns y'),
        ({"inputs": [], "outputs": [{"name": "y"}] * 2}, 'output "y" is requested twice; expected once'),
        (
            {"inputs": [], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
            'the parameter binary_data of output "y" is 1; expected true or false',
        ),
        ({"inputs": [], "parameters": {"binary_data_output": "yes"}}, "expected true or false"),
        ({"inputs": [], "parameters": {"signature_name": "z"}}, 'unknown signature "z"; model times has serving'),
        ({"inputs": [], "parameters": {"signature_name": 1}}, "signature_name is 1; expected a string"),
        ({"inputs": [], "id": 1}, "id is 1; expected a string"),
        ({"inputs": [], "id": "\ud800"}, "surrogate"),
    ],
)  # fmt: skip
def test_requests_that_are_refused(document: Any, message: str) -> None:
    assert message in server().refusal("times", document)


@pytest.mark.parametrize(
    ("sizes", "data", "length", "message"),
    [
        ([8], b"", None, "is 8; expected at most 0, the bytes left in the body"),
        ([8], bytes(9), None, "the body has 9 bytes of binary data; expected 8, the sum of binary_data_size"),
        ([4], bytes(4), None, "input x has 4 bytes of binary data; expected 8 for 2 elements of FP32"),
        ([-1], b"", None, "is -1; expected at most 0"),
        ([True], b"1", None, "is true; expected at most 1"),
        ([8, 8], bytes(16), None, "input x is given twice; expected once"),
        ([8], bytes(8), "1000", 'Inference-Header-Content-Length is "1000"; expected a number up to'),
        ([8], bytes(8), "-1", "expected a number up to"),
        ([8], bytes(8), "²", "expected a number up to"),
        ([8], bytes(8), "", "expected a number up to"),
        ([8], bytes(8), "0", "The document is empty"),
        ([8], bytes(8), "20", "JSON Parse error"),
    ],
)
def test_binary_requests_that_are_refused(
    sizes: list[int], data: bytes, length: str | None, message: str
) -> None:
    document = {"inputs": [{**_SIZE, "parameters": {"binary_data_size": size}} for size in sizes]}
    body, headers = binary_body(document, data)
    assert message in server().refusal("times", body, headers if length is None else {LENGTH: length})


def test_other_errors() -> None:
    status, found = server().infer("none", {"inputs": []})
    assert (status, found["error"]) == (404, "Servable not found for request: Latest(none)")
    shared = {**_SIZE, "parameters": {"shared_memory_region": "r"}}
    status, found = server().infer("times", {"inputs": [shared]})
    assert (status, "shared memory isn't supported" in found["error"]) == (501, True)


def test_limits() -> None:
    small = Server(Limits(tensor_elements=4, json_depth=4))
    assert small.infer("times", {"inputs": [x([1, 2, 3, 4], [2, 2])]})[0] == 200
    assert "6 elements; expected at most 4" in small.refusal("times", {"inputs": [x([1] * 6, [3, 2])]})
    assert "nested more than 4 deep" in small.refusal("times", {"inputs": [x([[1, 2]], [1, 2])]})
    # The array that is read in place, too.
    long = json.dumps({"inputs": [x([[1, 2]], [1, 2])]}).replace("1, 2]]", f"1,{' ' * 300}2]]").encode()
    assert "nested more than 4 deep" in small.refusal("times", long)
    assert server().post("times", long).status == 200
