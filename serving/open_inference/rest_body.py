"""Bodies of REST inference requests and responses: JSON, followed by binary data if the header gives JSON's length."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
from numpy.typing import NDArray

from tfship.serving.http.json_text import excerpt, parse_object, to_bytes
from tfship.serving.open_inference import binary_data, json_data
from tfship.serving.open_inference.datatypes import Datatype
from tfship.serving.open_inference.model_inference import (
    SIGNATURE_PARAMETER,
    NamedTensor,
    TensorInput,
    check_parameter,
    quoted,
)
from tfship.serving.protos.status import StatusError, invalid

__all__ = ["JSON_LENGTH", "InferBody", "encode_response", "parse_infer"]

# Header with the length of the JSON in a body with binary data; HTTP header names are case-insensitive.
JSON_LENGTH = "inference-header-content-length"

_DATA = re.compile(rb'"data"\s*:\s*(?=\[)')
# Shorter arrays are parsed with the rest of the JSON, which takes less time.
_MIN_NUMBERS_BYTES = 256
# Nesting of an input's data in the body: the request, its inputs and the input.
_DATA_DEPTH = 3


@dataclass(frozen=True)
class InferBody:
    """A parsed request. `outputs` maps the requested outputs to whether each is binary; all are if `binary`."""

    id: str | None
    signature: str
    inputs: Sequence[TensorInput]
    outputs: Mapping[str, bool]
    binary: bool

    def is_binary(self, output: str) -> bool:
        """Return whether the response has the output in binary."""
        return self.outputs.get(output, self.binary)


def parse_infer(body: bytes, json_length: str | None, max_depth: int) -> InferBody:
    """Parse an inference request; `json_length` is the value of the header `JSON_LENGTH`, None without it.

    JSON is nested at most `max_depth` deep. Raises StatusError(INVALID_ARGUMENT) for an invalid body. Tensors are
    checked and decoded later, by `TensorInput.decode`.
    """
    size = len(body)
    if json_length is not None:
        if not re.fullmatch("[0-9]{1,18}", json_length) or int(json_length) > size:
            raise invalid(
                f"Inference-Header-Content-Length is {excerpt(json_length)}; expected a number up to {size}, "
                "the body's length"
            )
        size = int(json_length)
    text = _JsonText(body[:size], max_depth)
    document = text.document
    parameters = _parameters(document, "the request")
    identifier = document.get("id")
    if identifier is not None:
        identifier = _text(identifier, "id")
    signature = _text(parameters.get(SIGNATURE_PARAMETER, ""), SIGNATURE_PARAMETER)
    binary = _flag(parameters, "binary_data_output", "the request") or False
    outputs: dict[str, bool] = {}
    for each in _objects(document, "outputs"):
        name = _text(each.get("name"), "the name of an output")
        if name in outputs:
            raise invalid(f"output {quoted(name)} is requested twice; expected once")
        chosen = _flag(_parameters(each, f"output {quoted(name)}"), "binary_data", f"output {quoted(name)}")
        outputs[name] = binary if chosen is None else chosen
    if "inputs" not in document:
        raise invalid("the request has no member inputs; expected an array of objects")
    # A view: slices of it aren't copies.
    inputs = _inputs(text, memoryview(body)[size:], has_binary=json_length is not None)
    return InferBody(identifier, signature, inputs, outputs, binary)


def encode_response(
    model: str, version: int, request: InferBody, outputs: Sequence[NamedTensor]
) -> tuple[bytes, int | None]:
    """Return the body of the response for `outputs`, and the length of its JSON, None without binary data.

    Raises StatusError(INVALID_ARGUMENT) for an output that JSON can't represent.
    """
    head: dict[str, Any] = {"model_name": model, "model_version": str(version)}
    if request.id is not None:
        head["id"] = request.id
    entries, binary = [], []
    for each in outputs:
        entry: dict[str, Any] = {
            "name": each.name,
            "datatype": each.datatype.name,
            "shape": list(each.array.shape),
        }
        if request.is_binary(each.name):
            binary.append(data := binary_data.encode(each.array))
            entries.append(orjson.dumps({**entry, "parameters": {"binary_data_size": len(data)}}))
        else:
            entries.append(
                b'%b,"data":%b}' % (orjson.dumps(entry)[:-1], json_data.encode(each.name, each.array))
            )
    document = b'%b,"outputs":[%b]}' % (orjson.dumps(head)[:-1], b",".join(entries))
    return (b"".join([document, *binary]), len(document)) if binary else (document, None)


class _JsonText:
    """The JSON of a request.

    `document` has placeholders instead of long arrays of numbers, which are read without a Python object per number.
    `numbers` maps these placeholders to the arrays' positions in `text`. Other inputs' data is in the document.
    """

    def __init__(self, text: bytes, max_depth: int) -> None:
        self.text = text
        self.numbers: dict[str, tuple[int, int]] = {}
        self._max_depth = max_depth
        self.document = self._without_numbers() or self._whole

    def data(
        self, index: int, data: Any, name: str, datatype: Datatype, shape: Sequence[int]
    ) -> NDArray[Any]:
        """Return the `data` of the input at `index` in the document as an array of `shape`."""
        span = self.numbers.get(data) if isinstance(data, str) else None
        if span is None:
            return json_data.decode(name, data, datatype, shape)
        if len(shape) + _DATA_DEPTH <= self._max_depth:
            array = json_data.read_numbers(name, self.text, span, datatype, shape)
            if array is not None:
                return array
        return json_data.decode(name, self._whole["inputs"][index].get("data"), datatype, shape)

    @cached_property
    def _whole(self) -> dict[str, Any]:
        return parse_object(self.text, self._max_depth)

    def _without_numbers(self) -> dict[str, Any] | None:
        """Return the document with placeholders; None if there are none, or if the whole text must be parsed."""
        spans = _number_spans(self.text)
        if not spans:
            return None
        pieces: list[bytes] = []
        at = 0
        for index, (begin, end) in enumerate(spans):
            # No other string has a NUL: it needs an escape sequence, and the text has none.
            pieces += (self.text[at:begin], b'"\\u0000%d"' % index)
            at = end
        try:
            document = parse_object(b"".join([*pieces, self.text[at:]]), self._max_depth)
        except StatusError:
            return None  # the error for the whole text has the right position
        numbers = {f"\0{index}": span for index, span in enumerate(spans)}
        inputs = document.get("inputs")
        found = (
            [each.get("data") for each in inputs if isinstance(each, dict)]
            if isinstance(inputs, list)
            else []
        )
        # An array elsewhere, for example in the parameters, is part of the document.
        if [each for each in found if isinstance(each, str) and each in numbers] != [*numbers]:
            return None
        self.numbers = numbers
        return document


def _number_spans(text: bytes) -> list[tuple[int, int]]:
    """Return the positions of long arrays in members called `data`, which end before the next string or `}`.

    An array of anything but numbers may be among them. Without backslashes in the text, `"data"` is always a whole
    string.
    """
    spans: list[tuple[int, int]] = []
    if len(text) < _MIN_NUMBERS_BYTES or b"\\" in text:
        return spans
    at = text.find(b'"data"')
    while at >= 0:
        if match := _DATA.match(text, at):
            begin = match.end()
            stop = _find(text, b"}", begin, _find(text, b'"', begin, len(text)))
            end = text.rfind(b"]", begin, stop) + 1
            if end - begin >= _MIN_NUMBERS_BYTES:
                spans.append((begin, end))
            at = stop
        else:
            at += 1
        at = text.find(b'"data"', at)
    return spans


def _find(text: bytes, found: bytes, begin: int, end: int) -> int:
    """Return the position of `found` in `text[begin:end]`, `end` if it isn't there."""
    at = text.find(found, begin, end)
    return at if at >= 0 else end


def _inputs(text: _JsonText, binary: memoryview, *, has_binary: bool) -> list[TensorInput]:
    inputs: list[TensorInput] = []
    used = 0
    for index, each in enumerate(_objects(text.document, "inputs")):
        name = _text(each.get("name"), "the name of an input")
        where = f"input {quoted(name)}"
        datatype = _text(each.get("datatype"), f"the datatype of {where}")
        shape = each.get("shape")
        if not isinstance(shape, list) or not set(map(type, shape)) <= {int}:
            raise invalid(f"the shape of {where} is {excerpt(shape)}; expected an array of integers")
        parameters = _parameters(each, where)
        size = parameters.get("binary_data_size")
        if size is None:
            if "data" not in each:
                raise invalid(
                    f"{where} has neither data nor the parameter binary_data_size; expected one of them"
                )
            inputs.append(
                TensorInput(name, datatype, shape, _json_decoder(text, index, name, each["data"], shape))
            )
            continue
        if "data" in each:
            raise invalid(f"{where} has data and the parameter binary_data_size; expected one of them")
        if not has_binary:
            raise invalid(
                f"{where} has the parameter binary_data_size; expected the header Inference-Header-Content-Length"
            )
        if type(size) is not int or not 0 <= size <= len(binary) - used:
            raise invalid(
                f"the parameter binary_data_size of {where} is {excerpt(size)}; "
                f"expected at most {len(binary) - used}, the bytes left in the body"
            )
        inputs.append(TensorInput(name, datatype, shape, _binary_decoder(name, binary[used : used + size])))
        used += size
    if used != len(binary):
        raise invalid(
            f"the body has {len(binary)} bytes of binary data; expected {used}, the sum of binary_data_size"
        )
    return inputs


def _json_decoder(text: _JsonText, index: int, name: str, data: Any, shape: list[int]) -> Any:
    return lambda datatype, _count: text.data(index, data, name, datatype, shape)


def _binary_decoder(name: str, data: memoryview) -> Any:
    return lambda datatype, count: binary_data.decode(name, data, datatype, count)


def _objects(document: Mapping[str, Any], member: str) -> list[dict[str, Any]]:
    found = document.get(member, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise invalid(f"{member} is {excerpt(found)}; expected an array of objects")
    return found


def _parameters(document: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = document.get("parameters", {})
    if not isinstance(found, dict):
        raise invalid(f"parameters of {where} are {excerpt(found)}; expected an object")
    for name in found:
        check_parameter(where, name)
    return found


def _flag(parameters: Mapping[str, Any], name: str, where: str) -> bool | None:
    found = parameters.get(name)
    if found is not None and not isinstance(found, bool):
        raise invalid(f"the parameter {name} of {where} is {excerpt(found)}; expected true or false")
    return found


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise invalid(f"{what} is {excerpt(value)}; expected a string")
    to_bytes(value)  # raises if it isn't valid Unicode
    return value
