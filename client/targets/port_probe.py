"""Port probe: identifies HTTP/1.1 (REST), HTTP/2 (gRPC), TLS or another service by the first bytes of its response.

Client libraries only report that their own protocol failed. The first bytes identify a protocol: the status line of
HTTP/1.1 (RFC 9112, 4), the SETTINGS frame that begins HTTP/2 (RFC 9113, 3.4), an alert record of TLS (RFC 8446, 6).
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from tfship.client.targets.connection import Tls
from tfship.client.targets.tls import context
from tfship.train.common.errors import UsageError

__all__ = ["GRPC", "REST", "ProbeResult", "address", "probe"]

REST, GRPC = "REST", "gRPC"

_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_OPENINGS = {
    REST: b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    GRPC: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS,
}
_ALPN = {REST: ["http/1.1"], GRPC: ["h2"]}
# Bytes that suffice to identify a protocol.
_MOST_READ = 64


@dataclass(frozen=True)
class ProbeResult:
    """The service at an address.

    `kind` is REST or GRPC for a server that speaks it, with TLS only if the probe used TLS. Otherwise it is one of:
    "unknown host", "refused", "unreachable" (no connection), "silent" (no response), "closed" (the server closes the
    connection at once), "other" (another protocol), "tls" (the server expects TLS, the probe used plain text), "plain"
    (the reverse), "untrusted" (an untrusted certificate), "certificate" (the server ends TLS where it expects a client
    certificate), "broken tls". `detail` is a reason, or the first line of another protocol.
    """

    kind: str
    detail: str = ""


def address(server: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[::1]:port`. Raises UsageError for anything else."""
    try:
        parts = urlsplit(f"//{server}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.netloc != server or parts.username is not None:
        raise UsageError(f"{server!r}: not an address; expected host:port, such as localhost:8501")
    return host, port


def probe(server: str, tls: Tls | None, protocol: str, timeout: float) -> ProbeResult:
    """Identify the service at `server`, trying `protocol` first.

    `timeout` is in seconds, for each of a few connections; two at most for a server that doesn't respond. Raises
    UsageError for an invalid address and for invalid certificates.
    """
    host, port = address(server)
    prober = _Prober(host, port, timeout)
    first, second = (REST, GRPC) if protocol == REST else (GRPC, REST)
    try:
        if tls is None:
            return _plain(prober, first, second)
        return _encrypted(prober, context(tls), first, second)
    except (socket.gaierror, UnicodeError) as error:
        return ProbeResult("unknown host", getattr(error, "strerror", "") or "not a valid host name")
    except ConnectionRefusedError:
        return ProbeResult("refused")
    except OSError as error:
        return ProbeResult("unreachable", error.strerror or str(error))


@dataclass(frozen=True)
class _Prober:
    host: str
    port: int
    timeout: float

    def first_bytes(self, opening: bytes, tls: ssl.SSLContext | None = None) -> bytes | None:
        """Send `opening` and return the response's first bytes: b"" if the server hangs up, None after the timeout.

        Raises OSError if there is no connection, and ssl.SSLError if TLS fails.
        """
        end = time.monotonic() + self.timeout
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection((self.host, self.port), self.timeout))
            if tls is not None:
                # A server may also stay silent or hang up during the handshake.
                with _no_response() as outcome:
                    wrapped = tls.wrap_socket(connection, server_hostname=self.host)
                    connection = stack.enter_context(wrapped)
                if outcome:
                    return outcome[0]
            return _exchange(connection, opening, end)


@contextlib.contextmanager
def _no_response() -> Iterator[list[bytes | None]]:
    """Yield a list that gets None after a timeout, and b"" if the server hangs up."""
    outcome: list[bytes | None] = []
    try:
        yield outcome
    except TimeoutError:
        outcome.append(None)
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError):
        outcome.append(b"")


def _exchange(connection: socket.socket, opening: bytes, end: float) -> bytes | None:
    received = b""
    with _no_response() as outcome:
        connection.sendall(opening)
        while len(received) < _MOST_READ and (left := end - time.monotonic()) > 0:
            connection.settimeout(left)
            part = connection.recv(_MOST_READ)
            if not part:
                return received
            received += part
            if _protocol(received) in (REST, GRPC, "tls"):
                return received
    return received or (outcome[0] if outcome else None)


def _protocol(received: bytes) -> str:
    if received.startswith(b"HTTP/1."):
        return REST
    # A frame: 3 bytes of length, its type (SETTINGS), flags, stream 0.
    if (
        len(received) >= 9
        and received[3] == 4
        and int.from_bytes(received[:3]) % 6 == 0
        and not any(received[5:9])
    ):
        return GRPC
    if received[:2] == b"\x15\x03":
        return "tls"
    return "other"


def _plain(prober: _Prober, first: str, second: str) -> ProbeResult:
    received = prober.first_bytes(_OPENINGS[first])
    if received:
        return _identified(received)
    if _speaks_tls(prober):
        return ProbeResult("tls")
    if received is None:
        return ProbeResult("silent")
    return _identified(prober.first_bytes(_OPENINGS[second]), "closed")


def _encrypted(prober: _Prober, trusted: ssl.SSLContext, first: str, second: str) -> ProbeResult:
    received: bytes | None = b""
    try:
        for protocol in (first, second):
            trusted.set_alpn_protocols(_ALPN[protocol])
            received = prober.first_bytes(_OPENINGS[protocol], trusted)
            if received and (found := _protocol(received)) in (REST, GRPC):
                return ProbeResult(found)
            if received is None:
                break
    except ssl.SSLCertVerificationError as error:
        return ProbeResult("untrusted", error.verify_message)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        if "certificate required" in reason or "handshake failure" in reason:
            return ProbeResult("certificate", reason)
        return ProbeResult("broken tls", reason) if "alert" in reason else _without_tls(prober, first, reason)
    if received:
        return _identified(received)
    return ProbeResult("certificate") if _speaks_tls(prober) else _without_tls(prober, first, "")


def _without_tls(prober: _Prober, protocol: str, reason: str) -> ProbeResult:
    """Identify a server that doesn't respond to TLS by plain text. `reason` is why TLS failed, empty if unknown."""
    received = prober.first_bytes(_OPENINGS[protocol])
    if received and (found := _protocol(received)) in (REST, GRPC):
        return ProbeResult("plain", found)
    if received is None:
        return ProbeResult("silent")
    return _identified(received, "broken tls" if reason else "closed", reason)


def _identified(received: bytes | None, otherwise: str = "other", detail: str = "") -> ProbeResult:
    """Return the service that sent `received`, or `otherwise` if it sent nothing."""
    if not received:
        return ProbeResult(otherwise, detail)
    kind = _protocol(received)
    return ProbeResult(kind, received.split(b"\r\n")[0].decode("latin-1") if kind == "other" else "")


def _speaks_tls(prober: _Prober) -> bool:
    """Tell whether the server speaks TLS, trusted or not."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((prober.host, prober.port), prober.timeout) as connection,
            unverified.wrap_socket(connection, server_hostname=prober.host),
        ):
            return True
    except ssl.SSLError as error:
        # Only a TLS server sends a TLS alert.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
