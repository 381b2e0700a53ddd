"""Random and mutated requests: each gets a response or an error of the client, never another exception."""

import json
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from open_inference_fixtures.server import LENGTH, server
from tfship.serving.inference.request_context import Call
from tfship.serving.open_inference.datatypes import DATATYPES
from tfship.serving.open_inference.messages import ModelInferRequest
from tfship.serving.protos.status import Code, StatusError

NAMES = ["a", "b", "x", "z", "", "data", "\ud800", "\0"]
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 2, 2**31, 2**63, 2**64, 10**400])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=4) | st.sampled_from(NAMES),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*NAMES, "b64"]), inner, max_size=3)
    ),
    max_leaves=8,
)
DATA = (
    VALUES | st.lists(NUMBERS, min_size=60, max_size=80) | st.lists(st.lists(NUMBERS, max_size=2), max_size=4)
)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what a member should be."""
    return st.one_of(strategy, strategy, strategy, VALUES)


PARAMETERS = maybe(
    st.fixed_dictionaries(
        {},
        optional={
            "binary_data_size": maybe(st.integers(0, 20)),
            "binary_data": maybe(st.booleans()),
            "binary_data_output": maybe(st.booleans()),
            "signature_name": maybe(st.sampled_from(["serving_default", *DATATYPES])),
            "data": DATA,
        },
    )
)
INPUT = maybe(
    st.fixed_dictionaries(
        {
            "name": maybe(st.sampled_from(["x", "x", "a", "b"])),
            "datatype": maybe(st.sampled_from([*DATATYPES])),
            "shape": maybe(st.lists(st.integers(0, 80), max_size=2)),
        },
        optional={"data": DATA, "parameters": PARAMETERS},
    )
)
DOCUMENTS = maybe(
    st.fixed_dictionaries(
        {"inputs": maybe(st.lists(INPUT, max_size=2))},
        optional={
            "id": maybe(st.text(max_size=3)),
            "parameters": PARAMETERS,
            "outputs": maybe(
                st.lists(
                    st.fixed_dictionaries({"name": maybe(st.just("y"))}, optional={"parameters": PARAMETERS})
                )
            ),
        },
    )
)
MODELS = st.sampled_from(["echo", "times", "pair", "texts"])


def check_rest(model: str, body: bytes, headers: dict[str, str]) -> None:
    reply = server().post(model, body, headers)
    if reply.status == 200:
        assert json.loads(reply.content[: int(reply.headers.get(LENGTH, len(reply.content)))])["outputs"]
        return
    assert reply.status in (400, 501), reply
    message = json.loads(reply.content)["error"]
    assert 0 < len(message) < 2000, message


@given(
    MODELS,
    DOCUMENTS,
    st.binary(max_size=30),
    st.sampled_from(["none", "right", "wrong"]),
    st.integers(0, 400),
)
@bounded(max_examples=150)
def test_documents(model: str, document: Any, data: bytes, header: str, wrong: int) -> None:
    text = json.dumps(document).encode()
    headers = {} if header == "none" else {LENGTH: str(len(text) if header == "right" else wrong)}
    check_rest(model, text + (b"" if header == "none" else data), headers)


VALID = json.dumps(
    {
        "id": "1",
        "inputs": [{"name": "x", "shape": [60, 2], "datatype": "FP32", "data": np.arange(120.0).tolist()}],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
).encode()


@given(st.lists(st.tuples(st.integers(0, len(VALID)), st.integers(0, 3), st.binary(max_size=3)), max_size=4))
@bounded(max_examples=150)
def test_mutated_text(edits: list[tuple[int, int, bytes]]) -> None:
    body = bytearray(VALID)
    for at, removed, added in edits:
        body[at : at + removed] = added
    check_rest("times", bytes(body), {})


def test_deep_and_repeated_text() -> None:
    for body in (
        b'{"inputs": ' + b"[" * 100_000,
        b'{"inputs": [{"data": ' + b"[" * 100_000,
        b'{"inputs": [{"data": ' + b"[" * 199 + b"]" * 199 + b"}]}",
        b'{"data":[' * 100_000,
        b'"data":[1,' * 100_000,
        b'{"inputs":[' + b'{"data":[],' * 50_000,
        b'{"inputs": [' + b'{"name": "x", "shape": [0], "datatype": "FP32", "data": []},' * 20_000 + b"{}]}",
    ):
        check_rest("echo", body, {})


CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        "bool_contents": st.lists(st.booleans(), max_size=3),
        "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
        "int64_contents": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
        "uint_contents": st.lists(st.integers(0, 2**32 - 1), max_size=3),
        "uint64_contents": st.lists(st.integers(0, 2**64 - 1), max_size=3),
        "fp32_contents": st.lists(st.floats(width=32), max_size=3),
        "fp64_contents": st.lists(st.floats(), max_size=3),
        "bytes_contents": st.lists(st.binary(max_size=3), max_size=3),
    },
)
TENSOR = st.fixed_dictionaries(
    {"name": st.sampled_from(["x", "x", "z", ""]), "datatype": st.sampled_from([*DATATYPES, "", "FP8"])},
    optional={
        "shape": st.lists(st.integers(-1, 4) | st.integers(-(2**63), 2**63 - 1), max_size=2),
        "contents": CONTENTS,
    },
)


@given(
    MODELS,
    st.sampled_from(["", "serving_default", *DATATYPES]),
    st.lists(TENSOR, max_size=2),
    st.lists(st.binary(max_size=20), max_size=2),
    st.lists(st.sampled_from(["y", "z"]), max_size=2),
)
@bounded(max_examples=150)
def test_messages(
    model: str, signature: str, inputs: list[Any], raw: list[bytes], outputs: list[str]
) -> None:
    request = ModelInferRequest(model_name=model, inputs=inputs, raw_input_contents=raw)
    request.parameters["signature_name"].string_param = signature
    for name in outputs:
        request.outputs.add(name=name)
    check_grpc(request)


@given(st.binary(max_size=60))
def test_bytes_as_messages(data: bytes) -> None:
    valid = ModelInferRequest(model_name="echo", inputs=[{"name": "x", "datatype": "FP32", "shape": [1]}])
    try:
        # A message may follow another, whose fields it changes.
        request = ModelInferRequest.FromString(valid.SerializeToString() + data)
    except DecodeError:
        return
    check_grpc(request)


def check_grpc(request: Any) -> None:
    try:
        code = Code.OK
        assert server().grpc.ModelInfer(request, Call("ModelInfer", "GRPC")).outputs
    except StatusError as error:
        code = error.code
    assert code in (Code.OK, Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED, Code.NOT_FOUND)
