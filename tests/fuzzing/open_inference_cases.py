"""What a client of the Open Inference Protocol may send: JSON, binary tensors after it, and gRPC messages."""

import json
import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from fuzzing.cases import REST, Case, Served, mutated
from fuzzing.http_cases import ANY_JSON, post
from tfship.serving.open_inference.datatypes import DATATYPES
from tfship.serving.open_inference.messages import ModelInferRequest

__all__ = ["INFER", "infer_bodies", "infer_messages", "requests"]

INFER = "/inference.GRPCInferenceService/ModelInfer"
_NAMES = {each.dtype.number: name for name, each in DATATYPES.items()}
_PARAMETERS = ["binary_data_size", "binary_data", "binary_data_output", "signature_name", "x"]
_PATHS = ["", "", "", "/versions/1", "/versions/1", "/versions/99", "/versions/x", "/ready", "/infer"]


@st.composite
def _tensor(
    draw: st.DrawFn, name: str, dtype: int, shape: tuple[int, ...] | None
) -> tuple[dict[str, Any], bytes]:
    """Draw an input as JSON, nearly right, and its elements in bytes."""
    sizes = [draw(st.sampled_from([1, 1, 2, 3, 0])) if size < 0 else size for size in shape or ()]
    if not draw(st.integers(0, 11)):
        sizes = draw(st.lists(st.sampled_from([0, 1, 2, -1, 2**31, 2**62]), max_size=4))
    count = 1
    for size in sizes:
        count = min(count * max(0, size), 2000)
    datatype = _NAMES.get(dtype, "BYTES")
    if not draw(st.integers(0, 11)):
        datatype = draw(st.sampled_from([*DATATYPES, "FP8", ""]))
    known = DATATYPES.get(datatype)
    if known is None or known.dtype.is_string:
        values: list[Any] = ["a"] * count
        content = struct.pack("<I", 1) * count + b"a" * count
        if count and draw(st.booleans()):
            content = (struct.pack("<I", 1) + b"a") * count
    else:
        values = [bool(number % 2) if datatype == "BOOL" else number % 3 for number in range(count)]
        content = bytes(count * known.dtype.numpy.itemsize)
    return {"name": name, "datatype": datatype, "shape": sizes, "data": values}, content


@st.composite
def infer_bodies(draw: st.DrawFn, served: Served) -> tuple[bytes, int | None]:
    """Draw the body of an inference request and, with binary tensors, the length of its JSON."""
    inputs: list[Any] = []
    contents: list[bytes] = []
    for name, each in served.inputs.items():
        described, content = draw(_tensor(name, *each))
        if draw(st.booleans()):
            del described["data"]
            binary_size = draw(st.sampled_from([len(content)] * 8 + [-1, 0, 2**31]))
            described["parameters"] = {"binary_data_size": binary_size}
            contents.append(content)
        inputs.append(described)
    document: dict[str, Any] = {"inputs": inputs, "parameters": {"signature_name": served.signature}}
    if draw(st.booleans()):
        names = draw(st.lists(st.sampled_from(["y", "outputs", "scores", ""]), max_size=2))
        document["outputs"] = [
            {"name": name, "parameters": {"binary_data": draw(st.booleans())}} for name in names
        ]
    if draw(st.booleans()):
        document["parameters"][draw(st.sampled_from(_PARAMETERS))] = draw(
            st.sampled_from([True, 1, "x", [], 2**64])
        )
    text = json.dumps(document)
    if not draw(st.integers(0, 7)):
        text = text.replace(draw(st.sampled_from(["[1]", "1", "[", '"x"'])), draw(ANY_JSON)[:5000], 1)
    head = draw(mutated(st.just(text.encode("utf-8", "replace"))))
    says_length = draw(st.integers(0, 11)) > 0
    length = len(head) if contents and says_length else None
    return head + b"".join(contents), length


@st.composite
def infer_messages(draw: st.DrawFn, served: Served) -> bytes:
    """Draw a ModelInferRequest, right or wrong, in bytes."""
    request = ModelInferRequest(
        model_name=served.model, model_version=draw(st.sampled_from(["", "", "1", "x"]))
    )
    request.parameters["signature_name"].string_param = served.signature
    typed = draw(st.booleans())
    for name, each in served.inputs.items():
        described, content = draw(_tensor(name, *each))
        tensor = request.inputs.add(name=name, datatype=described["datatype"])
        tensor.shape.extend(size for size in described["shape"] if abs(size) < 2**63)
        if not typed or not draw(st.integers(0, 11)):
            request.raw_input_contents.append(draw(mutated(st.just(content))))
        elif described["datatype"] == "FP32":
            tensor.contents.fp32_contents.extend(float(value) for value in described["data"])
        else:
            tensor.contents.bytes_contents.extend(b"a" for _ in described["data"])
    for name in draw(st.lists(st.sampled_from(["y", "outputs", ""]), max_size=2)):
        request.outputs.add(name=name)
    return draw(mutated(st.just(request.SerializeToString())))


@st.composite
def requests(draw: st.DrawFn, served: Sequence[Served]) -> Case:
    """Draw a request over REST or gRPC."""
    one = draw(st.sampled_from(served))
    if draw(st.booleans()):
        return Case("v2", INFER, draw(infer_messages(one)))
    body, length = draw(infer_bodies(one))
    headers = [] if length is None else [f"Inference-Header-Content-Length: {length}"]
    if not draw(st.integers(0, 15)):
        headers = [
            f"Inference-Header-Content-Length: {draw(st.sampled_from(['-1', 'x', '9' * 30, '', '0']))}"
        ]
    path = f"/v2/models/{one.model}{draw(st.sampled_from(_PATHS))}"
    return Case("v2", REST, post(f"{path}/infer", body, *headers))
