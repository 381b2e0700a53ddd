"""Requests and responses of the REST port."""

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httptools

from tfship.serving.protos.status import Code, StatusError

__all__ = ["HttpRequest", "HttpResponse", "TooLargeError", "error", "failure", "page"]

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


@dataclass(slots=True)
class HttpRequest:
    """An HTTP request.

    `target` is the path with the query string and the fragment, as the client sent them, with their %-escapes. The
    names of `headers` are in lower case. `arrived` is the time (`time.monotonic()`) at which it was complete.
    `is_abandoned`: the client has gone.
    """

    method: str
    target: str
    headers: dict[str, str]
    is_1_1: bool = True
    body: bytes = b""
    arrived: float = 0.0
    keeps_connection: bool = True
    is_abandoned: bool = False
    # What the application has decided by the request's head.
    route: Any = None

    @classmethod
    def of(cls, method: bytes, url: bytes, headers: dict[str, str], version: str) -> "HttpRequest":
        """Return the request with the target `url`, a path or an absolute URL."""
        target = url
        if not url.startswith(b"/") and b"://" in url:
            parts: Any = httptools.parse_url(url)
            rest = ((b"?", parts.query), (b"#", parts.fragment))
            target = (parts.path or b"/") + b"".join(mark + part for mark, part in rest if part is not None)
        return cls(method.decode("latin-1"), target.decode("latin-1"), headers, is_1_1=version == "1.1")

    @property
    def path(self) -> str:
        """The target without the query string."""
        return self.target.partition("?")[0]

    def header(self, name: str, default: str = "") -> str:
        """Return the value of the header `name` (lower case), or `default`."""
        return self.headers.get(name, default)

    @property
    def declared_size(self) -> int:
        """The body's size in bytes that the client declares; 0 if it doesn't."""
        declared = self.header("content-length")
        return int(declared) if declared.isdecimal() and len(declared) < 20 else 0


@dataclass(slots=True)
class HttpResponse:
    """An HTTP response."""

    status: int
    content: bytes = b""
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def is_ok(self) -> bool:
        """Whether the request was successful."""
        return self.status == HTTPStatus.OK


def page(status: int) -> HttpResponse:
    """Return the HTML page that TensorFlow Serving's HTTP server sends for errors outside the API."""
    phrase = HTTPStatus(status).phrase
    text = (
        f"<HTML><HEAD>\n<TITLE>{status} {phrase}</TITLE>\n</HEAD><BODY>\n<H1>{phrase}</H1>\n</BODY></HTML>\n"
    )
    return HttpResponse(status, text.encode(), "text/html")


class TooLargeError(StatusError):
    """A body larger than the limit: HTTP status 413."""


def failure(reason: StatusError) -> HttpResponse:
    """Return the response to a failed request."""
    status = 413 if isinstance(reason, TooLargeError) else _HTTP_STATUS.get(reason.code, 500)
    return error(status, reason.message)


def error(status: int, message: str) -> HttpResponse:
    """Return the API's response to an error: `{"error": "…"}`."""
    return HttpResponse(status, json.dumps({"error": message}).encode())
