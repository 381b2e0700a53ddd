"""TensorFlow Serving's REST API.

    GET  /v1/models                                        status of all models (not in TensorFlow Serving)
    GET  /v1/models/NAME[/versions/N|/labels/L]            status
    GET  /v1/models/NAME[/versions/N|/labels/L]/metadata   signatures
    POST /v1/models/NAME[/versions/N|/labels/L]:predict    predictions
    POST /v1/models/NAME[/versions/N|/labels/L]:classify   classes and scores of tf.Examples
    POST /v1/models/NAME[/versions/N|/labels/L]:regress    numbers of tf.Examples

Every response of the API is JSON; an error is `{"error": "…"}`. Paths outside the API get an HTML page, except
`/readyz` and `/livez`, which report readiness and liveness as text.
"""

import functools
import json
import logging
import re
import time
import zlib
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format

from tfship.export.runtimes import web_build
from tfship.export.runtimes.protocol import Signature
from tfship.serving.http import model_paths
from tfship.serving.http.json_examples import encode_classifications, encode_regressions, parse_examples
from tfship.serving.http.json_tensors import PredictBody, decode_inputs, encode_outputs, parse_predict
from tfship.serving.http.messages import HttpRequest, HttpResponse, TooLargeError, error, failure, page
from tfship.serving.http.web_pages import WebPages
from tfship.serving.inference.examples import Inference
from tfship.serving.inference.execution import Tensors
from tfship.serving.inference.predict import METADATA_FIELD, Predictor
from tfship.serving.inference.request_context import Call, Observer
from tfship.serving.models.registry import Servables
from tfship.serving.open_inference.rest import OpenInferenceRest, OpenInferenceRoute, find_route
from tfship.serving.protos.messages import get_model_metadata_pb2, model_pb2
from tfship.serving.protos.status import Code, StatusError, internal_error, invalid
from tfship.serving.server.dispatch import Dispatcher, Place
from tfship.serving.server.settings import Settings

__all__ = ["RestApi"]

log = logging.getLogger(__name__)

# Response headers with CORS enabled: any origin is allowed. TensorFlow Serving's values.
_CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "POST, GET",
    "access-control-allow-headers": "Content-Type",
}
_WEB_ORIGIN = re.compile(r"https?://")
# libevent's media type for a response that has none.
_NO_CONTENT_TYPE = "text/html; charset=ISO-8859-1"

_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"}
# Where a request runs, what its duration depends on besides its size, and what answers it.
_Route = tuple[Place, str, Callable[[HttpRequest], HttpResponse]]


class RestApi:
    """The REST API of one process, an `Application`."""

    def __init__(
        self,
        models: Servables,
        predictor: Predictor,
        inference: Inference,
        open_inference: OpenInferenceRest,
        observer: Observer,
        dispatcher: Dispatcher,
        settings: Settings,
    ) -> None:
        self._predictor = predictor
        self._inference = inference
        self._open_inference = open_inference
        self._models = models
        self._observer = observer
        self._dispatcher = dispatcher
        self._metrics_path = observer.metrics.path
        self._settings = settings
        self._limits = settings.limits
        self._web = WebPages(settings.web_folder, models) if settings.web_folder else None

    def refusal(self, request: HttpRequest) -> HttpResponse | None:
        """See `Application.refusal`."""
        try:
            route = self._route(request)
        except StatusError as refusal:
            return self._finished(failure(refusal))
        if isinstance(route, HttpResponse):
            return self._finished(route)
        request.route = route
        return None

    def too_large(self) -> HttpResponse:
        """See `Application.too_large`."""
        return self._finished(failure(self._too_large()))

    def respond(self, request: HttpRequest, done: Callable[[HttpResponse], None]) -> None:
        """See `Application.respond`."""
        place, kind, answer = request.route
        if place != "loop":
            try:
                self._dispatcher.check_room()
            except StatusError as refusal:
                done(self._finished(failure(refusal)))
                return
        size = len(request.body)
        self._dispatcher.run(place, kind, size, functools.partial(self._answer, request, answer), done)

    def _answer(self, request: HttpRequest, answer: Callable[[HttpRequest], HttpResponse]) -> HttpResponse:
        try:
            if request.is_abandoned:
                return HttpResponse(499)  # nobody reads it
            return self._finished(answer(request))
        except StatusError as refusal:
            return self._finished(failure(refusal))
        except Exception:  # a bug must give a response, not a broken connection
            log.exception("unexpected error in %s %s", request.method, request.path)
            return self._finished(failure(internal_error()))

    def _finished(self, response: HttpResponse) -> HttpResponse:
        if self._settings.cors and response.media_type != "text/html":
            response.headers.update(_CORS)
        return response

    def _route(self, request: HttpRequest) -> HttpResponse | _Route:
        """Return the response to a request without looking at its body, or what answers it. Raises StatusError."""
        method, path, target = request.method, request.path, request.target
        if method not in _METHODS:
            return page(501)
        if path == self._metrics_path and method in ("GET", "POST"):
            return "threads", path, self._metrics
        if (found := find_route(path)) is not None:
            return self._open_inference_route(found, request)
        if self._web and f"{path}/".startswith(web_build.ROOT):
            return "threads", web_build.ROOT, self._web.respond
        if path in _HEALTH:
            return "loop", "", functools.partial(_HEALTH[path], self)
        if not model_paths.is_uri(target):
            return page(400)
        if not model_paths.is_in_api(target):
            return page(404)
        if method == "OPTIONS":
            # A CORS preflight request: the origin decides, even if CORS isn't enabled.
            allowed = _WEB_ORIGIN.search(request.header("origin"))
            return HttpResponse(200 if allowed else 400, media_type=_NO_CONTENT_TYPE)
        model_path = model_paths.find(method, target)
        if model_path is None:
            return error(400, f"Malformed request: {method} {target}")
        if method == "POST":
            self._check_head(request)
            return (
                "either",
                path,
                functools.partial(self._infer, model_path.spec(), model_path.action.capitalize()),
            )
        if model_path.is_empty:
            return "either", path, self._statuses
        answer = self._metadata if model_path.action == "metadata" else self._status
        return "either", path, functools.partial(answer, model_path.spec())

    def _metrics(self, _request: HttpRequest) -> HttpResponse:
        content, media_type = self._observer.metrics.page()
        return HttpResponse(200, content, media_type)

    def _status(self, spec: Any, _request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, _dump(_to_dict(self._predictor.status(spec))))

    def _statuses(self, _request: HttpRequest) -> HttpResponse:
        """Return the status of all versions of the models in the config."""
        models = []
        for name in self._models.configured:
            try:
                status = _to_dict(self._predictor.status(model_pb2.ModelSpec(name=name)))
            except StatusError:  # no version is known yet
                status = {"model_version_status": []}
            models.append({"name": name, **status})
        return HttpResponse(200, _dump({"models": models}))

    def _live(self, request: HttpRequest) -> HttpResponse:
        return _health(request, 200, "ok")

    def _ready(self, request: HttpRequest) -> HttpResponse:
        if unavailable := self._models.unavailable_models():
            return _health(request, 503, f"models without an available version: {', '.join(unavailable)}")
        return _health(request, 200, "ok")

    def _metadata(self, spec: Any, _request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, _metadata(self._predictor.metadata(spec)))

    def _infer(self, spec: Any, api: str, request: HttpRequest) -> HttpResponse:
        def answer(body: bytes, call: Call) -> HttpResponse:
            return HttpResponse(200, _VERBS[api](self, spec, body, call))

        return self._run(request, api, spec.name, answer)

    def _open_inference_route(self, route: OpenInferenceRoute, request: HttpRequest) -> _Route:
        if route.is_inference and request.method == route.method:
            self._check_head(request)
            return "either", request.path, functools.partial(self._open_infer, route)
        call = Call(route.api, "REST", model=route.model)
        return "loop", "", lambda request: self._open_inference.respond(route, request, b"", call)

    def _open_infer(self, route: OpenInferenceRoute, request: HttpRequest) -> HttpResponse:
        def answer(body: bytes, call: Call) -> HttpResponse:
            return self._open_inference.respond(route, request, body, call)

        return self._run(request, route.api, route.model, answer)

    def _check_head(self, request: HttpRequest) -> None:
        """Check an inference request without its body. Raises StatusError."""
        self._dispatcher.check_room()
        encoding = request.header("content-encoding", "identity").lower()
        if encoding not in ("identity", "gzip"):
            raise invalid(f"Content-Encoding {encoding} is not supported; expected gzip or none")

    def _run(
        self, request: HttpRequest, api: str, model: str, answer: Callable[[bytes, Call], HttpResponse]
    ) -> HttpResponse:
        """Return the response of `answer` to an inference request, which gets the decompressed body."""
        body = request.body
        call = Call(api, "REST", model=model, received=len(body), begin=request.arrived)
        if (seconds := self._settings.rest_timeout_seconds) is not None:
            call.deadline = call.begin + seconds
        with self._observer.observing(call):
            call.note_start()
            is_gzip = request.header("content-encoding").lower() == "gzip"
            response = answer(self._gunzip(body) if is_gzip else body, call)
            if len(response.content) >= _MIN_GZIP_BYTES and "gzip" in request.header("accept-encoding"):
                response.content = _gzip(response.content)
                response.headers["content-encoding"] = "gzip"
            call.sent = len(response.content)
        if self._settings.tells_timing:
            response.headers["server-timing"] = call.timing()
        return response

    def _predict(self, spec: Any, body: bytes, call: Call) -> bytes:
        begin = time.monotonic()
        document = parse_predict(body, self._limits.json_depth)
        call.decode = time.monotonic() - begin
        spec.signature_name = document.signature_name
        prediction = self._predictor.predict(
            spec, lambda signature: self._tensors(document, signature), call, unknown=_unknown_signature
        )
        return _encoded(call, lambda: encode_outputs(prediction.outputs, is_row=document.is_row))

    def _tensors(self, document: PredictBody, signature: Signature) -> Tensors:
        tensors = decode_inputs(document, signature.inputs)
        for name, tensor in tensors.items():
            if tensor.size > self._limits.tensor_elements:
                raise invalid(
                    f"{name} has {tensor.size} elements; expected at most {self._limits.tensor_elements}"
                )
        return tensors

    def _classify(self, spec: Any, body: bytes, call: Call) -> bytes:
        document = parse_examples(body, self._limits.json_depth)
        spec.signature_name = document.signature_name
        response = self._inference.classify(spec, document.examples, call)
        return _encoded(call, lambda: encode_classifications(response.result))

    def _regress(self, spec: Any, body: bytes, call: Call) -> bytes:
        document = parse_examples(body, self._limits.json_depth)
        spec.signature_name = document.signature_name
        response = self._inference.regress(spec, document.examples, call)
        return _encoded(call, lambda: encode_regressions(response.result))

    def _gunzip(self, body: bytes) -> bytes:
        decompressor = zlib.decompressobj(wbits=31)
        try:
            plain = decompressor.decompress(body, self._limits.body_bytes + 1)
        except zlib.error:
            raise invalid("The body is not gzip, as Content-Encoding says") from None
        self._check_size(len(plain))
        if not decompressor.eof or decompressor.unused_data:
            raise invalid("The body is not one whole gzip member")
        return plain

    def _check_size(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise self._too_large()

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            Code.RESOURCE_EXHAUSTED, f"The body is larger than {self._limits.body_bytes} bytes"
        )


_HEALTH = {"/livez": RestApi._live, "/readyz": RestApi._ready}
_VERBS = {"Predict": RestApi._predict, "Classify": RestApi._classify, "Regress": RestApi._regress}


# Responses of this size and more are compressed for clients that accept gzip.
_MIN_GZIP_BYTES = 16 * 1024


def _gzip(content: bytes) -> bytes:
    compressor = zlib.compressobj(1, wbits=31)
    return compressor.compress(content) + compressor.flush()


def _unknown_signature(name: str) -> StatusError:
    return invalid(f'Serving signature name: "{name}" not found in signature def')


def _encoded(call: Call, encode: Callable[[], bytes]) -> bytes:
    begin = time.monotonic()
    content = encode()
    call.encode = time.monotonic() - begin
    return content


def _health(request: HttpRequest, status: int, text: str) -> HttpResponse:
    if request.method not in ("GET", "HEAD"):
        status, text = 405, f"method {request.method} isn't allowed; expected GET or HEAD"
    return HttpResponse(status, f"{text}\n".encode(), "text/plain; charset=utf-8")


def _metadata(response: Any) -> bytes:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[METADATA_FIELD].Unpack(signatures)
    # TensorFlow Serving's layout: the field's name, then the message, whose one field has the same name.
    spec = {
        "name": response.model_spec.name,
        "signature_name": "",
        "version": str(response.model_spec.version.value),
    }
    return _dump({"model_spec": spec, "metadata": {METADATA_FIELD: _to_dict(signatures)}})


def _to_dict(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _dump(document: Any) -> bytes:
    return json.dumps(document, indent=1).encode()
