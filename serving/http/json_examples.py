"""Bodies of `:classify` and `:regress`: requests to messages and results to JSON, by TensorFlow Serving's rules.

Request: `{"examples": [{feature: value or list}, …], "context": {…}}`. Response: `{"results": […]}`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfship.serving.http.json_text import dump, excerpt, is_base64, kind, parse_object, shortest, to_bytes
from tfship.serving.protos.messages import example_pb2, feature_pb2, input_pb2
from tfship.serving.protos.status import invalid

__all__ = ["ExamplesBody", "encode_classifications", "encode_regressions", "parse_examples"]

_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class ExamplesBody:
    """The body of a `:classify` or `:regress` request: signature name ("" if none) and Input message."""

    signature_name: str
    examples: Any


def parse_examples(body: bytes, max_depth: int | None = None) -> ExamplesBody:
    """Parse a `:classify` or `:regress` body, nested at most `max_depth` deep. Raises StatusError(INVALID_ARGUMENT).

    Numbers without fraction or exponent and booleans become int64, other numbers float32. Strings and `{"b64": …}`
    become bytes.
    """
    document = parse_object(body, max_depth)
    examples = input_pb2.Input()
    if "examples" not in document:
        raise invalid(
            f"JSON Value: {excerpt(document)} When method is classify, key 'examples' is expected and was not found"
        )
    if not isinstance(document["examples"], list):
        raise invalid(f"JSON Value: {excerpt(document)} Expecting 'examples' value to be an list/array")
    with_context = "context" in document
    rows = examples.example_list_with_context if with_context else examples.example_list
    if with_context:
        rows.context.CopyFrom(_example(document["context"]))
    for each in document["examples"]:
        rows.examples.append(_example(each))
    return ExamplesBody(document.get("signature_name", ""), examples)


def encode_classifications(result: Any) -> bytes:
    """Return `result`, a ClassificationResult, as one list of [label, score] pairs per example."""
    rows = [[each.label for each in row.classes] for row in result.classifications]
    scores = [_numbers(each.score for each in row.classes) for row in result.classifications]
    return dump(
        {"results": [list(map(list, zip(*pair, strict=True))) for pair in zip(rows, scores, strict=True)]}
    )


def encode_regressions(result: Any) -> bytes:
    """Return `result`, a RegressionResult, as a list of numbers."""
    return dump({"results": _numbers(each.value for each in result.regressions)})


def _numbers(values: Iterable[float]) -> list[float]:
    numbers: list[float] = shortest(np.fromiter(values, np.float32))
    return numbers


def _example(value: Any) -> Any:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {kind(value)}")
    example = example_pb2.Example()
    for name, values in value.items():
        feature = _feature(name, values if isinstance(values, list) else [values])
        try:
            example.features.feature[name].CopyFrom(feature)
        except UnicodeEncodeError:
            raise invalid("a feature's name holds half of a surrogate pair, which is no text") from None
    return example


def _feature(name: str, values: list[Any]) -> Any:
    feature = feature_pb2.Feature()
    for value in values:
        before = feature.WhichOneof("kind")
        match value:
            case bool() | int():
                if int(value) not in _INT64:
                    raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
                feature.int64_list.value.append(int(value))
            case float():
                feature.float_list.value.append(value)
            case str() | dict() if isinstance(value, str) or is_base64(value):
                feature.bytes_list.value.append(to_bytes(value))
            case _:
                raise invalid(f"Feature: {name} has element with unexpected JSON type: {kind(value)}")
        if before not in (None, feature.WhichOneof("kind")):
            raise invalid(f"Feature: {name} has elements of several types; expected all alike")
    return feature
