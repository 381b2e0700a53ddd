"""TensorFlow Serving's REST API as an ASGI application.

    GET  /v1/models/NAME[/versions/N|/labels/L]            status
    GET  /v1/models/NAME[/versions/N|/labels/L]/metadata   signatures
    POST /v1/models/NAME[/versions/N|/labels/L]:predict    predictions
    POST /v1/models/NAME[/versions/N|/labels/L]:classify   classes and scores of tf.Examples
    POST /v1/models/NAME[/versions/N|/labels/L]:regress    numbers of tf.Examples

Every response of the API is JSON; an error is `{"error": "…"}`. Paths outside the API get an HTML page.

A request that is expected to be short is run by the thread that reads the connections: a hand-off to another thread
would take longer than the request. All others run in a thread pool, so that they don't block other connections.
"""

import asyncio
import json
import logging
import re
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from google.protobuf import json_format

from tfship.export.runtimes.protocol import Signature
from tfship.serving.http.json_examples import encode_classifications, encode_regressions, parse_examples
from tfship.serving.http.json_tensors import PredictBody, decode_inputs, encode_outputs, parse_predict
from tfship.serving.inference.examples import Inference
from tfship.serving.inference.execution import Tensors
from tfship.serving.inference.latency_estimate import LatencyEstimate
from tfship.serving.inference.predict import METADATA_FIELD, Predictor
from tfship.serving.inference.request_context import Call, Observer
from tfship.serving.protos.messages import get_model_metadata_pb2, model_pb2
from tfship.serving.protos.status import Code, StatusError, invalid
from tfship.serving.server.settings import Settings

__all__ = ["RestApi", "RestResponse", "page"]

log = logging.getLogger(__name__)

# Matched case-insensitively against the path before %-escapes are decoded, as in TensorFlow Serving: an escaped
# slash is part of a name and doesn't separate path segments.
_TARGET = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_INFERENCE = re.compile(rf"{_TARGET}:(?P<verb>classify|regress|predict)", re.IGNORECASE)
_MODEL_INFO = re.compile(rf"{_TARGET}(?P<metadata>/metadata)?", re.IGNORECASE)
_API = re.compile(r"/v1/", re.IGNORECASE)
_NO_MODEL = re.compile(r"/v1/models", re.IGNORECASE)
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")

# Response headers with CORS enabled: any origin is allowed. TensorFlow Serving's values.
_CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "POST, GET",
    "access-control-allow-headers": "Content-Type",
}
_WEB_ORIGIN = re.compile(r"https?://", re.IGNORECASE)

_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"}
_HTTP_STATUS = {
    Code.OK: 200,
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}  # all others: 500


@dataclass(frozen=True)
class RestResponse:
    """An HTTP response."""

    status: int
    content: bytes = b""
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def phrase(self) -> str:
        """The reason phrase of the status."""
        return HTTPStatus(self.status).phrase


class RestApi:
    """The ASGI application of one process."""

    def __init__(
        self, predictor: Predictor, inference: Inference, observer: Observer, settings: Settings
    ) -> None:
        self._predictor = predictor
        self._inference = inference
        self._observer = observer
        self._metrics_path = observer.metrics.path
        self._settings = settings
        self._limits = settings.limits
        self._threads = ThreadPoolExecutor(settings.rest_threads, thread_name_prefix="rest")
        self._latency = LatencyEstimate()
        self._running = 0

    def close(self) -> None:
        """Cancel the queued requests; running ones finish."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one HTTP request (the ASGI interface)."""
        try:
            response = await self._respond(_Request(scope, receive))
        except _TooLargeError as error:
            response = _error(413, error.message)
        except StatusError as error:
            response = _error(_HTTP_STATUS.get(error.code, 500), error.message)
        except _ClientDisconnected:
            return
        except Exception:  # a bug must give a response, not a broken connection
            log.exception("unexpected error in %s %s", scope["method"], scope["path"])
            response = _error(500, "Internal error; the server's log has the details")
        headers = {
            "content-type": response.media_type,
            "content-length": str(len(response.content)),
            **response.headers,
            **(_CORS if self._settings.cors and response.media_type != "text/html" else {}),
        }
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": raw})
        await send({"type": "http.response.body", "body": response.content})

    async def _respond(self, request: "_Request") -> RestResponse:
        method, path, query = request.method, request.path, request.query
        if method not in _METHODS:
            return page(501)
        if path == self._metrics_path and method in ("GET", "POST"):
            content, media_type = self._observer.metrics.page()
            return RestResponse(200, content, media_type)
        if not _API.match(path) and not _NO_MODEL.fullmatch(path):
            return page(404)
        if _BAD_ESCAPE.search(path):
            return page(400)
        if method == "OPTIONS":
            # A CORS preflight request: the origin decides.
            allowed = self._settings.cors and _WEB_ORIGIN.match(request.header("origin"))
            return RestResponse(200 if allowed else 400)
        if not query and method == "POST" and (match := _INFERENCE.fullmatch(path)):
            return await self._infer(request, match)
        if not query and method == "GET" and _NO_MODEL.fullmatch(path):
            return _error(400, "Missing model name in request.")
        if not query and method == "GET" and (match := _MODEL_INFO.fullmatch(path)):
            return self._model_info(match)
        return _error(400, f"Malformed request: {method} {path}{'?' if query else ''}{query}")

    async def _infer(self, request: "_Request", match: re.Match[str]) -> RestResponse:
        # Checked before the body is read, too: a request that will be refused must not take memory.
        self._check_running()
        encoding = request.header("content-encoding", "identity").lower()
        if encoding not in ("identity", "gzip"):
            raise invalid(f"Content-Encoding {encoding} is not supported; expected gzip or none")
        spec = _spec(match)
        body = await self._body(request)
        self._check_running()
        call = Call(match["verb"].capitalize(), "REST", model=spec.name, received=len(body))
        if (seconds := self._settings.rest_timeout_seconds) is not None:
            call.deadline = call.begin + seconds
        accepts_gzip = "gzip" in request.header("accept-encoding")

        def respond() -> RestResponse:
            with self._observer.observing(call), self._latency.timed(request.path, len(body)):
                call.note_start()
                content = _VERBS[call.api](
                    self, spec, self._gunzip(body) if encoding == "gzip" else body, call
                )
                headers = {}
                if accepts_gzip and len(content) >= _MIN_GZIP_BYTES:
                    content, headers["content-encoding"] = _gzip(content), "gzip"
                call.sent = len(content)
            if self._settings.tells_timing:
                headers["server-timing"] = call.timing()
            return RestResponse(200, content, headers=headers)

        # With batching, a request waits for others, and must not block the thread that reads them.
        if not self._settings.loader.batching and self._latency.is_short(request.path, len(body)):
            return respond()
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, respond)
        finally:
            self._running -= 1

    def _check_running(self) -> None:
        if self._running >= self._limits.requests:
            raise StatusError(
                Code.RESOURCE_EXHAUSTED,
                f"{self._limits.requests} requests are in flight, the limit; try again later",
            )

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

    def _model_info(self, match: re.Match[str]) -> RestResponse:
        if match["metadata"]:
            return RestResponse(200, _metadata(self._predictor.metadata(_spec(match))))
        return RestResponse(200, _dump(_to_dict(self._predictor.status(_spec(match)))))

    async def _body(self, request: "_Request") -> bytes:
        """Return the body. Raises _TooLargeError as soon as the size exceeds the limit."""
        declared = request.header("content-length")
        if declared.isdecimal():
            self._check_size(int(declared))
        body, more = await request.receive()
        self._check_size(len(body))
        if more:
            pieces = bytearray(body)
            while more:
                piece, more = await request.receive()
                pieces += piece
                self._check_size(len(pieces))
            body = bytes(pieces)
        return body

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
            raise _TooLargeError(
                Code.RESOURCE_EXHAUSTED, f"The body is larger than {self._limits.body_bytes} bytes"
            )


class _TooLargeError(StatusError):
    """A body larger than the limit: HTTP status 413."""


_VERBS = {"Predict": RestApi._predict, "Classify": RestApi._classify, "Regress": RestApi._regress}


class _ClientDisconnected(Exception):  # noqa: N818
    """The client has closed the connection."""


class _Request:
    """An ASGI request."""

    def __init__(self, scope: Any, receive: Any) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("latin-1")
        self.query: str = scope["query_string"].decode("latin-1")
        self._headers = scope["headers"]
        self._receive = receive

    def header(self, name: str, default: str = "") -> str:
        """Return the value of the first header called `name` (lower case), or `default`."""
        key = name.encode()
        return next((value.decode("latin-1") for each, value in self._headers if each == key), default)

    async def receive(self) -> tuple[bytes, bool]:
        """Return the next piece of the body, and whether more follows."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise _ClientDisconnected
        return message.get("body", b""), message.get("more_body", False)


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


def _spec(match: re.Match[str]) -> Any:
    spec = model_pb2.ModelSpec(name=_unescape(match["name"]))
    if match["version"]:
        digits = match["version"].lstrip("0") or "0"
        # Python refuses to read a number of thousands of digits.
        if len(digits) > 19 or int(digits) >= 2**63:
            raise invalid(f"Version {match['version']} is larger than an int64")
        spec.version.value = int(digits)
    elif match["label"]:
        spec.version_label = _unescape(match["label"])
    return spec


def _unescape(text: str) -> str:
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise invalid(f"{text} is not UTF-8") from None


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


def _error(status: int, message: str) -> RestResponse:
    return RestResponse(status, json.dumps({"error": message}).encode())


def page(status: int) -> RestResponse:
    """Return the HTML page that TensorFlow Serving's HTTP server sends for errors outside the API."""
    phrase = HTTPStatus(status).phrase
    text = (
        f"<HTML><HEAD>\n<TITLE>{status} {phrase}</TITLE>\n</HEAD><BODY>\n<H1>{phrase}</H1>\n</BODY></HTML>\n"
    )
    return RestResponse(status, text.encode(), "text/html")
