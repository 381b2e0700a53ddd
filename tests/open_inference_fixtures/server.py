"""Models of the Open Inference Protocol's tests, served in this process without a network."""

import contextlib
import functools
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from serving_fixtures import tflite_times, tiny_models
from tfship.serving.http.messages import HttpRequest, HttpResponse, failure
from tfship.serving.inference.predict import Predictor
from tfship.serving.inference.request_context import Call
from tfship.serving.models.loader import Loader
from tfship.serving.models.registry import Servables
from tfship.serving.models.snapshot import ModelView, State, VersionStatus
from tfship.serving.open_inference.datatypes import DATATYPES
from tfship.serving.open_inference.grpc_service import OpenInferenceGrpc
from tfship.serving.open_inference.rest import OpenInferenceRest, find_route
from tfship.serving.protos.status import StatusError
from tfship.serving.server.settings import Limits

_FOLDER = tempfile.TemporaryDirectory(prefix="tfship-open-inference-")
LENGTH = "inference-header-content-length"


@functools.cache
def echo() -> Path:
    """Return a SavedModel with a signature for each datatype, whose output y is its input x, a vector."""
    import tensorflow as tf

    module = tf.Module()
    module.functions = {
        name: tf.function(
            lambda x: {"y": tf.identity(x)},
            input_signature=[tf.TensorSpec([None], tf.as_dtype(each.dtype.number), "x")],
        )
        for name, each in DATATYPES.items()
    }
    signatures = {**module.functions, "serving_default": module.functions["FP32"]}
    path = Path(_FOLDER.name, "echo", "1")
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path


def tflite(factor: int) -> Path:
    """Return a version directory with `tflite_times`."""
    path = Path(_FOLDER.name, "times", str(factor))
    path.mkdir(parents=True, exist_ok=True)
    (path / "model.tflite").write_bytes(tflite_times(factor))
    return path


class Server:
    """The protocol's handlers of both APIs: `times` in versions 2 and 10, and SavedModels in version 1."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.models = Servables(Loader(prefer_tflite=True))
        paths = {("times", factor): tflite(factor) for factor in (2, 10)}
        paths |= {(name, 1): tiny_models() / name / "1" for name in ("pair", "texts", "double", "examples")}
        paths["echo", 1] = echo()
        self.view: dict[str, ModelView] = {}
        for key, ((name, number), path) in enumerate(paths.items()):
            self.models.load(key, path)
            known = self.view.get(name, ModelView())
            self.view[name] = ModelView(
                (VersionStatus(number, State.AVAILABLE), *known.statuses),
                {},
                {**known.available, number: key},
            )
        self.models.publish(self.view)
        predictor = Predictor(self.models, lambda _config: None)
        self.calls: list[Call] = []
        self.rest = OpenInferenceRest(predictor, self.models, limits)
        self.grpc = OpenInferenceGrpc(predictor, self.models, limits)

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Return the response to a request."""
        request = HttpRequest(method, path, dict(headers or {}), body=body)
        try:
            route = find_route(path)
            assert route is not None
            self.calls.append(Call(route.api, "REST", model=route.model))
            return self.rest.respond(route, request, body, self.calls[-1])
        except StatusError as refusal:
            return failure(refusal)

    def get(self, path: str) -> tuple[int, Any]:
        """Return the status and the JSON of a GET request."""
        reply = self.ask("GET", path)
        return reply.status, json.loads(reply.content)

    def post(self, model: str, body: Any, headers: Mapping[str, str] | None = None) -> HttpResponse:
        """Return the response to an inference request: bytes, or an object sent as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", f"/v2/models/{model}/infer", content, headers)

    def infer(self, model: str, body: Any) -> tuple[int, Any]:
        """Return the status and the JSON of an inference request in JSON."""
        reply = self.post(model, body)
        return reply.status, json.loads(reply.content)

    def refusal(self, model: str, body: Any, headers: Mapping[str, str] | None = None) -> str:
        """Return the message of an inference request that is refused with status 400."""
        reply = self.post(model, body, headers)
        assert reply.status == 400, reply
        message: str = json.loads(reply.content)["error"]
        return message

    def call_grpc(self, method: str, request: Any) -> Any:
        """Return the response's message; raises StatusError."""
        return getattr(self.grpc, method)(request, Call(method, "GRPC"))


@functools.cache
def server() -> Server:
    """Return a server that tests only read."""
    return Server()


@contextlib.contextmanager
def view(changed: Mapping[str, ModelView]) -> Iterator[Server]:
    """Publish a changed view for the time of a test."""
    shared = server()
    shared.models.publish({**shared.view, **changed})
    try:
        yield shared
    finally:
        shared.models.publish(shared.view)
