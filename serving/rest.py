"""TensorFlow Serving's REST API as an ASGI application.

    GET  /v1/models/NAME[/versions/N|/labels/L]            status
    GET  /v1/models/NAME[/versions/N|/labels/L]/metadata   signatures
    POST /v1/models/NAME[/versions/N|/labels/L]:predict    predictions
    POST /v1/models/NAME[/versions/N|/labels/L]:classify   classes and scores of tf.Examples
    POST /v1/models/NAME[/versions/N|/labels/L]:regress    numbers of tf.Examples

Every answer of the API is JSON; an error is `{"error": "…"}`. What isn't the API's gets a page of HTML. Work
runs in a pool of threads, so that a long inference doesn't hold up other connections.
"""

import asyncio
import json
import logging
import re
import zlib
from collections.abc import Callable
from concurrent.futures import Executor
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from google.protobuf import json_format
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.inference import Inference
from serving.json_examples import encode_classifications, encode_regressions, parse_examples
from serving.json_tensors import decode_inputs, encode_outputs, parse_predict
from serving.predict import METADATA_FIELD, Predictor
from serving.protos import get_model_metadata_pb2, model_pb2
from serving.status import Code, StatusError

__all__ = ["MAX_BODY_BYTES", "RestApi"]

log = logging.getLogger(__name__)

# Room for some 30,000 MNIST images as JSON; without a limit, one request could take all the memory.
MAX_BODY_BYTES = 256 * 2**20

# Matched against the path as it was sent, case-insensitively, before %-escapes are decoded: as TensorFlow
# Serving does it, so that an escaped slash is part of a name and can't lead anywhere else.
_TARGET = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_PREDICT = re.compile(rf"{_TARGET}:(?P<verb>classify|regress|predict)", re.IGNORECASE)
_LOOK = re.compile(rf"{_TARGET}(?P<metadata>/metadata)?", re.IGNORECASE)
_API = re.compile(r"/v1/", re.IGNORECASE)
_NO_MODEL = re.compile(r"/v1/models", re.IGNORECASE)
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")

# What any page of the Web may do, where CORS is supported; with TensorFlow Serving's values.
_CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "POST, GET",
    "access-control-allow-headers": "Content-Type",
}
_WEB = re.compile(r"https?://", re.IGNORECASE)

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


class RestApi:
    """The ASGI application.

    `threads` runs the requests; bodies beyond `max_body_bytes` are refused (413). With `cors`, browsers may call
    it from pages of other servers.
    """

    def __init__(
        self,
        predictor: Predictor,
        inference: Inference,
        threads: Executor,
        max_body_bytes: int = MAX_BODY_BYTES,
        *,
        cors: bool = False,
    ) -> None:
        self._predictor = predictor
        self._inference = inference
        self._threads = threads
        self._max_body_bytes = max_body_bytes
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request (the ASGI interface)."""
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except StatusError as error:
            response = _error(_HTTP_STATUS.get(error.code, 500), error.message)
        except ClientDisconnect:
            return
        except Exception:  # one request's bug must not end as a broken connection
            log.exception("unexpected error in %s %s", request.method, scope["path"])
            response = _error(500, "Internal error; the server's log has the details")
        if self._cors and response.media_type != "text/html":
            response.headers.update(_CORS)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        method, path, query = request.method, request.scope["raw_path"].decode("latin-1"), request.url.query
        if method not in _METHODS:
            return _page(501)
        if not _API.match(path) and not _NO_MODEL.fullmatch(path):
            return _page(404)
        if _BAD_ESCAPE.search(path):
            return _page(400)
        if method == "OPTIONS":
            # A browser's question whether its page may ask; the page's address decides.
            allowed = self._cors and _WEB.match(request.headers.get("origin", ""))
            return Response(status_code=200 if allowed else 400)
        if not query and method == "POST" and (match := _PREDICT.fullmatch(path)):
            return await self._infer(request, match)
        if not query and method == "GET" and _NO_MODEL.fullmatch(path):
            return _error(400, "Missing model name in request.")
        if not query and method == "GET" and (match := _LOOK.fullmatch(path)):
            return await self._run(lambda: self._look(match))
        return _error(400, f"Malformed request: {method} {path}{'?' if query else ''}{query}")

    async def _infer(self, request: Request, match: re.Match[str]) -> Response:
        work = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
        verb, spec = match["verb"].lower(), _spec(match)
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding not in ("identity", "gzip"):
            return _error(400, f"Content-Encoding {encoding} is not supported; expected gzip or none")
        body = await self._body(request)
        if body is None:
            return self._too_large()

        def answer() -> Response:
            plain = self._gunzip(body) if encoding == "gzip" else body
            if plain is None:
                return self._too_large()
            return _json(work[verb](spec, plain))

        return await self._run(answer)

    def _predict(self, spec: Any, body: bytes) -> bytes:
        document = parse_predict(body)
        spec.signature_name = document.signature_name
        prediction = self._predictor.predict(
            spec, lambda signature: decode_inputs(document, signature.inputs)
        )
        return encode_outputs(prediction.outputs, is_row=document.is_row)

    def _classify(self, spec: Any, body: bytes) -> bytes:
        document = parse_examples(body)
        spec.signature_name = document.signature_name
        return encode_classifications(self._inference.classify(spec, document.examples).result)

    def _regress(self, spec: Any, body: bytes) -> bytes:
        document = parse_examples(body)
        spec.signature_name = document.signature_name
        return encode_regressions(self._inference.regress(spec, document.examples).result)

    def _look(self, match: re.Match[str]) -> Response:
        if match["metadata"]:
            return _json(_metadata(self._predictor.metadata(_spec(match))))
        return _json(_dump(_to_dict(self._predictor.status(_spec(match)))))

    async def _run(self, work: Callable[[], Response]) -> Response:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _body(self, request: Request) -> bytes | None:
        """Return the body, or None if it is too large; then it isn't read to the end."""
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            return None
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body_bytes:
                return None
        return bytes(body)

    def _gunzip(self, body: bytes) -> bytes | None:
        """Return the decompressed body, or None if it is too large."""
        decompressor = zlib.decompressobj(wbits=31)
        try:
            plain = decompressor.decompress(body, self._max_body_bytes + 1)
        except zlib.error:
            raise StatusError(
                Code.INVALID_ARGUMENT, "The body is not gzip, as Content-Encoding says"
            ) from None
        if len(plain) > self._max_body_bytes:
            return None
        if not decompressor.eof or decompressor.unused_data:
            raise StatusError(Code.INVALID_ARGUMENT, "The body is not one whole gzip member")
        return plain

    def _too_large(self) -> Response:
        return _error(413, f"The body is larger than {self._max_body_bytes} bytes")


def _spec(match: re.Match[str]) -> Any:
    spec = model_pb2.ModelSpec(name=_unescape(match["name"]))
    if match["version"]:
        if int(match["version"]) >= 2**63:
            raise StatusError(Code.INVALID_ARGUMENT, f"Version {match['version']} is larger than an int64")
        spec.version.value = int(match["version"])
    elif match["label"]:
        spec.version_label = _unescape(match["label"])
    return spec


def _unescape(text: str) -> str:
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise StatusError(Code.INVALID_ARGUMENT, f"{text} is not UTF-8") from None


def _metadata(answer: Any) -> bytes:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata[METADATA_FIELD].Unpack(signatures)
    # TensorFlow Serving's own layout: the field's name, then the message, whose one field has the same name.
    spec = {
        "name": answer.model_spec.name,
        "signature_name": "",
        "version": str(answer.model_spec.version.value),
    }
    return _dump({"model_spec": spec, "metadata": {METADATA_FIELD: _to_dict(signatures)}})


def _to_dict(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _dump(document: Any) -> bytes:
    return json.dumps(document, indent=1).encode()


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _error(status: int, message: str) -> Response:
    return Response(json.dumps({"error": message}).encode(), status, media_type="application/json")


def _page(status: int) -> Response:
    """Return what TensorFlow Serving's HTTP server says by itself, of what isn't the API's."""
    phrase = HTTPStatus(status).phrase
    page = (
        f"<HTML><HEAD>\n<TITLE>{status} {phrase}</TITLE>\n</HEAD><BODY>\n<H1>{phrase}</H1>\n</BODY></HTML>\n"
    )
    return Response(page, status, media_type="text/html")
