"""Classify, Regress and MultiInference: tf.Examples in, classes and numbers out."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_fixtures import Client, config_of, serving, tiny_models
from tfship.serving.http.json_examples import parse_examples
from tfship.serving.inference.examples import CLASSIFY, REGRESS
from tfship.serving.protos.messages import classification_pb2, inference_pb2, predict_pb2, regression_pb2
from tfship.serving.protos.status import StatusError


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serving(config_of(examples=tiny_models() / "examples")) as client:
        yield client


def filled(request: Any, signature: str, *values: float) -> Any:
    request.model_spec.name, request.model_spec.signature_name = "examples", signature
    for value in values:
        example = request.input.example_list.examples.add()
        example.features.feature["x"].float_list.value.append(value)
    return request


def classify(client: Client, signature: str, *values: float) -> Any:
    return client.call("Classify", filled(classification_pb2.ClassificationRequest(), signature, *values))


def test_classes_and_scores(client: Client) -> None:
    answer = classify(client, "classify", 0.25, 1.0)
    assert (answer.model_spec.version.value, answer.model_spec.signature_name) == (1, "classify")
    found = [[(each.label, each.score) for each in row.classes] for row in answer.result.classifications]
    assert found == [[("small", 0.75), ("groß", 0.25)], [("small", 0.0), ("groß", 1.0)]]
    (row,) = classify(client, "scores", 0.25).result.classifications
    assert [(each.label, each.score) for each in row.classes] == [("", 0.75), ("", 0.25)]
    (row,) = classify(client, "classes", 0.25).result.classifications
    assert [(each.label, each.score) for each in row.classes] == [("small", 0.0), ("groß", 0.0)]


@pytest.mark.parametrize("signature", ["regress", "flat"])
def test_numbers(client: Client, signature: str) -> None:
    answer = client.call("Regress", filled(regression_pb2.RegressionRequest(), signature, 1.0, 2.0))
    expected = [2.5, 3.0] if signature == "regress" else [1.0, 2.0]
    assert [each.value for each in answer.result.regressions] == expected


def test_several_signatures_at_once(client: Client) -> None:
    request = inference_pb2.MultiInferenceRequest()
    for name, method in (("classify", CLASSIFY), ("regress", REGRESS)):
        request.tasks.add(method_name=method).model_spec.MergeFromString(
            filled(predict_pb2.PredictRequest(), name).model_spec.SerializeToString()
        )
    example = request.input.example_list_with_context.examples.add()
    example.features.feature["y"].int64_list.value.append(1)
    context = request.input.example_list_with_context.context
    context.features.feature["x"].float_list.value.append(0.5)
    classified, regressed = client.call("MultiInference", request).results
    assert [each.score for each in classified.classification_result.classifications[0].classes] == [0.5, 0.5]
    assert regressed.regression_result.regressions[0].value == 2.25
    request.tasks[1].model_spec.name = "other"
    code, message = client.refusal("MultiInference", request)
    assert (code, "must access the same model name" in message) == ("INVALID_ARGUMENT", True)


@pytest.mark.parametrize(
    ("rpc", "signature", "message"),
    [
        (
            "Classify",
            "flat_scores",
            "Expected scores Tensor shape to be [batch_size num_classes] but got [2]",
        ),
        ("Classify", "one_row", "Expected scores output batch size of 2. Got: 1"),
        ("Classify", "not_text", "a class name isn't UTF-8"),
        ("Classify", "regress", 'to contain at least one of "classes" or "scores". Signature was: inputs {'),
        ("Classify", "__saved_model_init_op", "No signature was found with the name: __saved_model_init_op"),
        ("Regress", "wide", "either [batch_size] or [batch_size, 1] for 2 examples, but got [2,2]"),
        ("Regress", "integers", "Expected output Tensor of float. Got: int64"),
        ("Regress", "classify", "No regression outputs found in SignatureDef"),
    ],
)
def test_signatures_that_do_not_do(client: Client, rpc: str, signature: str, message: str) -> None:
    requests = {
        "Classify": classification_pb2.ClassificationRequest,
        "Regress": regression_pb2.RegressionRequest,
    }
    code, found = client.refusal(rpc, filled(requests[rpc](), signature, 1.0, 2.0))
    assert code == "INVALID_ARGUMENT"
    assert message in found


def test_words_of_tensorflow_that_quote_what_is_no_text(client: Client) -> None:
    body = {"signature_name": "classify", "inputs": [{"b64": base64.b64encode(b"\xff\xfe").decode()}]}
    status, answer = client.rest("/v1/models/examples:predict", body)
    assert status == 400
    assert answer["error"].startswith("Could not parse example input, value: '\ufffd\ufffd'")


def test_a_context_can_not_multiply_without_limit(client: Client) -> None:
    """It is copied to each example: 300 kB would become 20 GB."""
    request = filled(classification_pb2.ClassificationRequest(), "classify")
    examples = request.input.example_list_with_context
    examples.context.features.feature["y"].bytes_list.value.append(bytes(200_000))
    for _ in range(100_000):
        examples.examples.add()
    assert client.refusal("Classify", request) == (
        "INVALID_ARGUMENT",
        "a context of 200023 bytes for each of 100000 examples makes more than 67108864 bytes",
    )


def test_over_rest(client: Client) -> None:
    path = "/v1/models/examples"
    body: dict[str, Any] = {"signature_name": "classify", "examples": [{"x": 0.25}, {"x": [1.0]}]}
    assert client.rest(f"{path}:classify", body) == (
        200,
        {"results": [[["small", 0.75], ["groß", 0.25]], [["small", 0.0], ["groß", 1.0]]]},
    )
    body = {"signature_name": "regress", "context": {"x": 3.0}, "examples": [{}, {"x": 2.0}]}
    assert client.rest(f"{path}/versions/1:regress", body) == (200, {"results": [3.5, 3.0]})
    status, answer = client.rest(f"{path}:regress", {"signature_name": "regress", "examples": [{"x": 1}]})
    assert status == 400
    assert "Data types don't match. Data type: int64 but expected type: float" in answer["error"]


def test_features_take_the_types_of_their_json() -> None:
    body = {"examples": [{"i": [1, True], "f": [1.5, 2.0], "s": ["a", {"b64": "YQ"}], "none": []}]}
    (example,) = parse_examples(json.dumps(body).encode()).examples.example_list.examples
    features = example.features.feature
    assert list(features["i"].int64_list.value) == [1, 1]
    assert list(features["f"].float_list.value) == [1.5, 2.0]
    assert list(features["s"].bytes_list.value) == [b"a", b"a"]
    assert features["none"].WhichOneof("kind") is None


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"x": None}, "Feature: x has element with unexpected JSON type: Null"),
        ({"x": {"y": 1}}, "Feature: x has element with unexpected JSON type: Object"),
        ({"x": [1, "a"]}, "Feature: x has elements of several types"),
        ({"x": 2**63}, "Feature: x has uint64 element. Only int64 is supported."),
        ({"x": {"b64": "?"}}, "Unable to base64 decode"),
        ("x", "Example must be JSON object but got JSON String"),
    ],
)
def test_features_that_are_none(example: Any, message: str) -> None:
    with pytest.raises(StatusError, match=message):
        parse_examples(json.dumps({"examples": [example]}).encode())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    _JSON | st.fixed_dictionaries({"examples": _JSON}, optional={"context": _JSON}) | st.binary(max_size=30)
)
def test_any_body_is_read_or_refused(body: Any) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        parsed = parse_examples(data).examples
    except StatusError:
        return  # with a message for the client, not another exception
    assert parsed.WhichOneof("kind") or not parsed.ByteSize()
