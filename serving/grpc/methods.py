"""gRPC methods as the transport calls them, whatever they do."""

import functools
import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import DecodeError

from tfship.serving.inference.request_context import Call, Observer
from tfship.serving.protos.status import Code, StatusError, internal_error, invalid
from tfship.serving.server.dispatch import Place

__all__ = ["Answer", "Method", "Methods", "ServerStream", "Streaming", "Unary", "parsed"]

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """The end of a call: an error, or OK and the response's bytes."""

    code: Code
    message: str = ""
    content: bytes = b""

    @property
    def is_ok(self) -> bool:
        """Whether the call was successful."""
        return self.code is Code.OK


@dataclass(frozen=True)
class Unary:
    """A method with one request and one response.

    `api` is the method's name in logs and metrics. `read` returns the request in bytes, or raises StatusError.
    `respond` gets the request and the call and returns the response, a message or its bytes, or raises StatusError.
    `kind` returns what the duration of a request depends on, besides its size.
    """

    api: str
    read: Callable[[bytes], Any]
    respond: Callable[[Any, Call], Any]
    place: Place = "either"
    kind: Callable[[Any], Hashable] = lambda _: None

    @classmethod
    def of(
        cls,
        api: str,
        request: Any,
        respond: Callable[[Any, Call], Any],
        place: Place = "either",
        kind: Callable[[Any], Hashable] = lambda _: None,
    ) -> "Unary":
        """Return a method whose requests are messages of the class `request`."""
        return cls(api, functools.partial(parsed, request), respond, place, kind)

    def answer(self, request: Any, call: Call, observer: Observer) -> Answer:
        """Return the answer to a request, which is never an exception; tell `observer` of it."""
        try:
            with observer.observing(call):
                call.note_start()
                content = self.respond(request, call)
                if not isinstance(content, bytes):
                    content = content.SerializeToString()
                call.sent = len(content)
            return Answer(Code.OK, "", content)
        except StatusError as error:
            return Answer(error.code, error.message)
        except Exception:
            log.exception("unexpected error in %s", self.api)
            return Answer(Code.INTERNAL, internal_error().message)

    def read_and_answer(self, data: bytes, call: Call, observer: Observer) -> Answer:
        """Return the answer to a request in bytes."""
        try:
            request = self.read(data)
        except StatusError as error:
            return self.refuse(error, call, observer)
        return self.answer(request, call, observer)

    def refuse(self, error: StatusError, call: Call, observer: Observer) -> Answer:
        """Return the answer to a request that can't be read."""
        observer.end(call, error.code)
        return Answer(error.code, error.message)


class ServerStream(Protocol):
    """A call's responses, for a method that may send several. Used by the event loop's thread only."""

    def send(self, message: bytes) -> None:
        """Send a response."""

    def finish(self, code: Code, message: str = "") -> None:
        """End the call."""


class Streaming(Protocol):
    """A method that sends or receives several messages. One object handles one call, in the event loop's thread."""

    def on_message(self, data: bytes) -> None:
        """Handle a request. May raise StatusError, which ends the call."""

    def on_end(self) -> None:
        """Handle the end of the requests."""

    def on_closed(self) -> None:
        """Handle the end of the call, for whatever reason."""


Method = Unary | Callable[[ServerStream], Streaming]
# By path: b"/package.Service/Method".
Methods = Mapping[bytes, Method]


def parsed(kind: Any, data: bytes) -> Any:
    """Return the message of the class `kind` in `data`. Raises StatusError."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise invalid(str(error)) from None
