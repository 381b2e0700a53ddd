"""REST API of the Open Inference Protocol, as functions of a request's parts.

    GET  /v2                                         server metadata
    GET  /v2/health/live                             liveness
    GET  /v2/health/ready                            readiness of all models
    GET  /v2/models/NAME[/versions/N]                model metadata
    GET  /v2/models/NAME[/versions/N]/ready          readiness of a model
    POST /v2/models/NAME[/versions/N]/infer          inference

Every response is JSON, except inference with binary outputs; an error is `{"error": "…"}`. The request's parameter
`signature_name` selects a signature: by default serving_default, or else the only one.

Source: https://github.com/kserve/open-inference-protocol, `specification/protocol/inference_rest.md`.
"""

import json
import re
import time
from dataclasses import asdict, dataclass
from urllib.parse import unquote_to_bytes

from tfship.serving.http.messages import HttpRequest, HttpResponse, error
from tfship.serving.inference.predict import Predictor
from tfship.serving.inference.request_context import Call
from tfship.serving.models.registry import Servables
from tfship.serving.open_inference.model_inference import (
    SERVER_EXTENSIONS,
    SERVER_NAME,
    InferenceRequest,
    ModelInference,
    server_version,
)
from tfship.serving.open_inference.rest_body import JSON_LENGTH, encode_response, parse_infer
from tfship.serving.protos.status import invalid
from tfship.serving.server.settings import Limits

__all__ = ["OpenInferenceRest", "OpenInferenceRoute", "find_route"]

_PREFIX = re.compile(r"/v2(?:/|$)")
_MODEL = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"
# Paths, case-sensitive as in the specification, with the API's name, which is that of the gRPC method, and the method.
_ROUTES = [
    (re.compile(path), api, method)
    for path, api, method in (
        (rf"{_MODEL}/infer", "ModelInfer", "POST"),
        (r"/v2/?", "ServerMetadata", "GET"),
        (r"/v2/health/live", "ServerLive", "GET"),
        (r"/v2/health/ready", "ServerReady", "GET"),
        (rf"{_MODEL}/ready", "ModelReady", "GET"),
        (_MODEL, "ModelMetadata", "GET"),
    )
]


@dataclass(frozen=True)
class OpenInferenceRoute:
    """A path of the API.

    `api` is the name of the gRPC method, "" for an unknown path. `method` is the HTTP method that the path needs.
    `model` and `version` are "" if the path has none.
    """

    api: str
    method: str = "GET"
    model: str = ""
    version: str = ""

    @property
    def is_inference(self) -> bool:
        """Whether the request runs a model. All others take microseconds, and need no thread."""
        return self.api == "ModelInfer"


def find_route(path: str) -> OpenInferenceRoute | None:
    """Return the route of `path`, None if it isn't below /v2; `path` is undecoded and has no query.

    Raises StatusError(INVALID_ARGUMENT) for a model name that isn't UTF-8.
    """
    if not _PREFIX.match(path):
        return None
    for pattern, api, method in _ROUTES:
        if match := pattern.fullmatch(path):
            names = match.groupdict()
            model, version = names.get("model") or "", names.get("version") or ""
            return OpenInferenceRoute(api, method, _unescape(model), _unescape(version))
    return OpenInferenceRoute("")


class OpenInferenceRest:
    """Handler of REST requests by a process' servables, `models`. Thread-safe."""

    def __init__(self, predictor: Predictor, models: Servables, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._inference = ModelInference(predictor, models, self._limits.tensor_elements)

    def respond(
        self, route: OpenInferenceRoute, request: HttpRequest, body: bytes, call: Call
    ) -> HttpResponse:
        """Return the response to `request` for `route`; `body` is decompressed. Raises StatusError."""
        method = request.method
        if not route.api:
            return _error(404, "no such path; expected /v2, /v2/health/… or /v2/models/…")
        if method != route.method:
            return _error(405, f"method {method} isn't allowed; expected {route.method}", allow=route.method)
        match route.api:
            case "ModelInfer":
                return self._infer(route, request, body, call)
            case "ModelMetadata":
                return _json(asdict(self._inference.metadata(route.model, route.version)))
            case "ModelReady":
                self._inference.check_model_ready(route.model, route.version)
                return _json({"name": route.model, "ready": True})
            case "ServerReady":
                return self._server_ready()
            case "ServerLive":
                return _json({"live": True})
        return _json({"name": SERVER_NAME, "version": server_version(), "extensions": SERVER_EXTENSIONS})

    def _infer(self, route: OpenInferenceRoute, http: HttpRequest, body: bytes, call: Call) -> HttpResponse:
        begin = time.monotonic()
        request = parse_infer(body, http.headers.get(JSON_LENGTH), self._limits.json_depth)
        call.decode = time.monotonic() - begin
        version, outputs = self._inference.infer(
            InferenceRequest(
                route.model, route.version, request.signature, request.inputs, [*request.outputs]
            ),
            call,
        )
        begin = time.monotonic()
        content, json_length = encode_response(route.model, version, request, outputs)
        call.encode = time.monotonic() - begin
        if json_length is None:
            return HttpResponse(200, content)
        return HttpResponse(200, content, "application/octet-stream", {JSON_LENGTH: str(json_length)})

    def _server_ready(self) -> HttpResponse:
        if unavailable := self._inference.unavailable_models():
            return _error(503, f"models without an available version: {', '.join(unavailable)}")
        return _json({"ready": True})


def _error(status: int, message: str, **headers: str) -> HttpResponse:
    response = error(status, message)
    response.headers.update(headers)
    return response


def _json(document: object) -> HttpResponse:
    return HttpResponse(200, json.dumps(document).encode())


def _unescape(text: str) -> str:
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeError:
        raise invalid("the model's name in the path isn't UTF-8") from None
