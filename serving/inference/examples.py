"""Classify, Regress and MultiInference: inference on tf.Examples.

The rules are those of TensorFlow Serving's `classifier.cc`, `regressor.cc` and `multi_inference.cc`. A classification
signature has the input `inputs` and at least one of the outputs `classes` and `scores`. A regression signature has
`inputs` and `outputs`. Every error is a StatusError.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray

from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, Signature
from tfship.serving.inference.execution import check_inputs, find, run, serialized
from tfship.serving.inference.predict import describe
from tfship.serving.inference.request_context import Call
from tfship.serving.models.registry import ServableHandle, Servables
from tfship.serving.protos.messages import (
    classification_pb2,
    inference_pb2,
    meta_graph_pb2,
    model_pb2,
    regression_pb2,
)
from tfship.serving.protos.status import Code, StatusError, invalid

__all__ = ["CLASSIFY", "REGRESS", "Inference"]

# The method names that MultiInference knows (tensorflow/cc/saved_model/signature_constants.h).
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

_INPUTS = "inputs"


class Inference:
    """Handler of requests with examples, by a process' servables. Thread-safe.

    With `checks_methods`, a signature's method name must match the request's method.
    """

    def __init__(self, models: Servables, *, checks_methods: bool = False) -> None:
        self._models = models
        self._checks_methods = checks_methods

    def classify(self, spec: Any, examples: Any, call: Call) -> Any:
        """Return the ClassificationResponse for `examples`, an Input message, by the model that `spec` names."""
        return self._respond(spec, examples, call, CLASSIFY, classification_pb2.ClassificationResponse)

    def regress(self, spec: Any, examples: Any, call: Call) -> Any:
        """Return the RegressionResponse for `examples`, an Input message, by the model that `spec` names."""
        return self._respond(spec, examples, call, REGRESS, regression_pb2.RegressionResponse)

    def _respond(
        self,
        spec: Any,
        examples: Any,
        call: Call,
        method: str,
        response: Callable[..., Any],
    ) -> Any:
        with self._models.use(spec) as servable:
            name = spec.signature_name or DEFAULT_SIGNATURE
            signature = _signature(servable, name, "No signature was found with the name: ")
            call.model, call.version = servable.name, servable.version
            result = self._infer(method, servable, name, signature, examples, call)
            return response(result=result, model_spec=_model_spec(servable, spec.signature_name))

    def multi(self, request: Any, call: Call) -> Any:
        """Return the MultiInferenceResponse of several signatures of one model for the same examples."""
        response = inference_pb2.MultiInferenceResponse()
        first = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
        with self._models.use(first) as servable:
            call.model, call.version = servable.name, servable.version
            seen: set[str] = set()
            for task in request.tasks:
                if task.model_spec.name != first.name:
                    raise invalid(
                        "All ModelSpecs in a MultiInferenceRequest must access the same model name."
                    )
                name = task.model_spec.signature_name or DEFAULT_SIGNATURE
                if name in seen:
                    raise invalid(f"Duplicate evaluation of signature: {name}")
                seen.add(name)
                signature = _signature(servable, name, "Requested signature not found in model graph: ")
                result = response.results.add(model_spec=_model_spec(servable, name))
                if task.method_name not in (CLASSIFY, REGRESS):
                    raise StatusError(
                        Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}"
                    )
                inferred = self._infer(task.method_name, servable, name, signature, request.input, call)
                if task.method_name == CLASSIFY:
                    result.classification_result.CopyFrom(inferred)
                else:
                    result.regression_result.CopyFrom(inferred)
        return response

    def _infer(
        self,
        method: str,
        servable: ServableHandle,
        name: str,
        signature: Signature,
        examples: Any,
        call: Call,
    ) -> Any:
        kind, infer = ("classification", _classify) if method == CLASSIFY else ("regression", _regress)
        if self._checks_methods and signature.method_name != method:
            raise invalid(
                f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}"
            )
        return infer(servable, name, signature, examples, call)


def _signature(servable: ServableHandle, name: str, missing: str) -> Signature:
    signature = find(servable.loaded, name)
    if signature is None:
        raise invalid(f"{missing}{name}")
    return signature


def _classify(servable: ServableHandle, name: str, signature: Signature, examples: Any, call: Call) -> Any:
    if _INPUTS not in signature.inputs:
        raise invalid(f"No classification inputs found in SignatureDef: {_text(signature)}")
    if not signature.outputs.keys() & {"classes", "scores"}:
        raise invalid(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {_text(signature)}"
        )
    rows = serialized(examples)
    call.examples = len(rows)
    check_inputs(servable.loaded, name, {_INPUTS: rows})
    outputs = run(servable.loaded, name, {_INPUTS: rows}, call)
    classes, scores = outputs.get("classes"), outputs.get("scores")
    _check_scores("classes", classes, np.dtype(object), "string", len(rows))
    _check_scores("scores", scores, np.dtype(np.float32), "float", len(rows))
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise invalid(
            f"Expected classes and scores Tensors to have the same shape. Got: {_shape(classes)} and {_shape(scores)}"
        )
    result = classification_pb2.ClassificationResult()
    for index in range(len(rows)):
        labels = [] if classes is None else classes[index]
        values = [] if scores is None else scores[index]
        row = result.classifications.add().classes
        for place in range(max(len(labels), len(values))):
            row.add(
                label=_label(labels[place]) if len(labels) else "",
                score=float(values[place]) if len(values) else 0.0,
            )
    return result


def _check_scores(
    name: str, values: NDArray[Any] | None, dtype: np.dtype[Any], dtype_name: str, examples: int
) -> None:
    if values is None:
        return
    if values.dtype != dtype:
        raise invalid(f"Expected {name} Tensor of {dtype_name}. Got: {values.dtype}")
    if values.ndim != 2:
        raise invalid(f"Expected {name} Tensor shape to be [batch_size num_classes] but got {_shape(values)}")
    if len(values) != examples:
        raise invalid(f"Expected {name} output batch size of {examples}. Got: {len(values)}")


def _regress(servable: ServableHandle, name: str, signature: Signature, examples: Any, call: Call) -> Any:
    if _INPUTS not in signature.inputs:
        raise invalid(f"No regression inputs found in SignatureDef: {_text(signature)}")
    if "outputs" not in signature.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {_text(signature)}")
    rows = serialized(examples)
    call.examples = len(rows)
    check_inputs(servable.loaded, name, {_INPUTS: rows})
    values = run(servable.loaded, name, {_INPUTS: rows}, call)["outputs"]
    if values.dtype != np.float32:
        raise invalid(f"Expected output Tensor of float. Got: {values.dtype}")
    if values.shape not in ((len(rows),), (len(rows), 1)):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] for {len(rows)} "
            f"examples, but got {_shape(values)}"
        )
    result = regression_pb2.RegressionResult()
    for value in values.ravel().tolist():
        result.regressions.add(value=value)
    return result


def _model_spec(servable: ServableHandle, signature_name: str) -> Any:
    spec = model_pb2.ModelSpec(name=servable.name, signature_name=signature_name)
    spec.version.value = servable.version
    return spec


def _text(signature: Signature) -> str:
    """Return `signature` as protobuf's debug text, as in TensorFlow Serving's messages."""
    definition = meta_graph_pb2.SignatureDef()
    describe(signature, definition)
    text: str = text_format.MessageToString(definition)
    return text


def _label(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise invalid(f"a class name isn't UTF-8, which a Class message must be: {value!r}") from None


def _shape(values: NDArray[Any]) -> str:
    return f"[{','.join(map(str, values.shape))}]"
