"""HTTP/2 engines behind one interface: `ngh2` (libnghttp2), or `h2` (pure Python) where it isn't installed.

An engine is one server connection without a socket: bytes go in, calls of an `Http2Handler` and bytes come out. It
handles framing, header compression, flow control and what the protocol asks of it (RFC 9113), and closes connections
that abuse them.
"""

import importlib.util
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tfship.train.common.errors import UsageError

__all__ = [
    "CANCEL",
    "ENGINES",
    "ENHANCE_YOUR_CALM",
    "NO_ERROR",
    "Allowance",
    "Engine",
    "EngineLimits",
    "Headers",
    "Http2Handler",
    "engine",
]

# Names and values; names are in lower case.
Headers = Sequence[tuple[bytes, bytes]]

# Error codes of RFC 9113, 7.
NO_ERROR, CANCEL, ENHANCE_YOUR_CALM = 0x0, 0x8, 0xB

# The values of `--http2_engine`.
ENGINES = ("auto", "ngh2", "h2")


@dataclass(frozen=True)
class EngineLimits:
    """Limits of a connection.

    `header_bytes` is the size of a request's headers that the client is told, each counted with 32 bytes more (RFC
    9113, 6.5.2); the handler refuses larger ones. `streams` is the number of requests at a time. `window_bytes` is how
    much of a body the client may send ahead.

    Clients that open and reset streams, or send frames without a purpose, lose their connection beyond a burst of
    `resets` or `glitches` and a rate per second (CVE-2023-44487 and similar attacks). The values are libnghttp2's.
    """

    header_bytes: int
    streams: int
    window_bytes: int = 2**20
    resets: tuple[int, int] = (1_000, 33)
    glitches: tuple[int, int] = (10_000, 330)

    @property
    def most_header_bytes(self) -> int:
        """The size of headers that costs a client its connection, so that there is room for a refusal below it."""
        return 2 * self.header_bytes + 2**16


class Allowance:
    """Events without a purpose: `burst` at once, and `rate` a second afterwards."""

    def __init__(self, burst: int, rate: int) -> None:
        self._burst, self._rate = burst, rate
        self._left: float = burst
        self._then = time.monotonic()

    def take(self) -> bool:
        """Return whether another event is allowed, and count it."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._then) * self._rate) - 1
        self._then = now
        return self._left >= 0

    def refill(self) -> None:
        """Allow the whole burst again: the client does something useful. gRPC's clients send a ping with some data."""
        self._left = self._burst


class Http2Handler(Protocol):
    """Receiver of an engine's events. Its methods must not call `Engine.receive`."""

    def on_request(self, stream: int, headers: Headers, *, ended: bool) -> None:
        """Handle a new request. With `ended`, it has no body."""

    def on_data(self, stream: int, data: bytes, *, ended: bool) -> None:
        """Handle the next bytes of a body. With `ended`, they are the last ones."""

    def on_end(self, stream: int) -> None:
        """Handle the end of a body that had no bytes of its own: trailers."""

    def on_closed(self, stream: int) -> None:
        """Handle a stream's end: its response is complete, or one side has reset it."""


class Engine(Protocol):
    """One HTTP/2 connection of a server.

    Methods for a stream do nothing if the stream has ended. After `receive` and after responses, the bytes of
    `to_send` must be sent.
    """

    def receive(self, data: bytes) -> None:
        """Process bytes of the client and call the handler."""

    def to_send(self) -> bytes:
        """Return the bytes to send now; flow control may hold back others."""

    def send_headers(self, stream: int, headers: Headers, *, end: bool = False) -> None:
        """Begin a response. With `end`, it is complete."""

    def send_data(self, stream: int, data: bytes) -> None:
        """Send bytes of a response."""

    def send_trailers(self, stream: int, headers: Headers) -> None:
        """End a response."""

    def reset(self, stream: int, code: int) -> None:
        """End a stream without a response, with an error code."""

    def announce_shutdown(self) -> None:
        """Tell the client not to begin requests; those that are on their way are still accepted (RFC 9113, 6.8)."""

    def shut_down(self, code: int = NO_ERROR) -> None:
        """Accept no further requests. Responses to the accepted ones continue."""

    @property
    def has_begun(self) -> bool:
        """Whether the client has spoken HTTP/2: its preface and first frame have arrived."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to receive or send."""

    @property
    def queued_bytes(self) -> int:
        """Bytes of responses for which the client's flow control has no room yet."""


def engine(name: str, handler: Http2Handler, limits: EngineLimits) -> Engine:
    """Return a connection by the engine `name`, one of `ENGINES` but "auto" (see `resolved`)."""
    if name == "ngh2":
        from tfship.serving.grpc.ngh2_engine import Ngh2Engine

        return Ngh2Engine(handler, limits)
    from tfship.serving.grpc.h2_engine import H2Engine

    return H2Engine(handler, limits)


def resolved(name: str) -> str:
    """Return the installed engine that `name`, one of `ENGINES`, stands for. Raises UsageError if there is none."""
    if name not in ENGINES:
        raise UsageError(f"--http2_engine={name}: no such engine; expected {', '.join(ENGINES)}")
    wanted: Iterable[str] = ENGINES[1:] if name == "auto" else (name,)
    for each in wanted:
        if importlib.util.find_spec(each) is not None:
            return each
    raise UsageError(
        f"--http2_engine={name}: {' and '.join(wanted)} isn't installed; pip install 'tfship[serve]'"
    )
